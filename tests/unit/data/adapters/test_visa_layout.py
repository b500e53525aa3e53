"""VisA: the split table is the dataset, and it is as untrusted as any file."""

from __future__ import annotations

from pathlib import Path

import pytest
import replicas

from stlm_core.data.adapters import Record, Scan, find_adapter
from stlm_core.errors import UserError

HEADER = "object,split,label,image,mask"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return replicas.visa(tmp_path / "visa")


def scan(root: Path, category: str = "candle") -> Scan:
    return find_adapter("visa").scan(root, category)


def add_row(root: Path, row: str) -> None:
    with (root / "split_csv" / "1cls.csv").open("a") as table:
        table.write(row + "\n")


def problems(root: Path) -> dict[str, str]:
    return {record.path: record.problem for record in scan(root).records if record.problem}


def test_layout(root: Path) -> None:
    found = scan(root)
    anomaly, mask = "candle/Data/Images/Anomaly/00{}.JPG", "candle/Data/Masks/Anomaly/00{}.png"
    normal = "candle/Data/Images/Normal/000{}.JPG"
    assert found.records == (
        Record(anomaly.format(0), "test", 1, "hole", mask.format(0)),
        Record(anomaly.format(1), "test", 1, "hole + spot", mask.format(1)),
        *(Record(normal.format(index), "train", 0, "good") for index in range(4)),
        Record(normal.format(4), "test", 0, "good"),
    )
    assert found.ignored == {"not an image": 1}


def test_category_must_be_one_of_the_objects(root: Path) -> None:
    with pytest.raises(UserError, match="several categories; choose one with --category: candle, pcb1"):
        find_adapter("visa").scan(root)
    with pytest.raises(UserError, match=r"no category 'cashew' \(there are: candle, pcb1\)"):
        scan(root, "cashew")


def test_without_types_the_defect_is_an_anomaly(root: Path) -> None:
    (root / "candle" / "image_anno.csv").unlink()
    assert {record.defect_type for record in scan(root).records} == {"good", "anomaly"}


def test_byte_order_mark_and_unix_line_ends(root: Path) -> None:
    table = root / "split_csv" / "1cls.csv"
    before = scan(root)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\r\n", b"\n"))
    assert scan(root) == before


def test_defective_training_images_are_passed_over(root: Path) -> None:
    table = root / "split_csv" / "1cls.csv"
    table.write_text(table.read_text().replace("candle,test,anomaly", "candle,train,anomaly"))
    found = scan(root)
    assert all(record.label == 0 for record in found.records)
    assert found.ignored == {"defective, in the training split": 2, "not an image": 1}


def test_images_that_no_row_names_are_counted(root: Path) -> None:
    replicas.picture(root / "candle" / "Data" / "Images" / "Normal" / "0099.JPG")
    assert scan(root).ignored == {"not an image": 1, "outside the layout": 1}


def test_missing_files_are_problems_of_their_rows(root: Path) -> None:
    (root / "candle/Data/Images/Normal/0001.JPG").unlink()
    (root / "candle/Data/Masks/Anomaly/001.png").unlink()
    assert problems(root) == {
        "candle/Data/Images/Normal/0001.JPG": "no such file (split_csv/1cls.csv: row 3)",
        "candle/Data/Images/Anomaly/001.JPG": (
            "its mask candle/Data/Masks/Anomaly/001.png: no such file (split_csv/1cls.csv: row 8)"
        ),
    }


@pytest.mark.parametrize("trick", ["../secret.png", "/etc/hostname", "candle/../../secret.png", "."])
def test_paths_out_of_the_folder_are_problems(root: Path, trick: str) -> None:
    replicas.picture(root.parent / "secret.png")
    replicas.picture(root / "candle" / "extra.png")
    add_row(root, f"candle,train,normal,{trick},")
    add_row(root, f"candle,test,anomaly,candle/extra.png,{trick}")
    found = problems(root)
    assert found["split_csv/1cls.csv/row 16"] == f"the image {trick!r} leads out of the folder"
    assert found["candle/extra.png"] == f"its mask {trick}: leads out of the folder (split_csv/1cls.csv: row 17)"
    assert len(found) == 2


def test_links_out_of_the_folder_and_folders_are_problems(root: Path) -> None:
    images = root / "candle" / "Data" / "Images"
    (images / "Normal" / "0001.JPG").unlink()
    (images / "Normal" / "0001.JPG").symlink_to(replicas.picture(root.parent / "secret.jpg"))
    (root / "deep").symlink_to(root.parent)
    add_row(root, "candle,train,normal,deep/secret.jpg,")
    add_row(root, "candle,train,normal,candle/Data,")
    found = problems(root)
    assert "a link out of the folder" in found["candle/Data/Images/Normal/0001.JPG"]
    assert "a link out of the folder" in found["deep/secret.jpg"]
    assert found["candle/Data"] == "not a regular file (split_csv/1cls.csv: row 17)"


def test_tables_that_contradict_each_other(root: Path) -> None:
    table = root / "candle" / "image_anno.csv"
    text = table.read_text().replace("Normal/0002.JPG,normal", "Normal/0002.JPG,hole")
    table.write_text(text.replace("Anomaly/000.JPG,hole", "Anomaly/000.JPG,normal"))
    found = {record.path: record for record in scan(root).records if record.problem}
    poisoned = found["candle/Data/Images/Normal/0002.JPG"]
    assert poisoned.problem == "split_csv/1cls.csv says normal, image_anno.csv says 'hole'"
    assert (poisoned.split, poisoned.label) == ("test", 1)
    assert "says anomaly, image_anno.csv says 'good'" in found["candle/Data/Images/Anomaly/000.JPG"].problem
    assert len(found) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,train,normal", "3 values, 5 are needed"),
        ("candle,val,normal,a.JPG,", "split 'val', it must be train or test"),
        ("candle,train,good,a.JPG,", "label 'good', it must be normal or anomaly"),
        ("candle,train,normal,,", "no image"),
        ("../x,train,normal,a.JPG,", r"object '\.\./x' is not the name of a folder"),
        (",train,normal,a.JPG,", "object '' is not the name of a folder"),
        (
            "candle,test,normal,candle/Data//Images/Normal/./0000.JPG,",
            "candle/Data/Images/Normal/0000.JPG is in row 2 already",
        ),
        ('candle,train,normal,"a.JPG,', "cannot be read as CSV"),
    ],
)
def test_broken_rows_are_named(root: Path, row: str, message: str) -> None:
    add_row(root, row)
    with pytest.raises(UserError, match=rf"split_csv/1cls\.csv: row 16: {message}"):
        scan(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"object,split,label,image\n", "row 1: no column mask"),
        (b"", "no rows"),
        (HEADER.encode(), "no rows"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
        (HEADER.encode() + b"\na,b\x00c,d,e,f\n", "row 2: (cannot be read as CSV|split)"),
    ],
)
def test_tables_that_are_none(root: Path, content: bytes, message: str) -> None:
    (root / "split_csv" / "1cls.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"1cls\.csv: {message}"):
        scan(root)


def test_broken_types_are_named(root: Path) -> None:
    table = root / "candle" / "image_anno.csv"
    with table.open("a") as stream:
        stream.write("candle/x.JPG,\n")
    with pytest.raises(UserError, match=r"image_anno\.csv: row 9: 2 values, 3 are needed"):
        scan(root)
    table.write_text("image,label,mask\ncandle/x.JPG,,\n")
    with pytest.raises(UserError, match=r"image_anno\.csv: row 2: no label"):
        scan(root)
