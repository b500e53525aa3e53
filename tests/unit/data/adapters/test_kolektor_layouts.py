"""KolektorSDD and KolektorSDD2: the mask decides whether an image is good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import replicas
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.errors import UserError


def scan(layout: str, root: Path) -> dict[str, Record]:
    return {record.path: record for record in find_adapter(layout).scan(root).records}


def test_kolektor_defective_ones_and_a_share_of_the_good_are_for_the_test(tmp_path: Path) -> None:
    records = scan("kolektor", replicas.kolektor(tmp_path))
    assert len(records) == 40
    defective = {path: record for path, record in records.items() if record.label}
    assert defective == {
        f"kos0{item}/Part{item}.jpg": Record(
            f"kos0{item}/Part{item}.jpg", "test", 1, "defect", f"kos0{item}/Part{item}_label.bmp"
        )
        for item in range(1, 6)
    }
    good = [record for record in records.values() if not record.label]
    assert all(record == Record(record.path, record.split, 0, "good") for record in good)
    # Those of the 35 good paths whose sha256, without the suffix, starts with less than 0.2 * 2**64, worked out apart.
    assert [record.path for record in good if record.split == "test"] == [
        "kos02/Part6.jpg",
        "kos03/Part1.jpg",
        "kos03/Part4.jpg",
        "kos03/Part6.jpg",
        "kos05/Part2.jpg",
    ]


def test_kolektor_split_depends_on_nothing_but_the_names(tmp_path: Path) -> None:
    before = scan("kolektor", replicas.kolektor(tmp_path / "a"))
    replicas.kolektor(tmp_path / "b")
    for number in range(400):
        replicas.picture(tmp_path / "b" / "kos06" / f"Part{number}.jpg", "L")
        replicas.mask(tmp_path / "b" / "kos06" / f"Part{number}_label.bmp", 0)
    after = scan("kolektor", tmp_path / "b")
    assert {path: record for path, record in after.items() if path in before} == before
    share = np.mean([record.split == "test" for path, record in after.items() if path.startswith("kos06/")])
    assert 0.14 < share < 0.26


def test_kolektor_counts_what_is_outside(tmp_path: Path) -> None:
    replicas.kolektor(tmp_path)
    replicas.picture(tmp_path / "other" / "Part0.jpg")
    (tmp_path / "kos01" / "Thumbs.db").write_bytes(b"x")
    assert find_adapter("kolektor").scan(tmp_path).ignored == {"hidden": 1, "outside the layout": 1}


@pytest.mark.parametrize(("layout", "image", "mask"), [
    ("kolektor", "kos01/Part0.jpg", "kos01/Part0_label.bmp"),
    ("kolektor2", "train/10300.png", "train/10300_GT.png"),
])  # fmt: skip
def test_masks_that_cannot_tell_are_problems(tmp_path: Path, layout: str, image: str, mask: str) -> None:
    def problem() -> str:
        record = scan(layout, tmp_path)[image]
        assert (record.split, record.label) == ("test", 1), "never learnt from"
        return record.problem

    replicas.REPLICAS[layout](tmp_path)
    path = tmp_path / mask
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert problem().startswith(f"its mask {mask}: damaged or truncated image")
    path.write_bytes(b"no image")
    assert problem().startswith(f"its mask {mask}: not an image")
    path.unlink()
    assert problem() == f"no mask {Path(mask).stem}.*, which would tell whether it is good"
    path.symlink_to(replicas.mask(tmp_path.parent / f"{tmp_path.name}.png"))
    assert f"its mask {mask}: a link out of the folder" in problem()
    path.unlink()
    replicas.mask(path)
    replicas.mask(path.with_suffix(".tif"))
    assert "one of several" in problem()
    path.unlink()
    path.with_suffix(".tif").unlink()
    Image.new("L", replicas.SIZE).save(path.with_suffix(".jpg"))
    assert "a JPEG mask has no exact edges" in problem()


def test_marks_of_value_1_and_in_16_bits_count(tmp_path: Path) -> None:
    replicas.kolektor2(tmp_path)
    replicas.mask(tmp_path / "test" / "20000_GT.png", 1)
    faint = np.zeros(replicas.SIZE[::-1], np.uint16)
    faint[2, 2] = 1
    Image.fromarray(faint).save(tmp_path / "test" / "20001_GT.png")
    records = scan("kolektor2", tmp_path)
    assert [path for path, record in records.items() if record.label] == [f"test/2000{n}.png" for n in range(3)]


def test_kolektor2_layout(tmp_path: Path) -> None:
    found = find_adapter("kolektor2").scan(replicas.kolektor2(tmp_path))
    assert found.records == (
        Record("test/20000.png", "test", 0, "good"),
        Record("test/20001.png", "test", 0, "good"),
        Record("test/20002.png", "test", 1, "defect", "test/20002_GT.png"),
        Record("test/20003.png", "test", 0, "good"),
        Record("test/20004.png", "test", 0, "good"),
        *(Record(f"train/1030{number}.png", "train", 0, "good") for number in (0, 1, 3, 4)),
    )
    assert found.ignored == {"copy of another file": 2, "defective, in the training folder": 1, "not an image": 1}


def test_kolektor2_copy_without_its_original_is_an_image(tmp_path: Path) -> None:
    replicas.kolektor2(tmp_path)
    replicas.picture(tmp_path / "test" / "20009 (copy).png")
    replicas.mask(tmp_path / "test" / "20009 (copy)_GT.png", 0)
    assert scan("kolektor2", tmp_path)["test/20009 (copy).png"].problem == ""


@pytest.mark.parametrize(("layout", "mask"), [("kolektor", "kos01/Part99_label.bmp"), ("kolektor2", "test/9_GT.png")])
def test_masks_without_images(tmp_path: Path, layout: str, mask: str) -> None:
    replicas.REPLICAS[layout](tmp_path)
    replicas.mask(tmp_path / mask)
    image = mask.split("_", maxsplit=1)[0]
    assert scan(layout, tmp_path)[mask].problem == f"mask without its image {image}.*"


def test_two_images_of_one_name_share_a_mask(tmp_path: Path) -> None:
    replicas.kolektor(tmp_path)
    replicas.picture(tmp_path / "kos01" / "Part0.png")
    found = scan("kolektor", tmp_path)
    assert all("ambiguous" in found[f"kos01/Part0.{suffix}"].problem for suffix in ("png", "jpg"))


@pytest.mark.parametrize("layout", ["kolektor", "kolektor2"])
def test_there_are_no_categories(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match="this format has no categories; leave --category out"):
        find_adapter(layout).scan(replicas.REPLICAS[layout](tmp_path), "kos01")
