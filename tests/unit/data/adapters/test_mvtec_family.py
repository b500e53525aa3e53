"""MVTec AD with categories, MVTec LOCO, MPDD and BTAD, on replicas of the published folders and on real data."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import replicas

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.images import read_mask
from stlm_core.errors import UserError


def problems(layout: str, root: Path, category: str | None = None) -> dict[str, str]:
    records = find_adapter(layout).scan(root, category).records
    return {record.path: record.problem for record in records if record.problem}


def test_mvtec_category_of_several(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path)
    scan = find_adapter("mvtec").scan(tmp_path, "bottle")
    mask = "bottle/ground_truth/broken_large/00{}_mask.png"
    assert scan.records == (
        *(Record(f"bottle/test/broken_large/00{i}.png", "test", 1, "broken_large", mask.format(i)) for i in range(2)),
        *(Record(f"bottle/test/good/00{i}.png", "test", 0, "good") for i in range(2)),
        *(Record(f"bottle/train/good/00{i}.png", "train", 0, "good") for i in range(4)),
    )
    assert scan.ignored == {"not an image": 2}


def test_a_category_itself_gives_paths_without_it(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path)
    whole = find_adapter("mvtec").scan(tmp_path, "screw").records
    single = find_adapter("mvtec").scan(tmp_path / "screw").records
    assert [record.path for record in whole] == [f"screw/{record.path}" for record in single]


def test_the_only_category_needs_no_name(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path, ("bottle",))
    assert len(find_adapter("mvtec").scan(tmp_path).records) == 8


@pytest.mark.parametrize(
    ("category", "message"),
    [
        (None, "several categories; choose one with --category: bottle, screw"),
        ("cable", r"no category 'cable' \(there are: bottle, screw\)"),
        ("../elsewhere", "no category '../elsewhere'"),
        ("", "no category ''"),
    ],
)
def test_category_must_be_one_of_those_there_are(tmp_path: Path, category: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_adapter("mvtec").scan(replicas.mvtec_ad(tmp_path), category)


def test_category_of_a_single_product(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path)
    with pytest.raises(UserError, match="one product, not several categories; leave --category out"):
        find_adapter("mvtec").scan(tmp_path / "bottle", "bottle")


def test_files_of_other_categories_do_not_count(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path)
    replicas.picture(tmp_path / "screw" / "stray.png")
    assert find_adapter("mvtec").scan(tmp_path, "bottle").ignored == {"not an image": 2}
    assert find_adapter("mvtec").scan(tmp_path, "screw").ignored == {"not an image": 2, "outside the layout": 1}


def test_category_that_is_a_link_out_of_the_root_gives_no_usable_image(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path / "elsewhere", ("bottle",))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "bottle").symlink_to(tmp_path / "elsewhere" / "bottle")
    found = problems("mvtec", tmp_path / "root")
    assert len(found) == 8
    assert all("a link out of the folder" in problem for problem in found.values())


def test_mask_with_another_image_suffix(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path, ("bottle",))
    truth = tmp_path / "bottle" / "ground_truth" / "broken_large"
    os.rename(truth / "000_mask.png", truth / "000_mask.PNG")
    (truth / "001_mask.png").unlink()
    replicas.mask(truth / "001.bmp")
    masks = [record.mask_path for record in find_adapter("mvtec").scan(tmp_path).records if record.label]
    assert [Path(path).name for path in masks] == ["000_mask.PNG", "001.bmp"]


def test_two_masks_for_an_image(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path, ("bottle",))
    replicas.mask(tmp_path / "bottle" / "ground_truth" / "broken_large" / "000_mask.bmp")
    ((path, problem),) = problems("mvtec", tmp_path).items()
    assert path == "bottle/test/broken_large/000.png"
    assert "000_mask.bmp: one of several: " in problem
    assert "000_mask.png" in problem


def test_mpdd(tmp_path: Path) -> None:
    scan = find_adapter("mpdd").scan(replicas.mpdd(tmp_path), "bracket_black")
    assert Counter((record.split, record.defect_type) for record in scan.records) == {
        ("train", "good"): 3,
        ("test", "good"): 1,
        ("test", "hole"): 1,
        ("test", "scratches"): 1,
    }
    assert [record.mask_path for record in scan.records if record.label] == [
        "bracket_black/ground_truth/hole/000_mask.png",
        "bracket_black/ground_truth/scratches/000_mask.png",
    ]
    with pytest.raises(UserError, match="choose one with --category: bracket_black, tubes"):
        find_adapter("mpdd").scan(tmp_path)


def test_loco_layout(tmp_path: Path) -> None:
    scan = find_adapter("mvtec_loco").scan(replicas.mvtec_loco(tmp_path), "pushpins")
    truth = "pushpins/ground_truth"
    assert scan.records == (
        Record("pushpins/test/good/000.png", "test", 0, "good"),
        Record(
            "pushpins/test/logical_anomalies/000.png", "test", 1, "logical_anomalies", f"{truth}/logical_anomalies/000"
        ),
        Record(
            "pushpins/test/structural_anomalies/000.png",
            "test",
            1,
            "structural_anomalies",
            f"{truth}/structural_anomalies/000",
        ),
        *(Record(f"pushpins/train/good/00{index}.png", "train", 0, "good") for index in range(3)),
        *(Record(f"pushpins/validation/good/00{index}.png", "train", 0, "good") for index in range(2)),
    )
    assert scan.ignored == {"not an image": 1}
    masks = tmp_path / truth / "logical_anomalies" / "000"
    replicas.mask(masks / "002.png")
    assert read_mask(masks, replicas.SIZE[::-1]).sum() == 9


def test_loco_masks_that_cannot_be_used(tmp_path: Path) -> None:
    replicas.mvtec_loco(tmp_path)
    truth = tmp_path / "pushpins" / "ground_truth"
    for file in (truth / "logical_anomalies" / "000").iterdir():
        file.unlink()
    outside = replicas.mask(tmp_path / "outside.png")
    (truth / "structural_anomalies" / "000" / "001.png").symlink_to(outside)
    replicas.mask(truth / "structural_anomalies" / "007" / "000.png")
    outside.unlink()
    found = problems("mvtec_loco", tmp_path, "pushpins")
    assert found == {
        "pushpins/test/logical_anomalies/000.png": (
            "its mask pushpins/ground_truth/logical_anomalies/000: no mask in this folder"
        ),
        "pushpins/test/structural_anomalies/000.png": (
            "its mask pushpins/ground_truth/structural_anomalies/000: "
            "pushpins/ground_truth/structural_anomalies/000/001.png: a link to nothing"
        ),
        "pushpins/ground_truth/structural_anomalies/007": "mask without its image test/structural_anomalies/007.*",
    }


def test_loco_is_not_taken_for_mvtec(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"masks in a folder for each image.*it looks like --format mvtec_loco"):
        find_adapter("mvtec").scan(replicas.mvtec_loco(tmp_path), "pushpins")


@pytest.mark.parametrize(
    ("category", "image", "truth"), [("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")]
)
def test_btad_layout(tmp_path: Path, category: str, image: str, truth: str) -> None:
    scan = find_adapter("btad").scan(replicas.btad(tmp_path), category)
    mask = f"{category}/ground_truth/ko"
    assert scan.records == (
        *(
            Record(f"{category}/test/ko/000{index}{image}", "test", 1, "ko", f"{mask}/000{index}{truth}")
            for index in range(2)
        ),
        Record(f"{category}/test/ok/0003{image}", "test", 0, "good"),
        *(Record(f"{category}/train/ok/000{index}{image}", "train", 0, "good") for index in range(3)),
    )
    assert scan.ignored == {"outside the layout": 1}


def test_btad_defect_called_good_is_passed_over(tmp_path: Path) -> None:
    replicas.btad(tmp_path)
    replicas.picture(tmp_path / "01" / "test" / "good" / "0009.bmp")
    scan = find_adapter("btad").scan(tmp_path, "01")
    assert {record.defect_type for record in scan.records} == {"good", "ko"}
    assert scan.ignored == {"outside the layout": 2}


@pytest.mark.parametrize(("category", "train", "good", "defective"), [("bottle", 209, 20, 63), ("screw", 320, 41, 119)])
def test_real_mvtec_ad(datasets_root: Path, category: str, train: int, good: int, defective: int) -> None:
    scan = find_adapter("mvtec").scan(datasets_root / "mvtec_ad", category)
    counts = Counter((record.split, record.label, bool(record.mask_path)) for record in scan.records)
    assert counts == {("train", 0, False): train, ("test", 0, False): good, ("test", 1, True): defective}
    assert not any(record.problem for record in scan.records)
    assert all((datasets_root / "mvtec_ad" / record.path).is_file() for record in scan.records)
    assert set(scan.ignored) <= {"not an image"}
