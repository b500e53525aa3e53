"""The manifest: what it lists, how it is stored, and what is refused when it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stlm_core.config import LineConfig
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import SCHEMA, SPLITS, Manifest, ManifestRow, build_manifest
from stlm_core.errors import UserError
from stlm_core.files import sha256_file

Configure = Callable[..., LineConfig]
ROW = ManifestRow("a.png", "train", 0, "good", "", "", "0" * 64, 10, 4, 3, "RGB")


def stored(tmp_path: Path, **changes: list[object]) -> Path:
    """A manifest of two rows with some columns replaced."""
    rows = [ROW, replace(ROW, path="b.png")]
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns.update(changes)
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns, schema=SCHEMA), path)
    return path


def test_rows_of_a_line(line_folder: Path, configure: Configure) -> None:
    manifest = build_manifest(configure(line_folder))
    assert [row.path for row in manifest.rows] == sorted(row.path for row in manifest.rows)
    assert {split: len(manifest.split(split)) for split in SPLITS} == {
        "train": 17, "validation": 2, "calibration": 5, "test": 6,
    }  # fmt: skip
    assert len(manifest.train() + manifest.validation() + manifest.calibration() + manifest.test()) == 30
    row = manifest.test()[0]
    assert (row.path, row.label, row.defect_type) == ("test/dent/000.png", 1, "dent")
    assert (row.width, row.height, row.mode) == (48, 40, "RGB")
    assert manifest.image_path(row) == line_folder / "test" / "dent" / "000.png"
    assert manifest.mask_path(row) == line_folder / "ground_truth" / "dent" / "000_mask.png"
    assert manifest.mask_path(manifest.train()[0]) is None
    assert row.sha256 == sha256_file(manifest.image_path(row))


def test_bytes_do_not_depend_on_the_place_or_the_run(line_folder: Path, configure: Configure, tmp_path: Path) -> None:
    first = build_manifest(configure(line_folder))
    moved = tmp_path / "moved"
    shutil.copytree(line_folder, moved)
    second = build_manifest(configure(moved))
    assert first.to_bytes() == second.to_bytes()
    assert first.digest() == second.digest()
    first.write(tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet", moved) == second


def test_a_changed_image_changes_the_digest(line_folder: Path, configure: Configure) -> None:
    before = build_manifest(configure(line_folder))
    Image.new("RGB", (48, 40)).save(line_folder / "test" / "good" / "000.png")
    after = build_manifest(configure(line_folder))
    assert before.digest() != after.digest()
    assert [row.split for row in before.rows] == [row.split for row in after.rows]


def test_all_unusable_files_are_reported_together(line_folder: Path, configure: Configure) -> None:
    for index in range(12):
        (line_folder / "train" / "good" / f"{index:03d}.png").write_bytes(b"broken")
    with pytest.raises(UserError) as refused:
        build_manifest(configure(line_folder))
    message = str(refused.value)
    assert "12 in all" in message
    assert "train/good/009.png" in message
    assert "train/good/010.png" not in message
    assert message.endswith("and 2 more")


def test_groups_from_file_names(line_folder: Path, configure: Configure) -> None:
    manifest = build_manifest(configure(line_folder, group_pattern=r"^\d(\d)"))
    sides: dict[str, set[str]] = {}
    for row in manifest.train() + manifest.validation() + manifest.calibration():
        sides.setdefault(row.group, set()).add(row.split)
    assert set(sides) == {"0", "1", "2"}
    assert all(len(side) == 1 for side in sides.values())


def test_groups_from_a_table(line_folder: Path, configure: Configure, tmp_path: Path) -> None:
    names = [
        path.relative_to(line_folder).as_posix() for path in line_folder.rglob("*.png") if "ground" not in str(path)
    ]
    table = tmp_path / "groups.csv"
    table.write_text("path,group\n" + "".join(f"{name},{'T' if 'test' in name else name[-5]}\n" for name in names))
    manifest = build_manifest(configure(line_folder, group_file="groups.csv"))
    assert {row.group for row in manifest.test()} == {"T"}
    assert len({row.group for row in manifest.rows}) == 11


def test_an_image_without_a_group_is_reported(line_folder: Path, configure: Configure) -> None:
    with pytest.raises(UserError, match=r"`data.group_pattern` or `data.group_file` gives it no group"):
        build_manifest(configure(line_folder, group_pattern=r"part(\d+)"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,part\na,1\n", "first row must be"),
        ("path,group\na.png\n", "row 2"),
        ("path,group\na.png,1\na.png,2\n", "row 3"),
        ("path,group\na.png,\n", "row 2"),
    ],
)
def test_bad_group_tables(line_folder: Path, configure: Configure, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(UserError, match=reason):
        build_manifest(configure(line_folder, group_file="groups.csv"))


def test_missing_group_table(line_folder: Path, configure: Configure) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv: cannot be read"):
        build_manifest(configure(line_folder, group_file="nowhere.csv"))


def test_empty_mask_and_missing_mask(line_folder: Path, configure: Configure) -> None:
    truth = line_folder / "ground_truth" / "dent"
    Image.new("L", (48, 40)).save(truth / "000_mask.png")
    (truth / "001_mask.png").unlink()
    found = {row.path: row.mask_problem for row in inspect_line(configure(line_folder)).rows if row.mask_problem}
    assert found == {
        "test/dent/000.png": "ground_truth/dent/000_mask.png: no pixel of the mask is above 0",
        "test/dent/001.png": "no mask",
    }
    relaxed = inspect_line(configure(line_folder, validate={"require_masks": False}))
    assert [row.path for row in relaxed.rows if row.mask_problem] == ["test/dent/000.png"]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=["Cs", "Cc"]), min_size=1
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=30, deadline=None)
@given(
    paths=st.lists(NAMES, min_size=1, max_size=8, unique=True),
    split=st.sampled_from(SPLITS),
    group=st.text(max_size=5).filter(lambda text: "\ud800" not in text),
    size=st.integers(1, 2**40),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], split: str, group: str, size: int
) -> None:
    root = tmp_path_factory.mktemp("m")
    measured = {"phash": "0f" * 8, "brightness": 0.1, "contrast": 0.2, "sharpness": 3e5, "saturated": 1 / 3}
    rows = tuple(
        replace(ROW, path=path, split=split, group=group, bytes=size, mask_sha256="1" * 64, **measured)
        for path in sorted(paths)
    )
    manifest = Manifest(root, rows)
    manifest.write(root / "m.parquet")
    assert Manifest.read(root / "m.parquet", root) == manifest


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(UserError, match=r"no such file; `stlm validate` makes it"):
        Manifest.read(path, tmp_path)
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match="not a Parquet file"):
        Manifest.read(path, tmp_path)
    pq.write_table(pa.table({"path": ["a.png"]}), path)
    with pytest.raises(UserError, match="not a manifest of this version"):
        Manifest.read(path, tmp_path)


def test_manifest_of_the_first_version_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table.select(table.column_names[:11]), path)
    with pytest.raises(UserError, match=r"not a manifest of this version: .*run `stlm validate` again"):
        Manifest.read(path, tmp_path)


def test_more_rows_than_a_row_group(tmp_path: Path) -> None:
    rows = tuple(replace(ROW, path=f"{number:06d}.png", split=SPLITS[number % 4]) for number in range(40_000))
    manifest = Manifest(tmp_path, rows)
    manifest.write(tmp_path / "m.parquet")
    assert pq.ParquetFile(tmp_path / "m.parquet").num_row_groups == 3
    assert Manifest.read(tmp_path / "m.parquet", tmp_path) == manifest


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split": ["train", "holdout"]}, "unknown split 'holdout'"),
        ({"label": [0, 2]}, "label 2"),
        ({"label": [0, 1]}, "label 1 in split train"),
        ({"path": ["b.png", "a.png"]}, "out of order"),
        ({"path": ["a.png", "a.png"]}, "out of order or repeated"),
        ({"path": ["../secret.png", "a.png"]}, "leaves the data folder"),
        ({"path": ["/etc/passwd", "a.png"]}, "leaves the data folder"),
        ({"mask_path": ["", "x/../../m.png"]}, "leaves the data folder"),
    ],
)
def test_values_no_manifest_has(tmp_path: Path, changes: dict[str, list[object]], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Manifest.read(stored(tmp_path, **changes), tmp_path)


@pytest.mark.parametrize(
    ("folder", "data", "counts"),
    [
        ("mvtec_ad/bottle", {}, {"train": 146, "validation": 21, "calibration": 42, "test": 83}),
        ("magnetic_tile", {}, {"train": 535, "validation": 76, "calibration": 153, "test": 576}),
    ],
)
def test_real_lines(
    datasets_root: Path, configure: Configure, folder: str, data: dict[str, str], counts: dict[str, int]
) -> None:
    if not (datasets_root / folder).is_dir():
        pytest.skip(f"{folder} not found in {datasets_root}")
    manifest = build_manifest(configure(datasets_root / folder, **data))
    assert {split: len(manifest.split(split)) for split in SPLITS} == counts
    anomalous = [row for row in manifest.rows if row.label]
    assert all(row.mask_path for row in anomalous)
