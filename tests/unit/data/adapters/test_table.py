"""Tables of images: columns and their defaults, files elsewhere, and everything a table can get wrong."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stlm_core.data.adapters import Record, Scan, find_adapter
from stlm_core.data.adapters.base import printable, stays_inside
from stlm_core.errors import UserError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 6), 90).save(path)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with five images and two masks, for a table in it."""
    folder = tmp_path / "parts"
    for name in ("a.png", "b.png", "c.png", "cam 2/d.png", "cam 2/e.png", "masks/d.png", "masks/e.png"):
        photo(folder / name)
    return folder


def scan(folder: Path, text: str) -> Scan:
    table = folder / "parts.csv"
    table.write_text(text)
    return find_adapter("table").scan(table)


def refusal(folder: Path, text: str) -> str:
    """What is said of the table, without its name."""
    with pytest.raises(UserError) as caught:
        scan(folder, text)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'parts.csv'}: ")
    assert message.isprintable()
    return message.removeprefix(f"{folder / 'parts.csv'}: ")


FULL = """path,split,label,defect_type,mask_path,group
a.png,train,good,,,part-1
b.png,test,0,good,,part-2
cam 2/d.png,test,1,scratch,masks/d.png,part-3
cam 2/e.png,,bad,,masks/e.png,part-3
"""
FULL_RECORDS = (
    Record("a.png", "train", 0, "good", group="part-1"),
    Record("b.png", "test", 0, "good", group="part-2"),
    Record("cam 2/d.png", "test", 1, "scratch", "masks/d.png", group="part-3"),
    Record("cam 2/e.png", "test", 1, "defect", "masks/e.png", group="part-3"),
)


def test_all_columns(parts: Path) -> None:
    found = scan(parts, FULL)
    assert found.records == FULL_RECORDS
    assert found.ignored == {}


def test_path_alone_is_enough(parts: Path) -> None:
    assert scan(parts, "path\na.png\n./cam 2//d.png\n").records == (
        Record("a.png", "train", 0, "good"),
        Record("cam 2/d.png", "train", 0, "good"),
    )


def test_a_named_defect_needs_no_label(parts: Path) -> None:
    found = scan(parts, "defect_type,path\n,a.png\ngood,b.png\ndent,c.png\n").records
    assert [(record.split, record.label, record.defect_type) for record in found] == [
        ("train", 0, "good"),
        ("train", 0, "good"),
        ("test", 1, "dent"),
    ]


def test_masks_of_good_images_are_counted(parts: Path) -> None:
    found = scan(parts, "path,label,mask_path\na.png,ok,masks/d.png\nb.png,ok,\n")
    assert found.records[0].mask_path == ""
    assert found.ignored == {"mask of a good image": 1}


def test_what_spreadsheets_write(parts: Path) -> None:
    (parts / "parts.csv").write_bytes(
        b'\xef\xbb\xbfpath , label\r\n"a.png", GOOD \r\n\r\n"cam 2/d.png",NG\r\n'  # byte order mark, spaces, blank row
    )
    found = find_adapter("table").scan(parts / "parts.csv").records
    assert [(record.path, record.label) for record in found] == [("a.png", 0), ("cam 2/d.png", 1)]


def test_absolute_paths_inside_the_folder_are_its_own(parts: Path) -> None:
    (parts.parent / "link").symlink_to(parts)
    text = f"path\n{parts}/a.png\n{parts.parent}/link/b.png\n../parts/c.png\n"
    found = scan(parts, text).records
    assert found == tuple(Record(name, "train", 0, "good") for name in ("a.png", "b.png", "c.png"))


def test_files_elsewhere_get_a_place_of_their_own(parts: Path) -> None:
    one, two = photo(parts.parent / "x" / "a.png"), photo(parts.parent / "y" / "a.png")
    mask = photo(parts.parent / "x" / "mask.png")
    found = scan(parts, f"path,label,mask_path\na.png,,\n{one},bad,{mask}\n../y/a.png,,\n").records
    assert len({record.path for record in found}) == 3
    assert all(stays_inside(record.path) and not record.problem for record in found)
    sources = {record.source: record for record in found}
    assert set(sources) == {"", str(one), str(two)}
    assert not sources[""].must_be_imported
    masked = sources[str(one)]
    assert masked.mask_source == str(mask)
    assert masked.path.startswith("external/")
    assert masked.path.endswith("/a.png")
    assert masked.mask_path.startswith("external/")
    again = scan(parts, f"path\na.png\n{one}\n").records
    assert masked.path in {record.path for record in again}  # the same place in every import


def test_addresses_in_s3(parts: Path) -> None:
    text = "path,label,mask_path\ns3://line-1/2026/a.png,,\ns3://line-1/2027/a.png,bad,s3://masks.line/a b.png\n"
    good, bad = sorted(scan(parts, text).records, key=lambda record: record.label)
    assert good.source == "s3://line-1/2026/a.png"
    assert bad.mask_source == "s3://masks.line/a b.png"
    assert good.path != bad.path
    assert all(record.path.endswith("/a.png") and record.must_be_imported for record in (good, bad))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.png", "no such file"),
        ("../missing.png", "no such file"),
        ("notes.txt", "not an image by its name"),
        ("cam 2", "not a regular file"),
        ("../parts", "not a regular file"),
        ("out.png", "a link out of the folder"),
        ("s3://bucket/folder/..", "not an image by its name"),
        ("s3://bucket/readme", "not an image by its name"),
    ],
)
def test_files_that_cannot_be_used_are_problems_of_their_row(parts: Path, name: str, problem: str) -> None:
    (parts / "notes.txt").write_text("x")
    (parts / "out.png").symlink_to(photo(parts.parent / "secret.png"))
    found = [record for record in scan(parts, f"path\na.png\n{name}\n").records if record.problem]
    assert len(found) == 1
    assert found[0].problem.startswith(problem)
    assert stays_inside(found[0].path)
    masked = scan(parts, f"path,label,mask_path\na.png,,\nb.png,1,{name}\n").records[1]
    assert masked.problem.startswith(f"its mask {name}: {problem}")
    assert masked.mask_path == ""


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \n"])
def test_a_spreadsheet_s_own_separator_and_capitals_are_understood(parts: Path, separator: str, start: str) -> None:
    text = start + "Path,LABEL,mask_path\na.png,1,masks/d.png\nb.png,0,\n".replace(",", separator)
    records = scan(parts, text).records
    assert [(record.path, record.label, record.mask_path) for record in records] == [
        ("a.png", 1, "masks/d.png"),
        ("b.png", 0, ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; the first row must name the columns"),
        ("\n\n", "empty; the first row must name the columns"),
        (
            "image,label\na.png,0\n",
            "no column `path` among image, label; known columns: path, split, label, defect_type, mask_path",
        ),
        ("path,lable\na.png,0\n", "unknown column 'lable'; known columns: path, split"),
        ("path,path\na.png,a.png\n", "column 'path' occurs twice"),
        ("path,label\na.png\n", "row 2: 1 values, 2 are needed"),
        ("path,label\na.png,0\n,1\n", "row 3: no path"),
        ("path,label\na.png,maybe\n", "row 2: label 'maybe', it must be good or 0, bad or 1, or empty"),
        ("path,split\na.png,val\n", "row 2: split 'val', it must be train, test or empty"),
        ("path,split,label\na.png,train,bad\n", "row 2: a defective image for training"),
        ("path,label,defect_type\na.png,good,dent\n", "row 2: label 'good' contradicts defect_type 'dent'"),
        ("path,label,defect_type\na.png,bad,good\n", "row 2: label 'bad' contradicts defect_type 'good'"),
        ("path,defect_type\na.png,a/b\n", "row 2: defect_type 'a/b' with a slash"),
        ("path,mask_path\na.png,masks/d.png\n", "row 2: a mask, but neither label nor defect_type"),
        ("path,label,mask_path\na.png,1,a.png\n", "row 2: mask_path is the image itself"),
        ("path\na.png\nb.png\n./a.png\n", "row 4: ./a.png is in row 2 already"),
        ("path\ns3://line/a.png\ns3://line/a.png\n", "row 3: s3://line/a.png is in row 2 already"),
        ('path\n"a\nb.png"\n', "row 3: control characters in `path`"),
        ("path,group\na.png,\x1b[31m\n", "row 2: control characters in `group`"),
        ('path\n"a.png\n', "row 2: cannot be read as CSV: unexpected end of data"),
        ("path\nhttps://example.org/a.png\n", "row 2: an address that is not s3://bucket/key; download the file first"),
        ("path\ns3://Bucket_/a.png\n", "row 2: not an S3 address; it must be s3://bucket/key"),
        ("path\ns3://bucket\n", "row 2: not an S3 address"),
    ],
)
def test_wrong_tables_are_refused_with_the_row(parts: Path, text: str, message: str) -> None:
    assert refusal(parts, text).startswith(message)


def test_a_password_in_an_address_is_not_shown(parts: Path) -> None:
    assert "hunter2" not in refusal(parts, "path\ns3://key:hunter2@bucket/a.png\n")


def test_undecodable_text_and_missing_tables(parts: Path) -> None:
    (parts / "latin.csv").write_bytes("path\nprüf.png\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: cannot be read as CSV: 'utf-8' codec"):
        find_adapter("table").scan(parts / "latin.csv")
    with pytest.raises(UserError, match=r"none\.csv: no such table"):
        find_adapter("table").scan(parts / "none.csv")
    with pytest.raises(UserError, match=r"a\.png: not a table; it must be a \.csv or a \.parquet file"):
        find_adapter("table").scan(parts / "a.png")
    with pytest.raises(UserError, match="this format has no categories"):
        find_adapter("table").scan(parts / "latin.csv", "bottle")


def test_a_folder_holds_one_table_of_a_known_name(parts: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.csv, manifest\.parquet, images\.csv or images\.parquet; name"):
        find_adapter("table").scan(parts)
    (parts / "manifest.csv").write_text(FULL)
    assert find_adapter("table").scan(parts).records == FULL_RECORDS
    (parts / "images.csv").write_text(FULL)
    with pytest.raises(UserError, match=r"both manifest\.csv and images\.csv; name the table itself"):
        find_adapter("table").scan(parts)


def test_only_defective_images(parts: Path) -> None:
    assert refusal(parts, "path,label\na.png,1\n").startswith("no good training images found")


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "parts.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_says_the_same(parts: Path) -> None:
    head, *rows = [line.split(",") for line in FULL.splitlines()]
    columns = {name: [row[index] or None for row in rows] for index, name in enumerate(head)}
    assert find_adapter("table").scan(parquet(parts, **columns)).records == FULL_RECORDS


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([0, 1], pa.int8()),
        pa.array([False, True]),
        pa.array([None, 1.0], pa.float64()),
        pa.array([float("nan"), 1.0]),
        pa.array(["good", "bad"]).dictionary_encode(),
    ],
)
def test_labels_of_other_types(parts: Path, labels: pa.Array) -> None:
    found = find_adapter("table").scan(parquet(parts, path=["a.png", "b.png"], label=labels)).records
    assert [record.label for record in found] == [0, 1]


@pytest.mark.parametrize("label", [pa.array([0.5]), pa.array([[1]]), pa.array([b"\xff"]), pa.array([{"a": 1}])])
def test_values_that_are_no_text(parts: Path, label: pa.Array) -> None:
    with pytest.raises(UserError, match=r"parts\.parquet: row 1: `label` is neither text nor a whole number"):
        find_adapter("table").scan(parquet(parts, path=["a.png"], label=label))


def test_damaged_parquet(parts: Path) -> None:
    path = parquet(parts, path=["a.png", "b.png"], label=["0", "1"])
    stored = path.read_bytes()
    for damaged in (b"", b"PAR1", stored[:-20], stored[:4] + b"\xff" * 40 + stored[44:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"parts\.parquet: cannot be read as Parquet: \S") as caught:
            find_adapter("table").scan(path)
        assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_table_is_read_or_refused(data: st.DataObject) -> None:
    names = ["path", "split", "label", "defect_type", "mask_path", "group"]
    cells = st.sampled_from(
        ["", "a.png", "../a.png", "/etc/a.png", "s3://bucket/a.png", "train", "test", "good", "1", "dent", '"', "\0"]
    ) | st.text(max_size=8)
    columns = data.draw(st.lists(st.sampled_from(names), unique=True).map(lambda drawn: ["path", *drawn]))
    columns = list(dict.fromkeys(columns))
    rows = data.draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=4))
    text = "\n".join(",".join(row) for row in [columns, *rows]) + "\n"
    junk = data.draw(st.just(b"") | st.binary(max_size=8))
    check("parts.csv", text.encode("utf-8", "surrogatepass") + junk)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_a_parquet_file_is_survived(data: st.DataObject) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["0", "1"]}), sink)
    stored = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    check("parts.parquet", bytes(stored[: data.draw(st.integers(len(stored) - 50, len(stored)))]))


def test_messages_show_no_bytes_of_a_damaged_file() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "label": ["0", "1"]}), sink)
    stored = sink.getvalue().to_pybytes()
    for index in range(len(stored)):
        check("parts.parquet", stored[:index] + b"\x0e" + stored[index + 1 :])


def check(name: str, stored: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.path.realpath(folder))
        (root / name).write_bytes(stored)
        (root / "a.png").write_bytes(b"never decoded")
        records, refused = (), ""
        try:
            records = find_adapter("table").scan(root / name).records
        except UserError as error:
            refused = str(error)
        assert printable(refused) == refused
        assert len({record.path for record in records}) == len(records)
        for record in records:
            for path in filter(None, (record.path, record.mask_path)):
                assert stays_inside(path)
                assert printable(path) == path
            if not record.problem and not record.source:
                assert (root / record.path).resolve().is_relative_to(root)
