"""ELPV: the labels, the kinds of cells, and the real photographs where the package is installed."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.adapters.base import stays_inside
from stlm_core.data.adapters.held_out import held_out
from stlm_core.data.images import image_size
from stlm_core.errors import UserError

PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Forty cells, ten of each probability, every other one poly, as the package stores them."""
    root = tmp_path / "elpv_dataset" / "data"
    (root / "images").mkdir(parents=True)
    rows = []
    for index in range(40):
        name = f"images/cell{index + 1:04d}.png"
        Image.new("L", (30, 30), index).save(root / name)
        rows.append(f"{name}  {PROBABILITIES[index % 4]:<20} {'poly' if index // 4 % 2 else 'mono'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_labels_become_types_and_uncertain_cells_are_passed_over(cells: Path) -> None:
    scan = find_adapter("elpv").scan(cells, "all")
    assert Counter(record.defect_type for record in scan.records) == {"good": 10, "likely": 10, "certain": 10}
    assert scan.ignored == {"uncertain label": 10}
    by_path = {record.path: record for record in scan.records}
    assert by_path["images/cell0003.png"] == Record("images/cell0003.png", "test", 1, "likely")
    assert by_path["images/cell0004.png"] == Record("images/cell0004.png", "test", 1, "certain")
    good = [record for record in scan.records if not record.label]
    assert {record.path: record.split for record in good} == {
        record.path: "test" if held_out(Path(record.path).name) else "train" for record in good
    }


def test_kinds_of_cells_are_categories(cells: Path) -> None:
    with pytest.raises(UserError, match="several categories; choose one with --category: all, mono, poly"):
        find_adapter("elpv").scan(cells)
    mono, poly = (find_adapter("elpv").scan(cells, kind) for kind in ("mono", "poly"))
    assert len(mono.records) == len(poly.records) == 15
    assert mono.ignored == poly.ignored == {"uncertain label": 5}
    assert not {record.path for record in mono.records} & {record.path for record in poly.records}


def test_the_package_and_what_it_is_installed_in_do_too(cells: Path) -> None:
    splits = {}
    for home, prefix in ((cells, ""), (cells.parent, "data/"), (cells.parents[1], "elpv_dataset/data/")):
        records = find_adapter("elpv").scan(home, "all").records
        assert all((home / record.path).is_file() for record in records)
        splits[prefix] = {record.path.removeprefix(prefix): record.split for record in records}
    assert splits[""] == splits["data/"] == splits["elpv_dataset/data/"]


def test_rounded_probabilities_and_windows_line_ends(cells: Path) -> None:
    text = (cells / "labels.csv").read_text()
    for long, short in (("0.3333333333333333", "0.333"), ("0.6666666666666666", "0.667"), ("\n", "\r\n")):
        text = text.replace(long, short)
    (cells / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(find_adapter("elpv").scan(cells, "all").records) == 30


def test_missing_and_unlisted_files(cells: Path) -> None:
    (cells / "images" / "cell0001.png").unlink()
    Image.new("L", (30, 30)).save(cells / "images" / "new.png")
    scan = find_adapter("elpv").scan(cells, "all")
    assert {record.path: record.problem for record in scan.records if record.problem} == {
        "images/cell0001.png": "no such file"
    }
    assert scan.ignored["outside the layout"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/a.png 0.0", "row 41: 2 values, three are needed"),
        ("images/a.png 0.0 thin", "row 41: type 'thin', it must be mono or poly"),
        ("images/a.png 0.5 mono", "row 41: probability '0.5', it must be 0, 1/3, 2/3 or 1"),
        ("images/a.png nan mono", "row 41: probability 'nan'"),
        ("images/a.png high mono", "row 41: probability 'high'"),
        ("images/cell0001.png 0.0 mono", "row 41: images/cell0001.png is in row 1 already"),
        ("../../secret.png 0.0 mono", r"row 41: '../../secret.png' leads out of the folder"),
        ("/etc/passwd 1.0 mono", "row 41: '/etc/passwd' leads out of the folder"),
    ],
)
def test_wrong_rows_are_named(cells: Path, row: str, message: str) -> None:
    with (cells / "labels.csv").open("a") as stream:
        stream.write(f"{row}\n")
    with pytest.raises(UserError, match=f"^{cells}/labels.csv: {message}"):
        find_adapter("elpv").scan(cells, "all")


def test_no_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file labels\.csv; wrong folder or wrong --format\?"):
        find_adapter("elpv").scan(tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet="/.\\ \t\n\r\0monply01ag-ie+\u00e9\u2028", max_size=60).map(str.encode),
    )
)
def test_any_labels_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "labels.csv").write_bytes(b"images/a.png 0 mono\n" + content)
        try:
            records = find_adapter("elpv").scan(Path(folder), "all").records
        except UserError:
            return
        assert len({record.path for record in records}) == len(records)
        assert all(stays_inside(record.path) for record in records)


@pytest.fixture
def real_cells() -> Path:
    if "STLM_ELPV" in os.environ:
        return Path(os.environ["STLM_ELPV"])
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no ELPV: pip install --no-deps elpv-dataset==1.0.0.post1, or set STLM_ELPV to its folder")
    return Path(package.submodule_search_locations[0])


def test_real_cells(real_cells: Path) -> None:
    scan = find_adapter("elpv").scan(real_cells, "all")
    assert Counter((record.split, record.defect_type) for record in scan.records) == {
        ("train", "good"): 1184,
        ("test", "good"): 324,
        ("test", "likely"): 106,
        ("test", "certain"): 715,
    }
    assert scan.ignored == {"uncertain label": 295}
    assert not any(record.problem for record in scan.records)
    root = real_cells.resolve()
    assert {image_size(root / record.path) for record in scan.records} == {(300, 300)}
