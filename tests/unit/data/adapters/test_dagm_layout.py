"""DAGM 2007: label files, ``Labels.txt``, and defective images in the training folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import replicas

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return replicas.dagm(tmp_path / "dagm")


def test_layout(root: Path) -> None:
    scan = find_adapter("dagm").scan(root, "Class10")
    assert scan.records == (
        Record("Class10/Test/0001.PNG", "test", 0, "good"),
        Record("Class10/Test/0002.PNG", "test", 1, "defect", "Class10/Test/Label/0002_label.PNG"),
        *(Record(f"Class10/Test/000{number}.PNG", "test", 0, "good") for number in (3, 4, 5)),
        *(Record(f"Class10/Train/0{number}.PNG", "train", 0, "good") for number in (576, 578, 579, 580)),
    )
    assert scan.ignored == {"defective, in the training folder": 1, "not an image": 2}


def test_categories(root: Path) -> None:
    with pytest.raises(UserError, match="choose one with --category: Class1, Class10"):
        find_adapter("dagm").scan(root)
    single = find_adapter("dagm").scan(root / "Class1")
    assert [f"Class1/{record.path}" for record in single.records] == [
        record.path for record in find_adapter("dagm").scan(root, "Class1").records
    ]


def test_lower_case_suffixes_and_no_table(root: Path) -> None:
    for path in (root / "Class1" / "Test").rglob("*.PNG"):
        path.rename(path.with_suffix(".png"))
    (root / "Class1" / "Test" / "Label" / "Labels.txt").unlink()
    records = find_adapter("dagm").scan(root, "Class1").records
    assert [record.mask_path for record in records if record.label] == ["Class1/Test/Label/0002_label.png"]


def test_image_that_only_the_table_calls_defective_is_never_learnt_from(root: Path) -> None:
    for part, number in (("Train", "0577"), ("Test", "0002")):
        (root / "Class1" / part / "Label" / f"{number}_label.PNG").unlink()
    scan = find_adapter("dagm").scan(root, "Class1")
    assert scan.ignored["defective, in the training folder"] == 1
    assert "Class1/Train/0577.PNG" not in {record.path for record in scan.records}
    assert Record("Class1/Test/0002.PNG", "test", 1, "defect") in scan.records


def test_label_without_its_image(root: Path) -> None:
    replicas.mask(root / "Class1" / "Train" / "Label" / "0999_label.PNG")
    (record,) = (record for record in find_adapter("dagm").scan(root, "Class1").records if record.problem)
    assert record.path == "Class1/Train/Label/0999_label.PNG"
    assert record.problem == "mask without its image Train/0999.*"
    assert record.split == "test"


def test_ambiguous_names_and_links(root: Path) -> None:
    test = root / "Class1" / "Test"
    replicas.picture(test / "0002.bmp", "L")
    (test / "0009.PNG").symlink_to(replicas.picture(root.parent / "outside.png"))
    found = {r.path: r.problem for r in find_adapter("dagm").scan(root, "Class1").records if r.problem}
    assert set(found) == {f"Class1/Test/{name}" for name in ("0002.PNG", "0002.bmp", "0009.PNG")}
    assert "ambiguous" in found["Class1/Test/0002.bmp"]
    assert "a link out of the folder" in found["Class1/Test/0009.PNG"]


def test_training_alone_is_enough(root: Path) -> None:
    for path in sorted((root / "Class1" / "Test").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "Class1" / "Test").rmdir()
    assert {record.split for record in find_adapter("dagm").scan(root, "Class1").records} == {"train"}


def test_table_of_junk_says_nothing(root: Path) -> None:
    (root / "Class1" / "Test" / "Label" / "Labels.txt").write_bytes(b"\xff\x00\n1\t1\n\t\t\n\xef\xbb\xbf1")
    records = find_adapter("dagm").scan(root, "Class1").records
    assert sum(record.label for record in records) == 1
