"""Scanning folders: layouts, names, links, and everything that should not be there."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.errors import UserError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path, "PNG")
    return path


def problems(root: Path, layout: str = "mvtec") -> dict[str, str]:
    return {record.path: record.problem for record in find_adapter(layout).scan(root).records if record.problem}


def test_mvtec_layout(line_folder: Path) -> None:
    scan = find_adapter("mvtec").scan(line_folder)
    assert len(scan.records) == 30
    assert [record.path for record in scan.records] == sorted(record.path for record in scan.records)
    by_path = {record.path: record for record in scan.records}
    assert by_path["train/good/000.png"] == Record("train/good/000.png", "train", 0, "good")
    assert by_path["test/good/002.png"] == Record("test/good/002.png", "test", 0, "good")
    assert by_path["test/dent/001.png"] == Record(
        "test/dent/001.png", "test", 1, "dent", "ground_truth/dent/001_mask.png"
    )
    assert scan.ignored == {}


def test_mask_may_have_the_images_own_name(line_folder: Path) -> None:
    folder = line_folder / "ground_truth" / "dent"
    os.rename(folder / "001_mask.png", folder / "001.png")
    masks = {record.path: record.mask_path for record in find_adapter("mvtec").scan(line_folder).records}
    assert masks["test/dent/001.png"] == "ground_truth/dent/001.png"


def test_decomposed_and_composed_unicode_names_match(line_folder: Path) -> None:
    touch(line_folder / "test" / "dent" / (unicodedata.normalize("NFD", "prüfling") + ".png"))
    touch(line_folder / "ground_truth" / "dent" / (unicodedata.normalize("NFC", "prüfling") + "_mask.png"))
    assert problems(line_folder) == {}


def test_other_files_are_counted_and_ignored(line_folder: Path) -> None:
    (line_folder / "license.txt").write_text("free")
    (line_folder / "train" / "good" / "Thumbs.db").write_bytes(b"x")
    (line_folder / "train" / "good" / "._000.png").write_bytes(b"x")
    touch(line_folder / "train" / "bad" / "000.png")
    touch(line_folder / "train" / "good" / "deeper" / "000.png")
    touch(line_folder / "ground_truth" / "good" / "000_mask.png")
    scan = find_adapter("mvtec").scan(line_folder)
    assert len(scan.records) == 30
    assert scan.ignored == {"hidden": 2, "not an image": 1, "outside the layout": 3}


def test_folder_layout_is_recursive_and_has_no_test(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png")
    touch(tmp_path / "b" / "c" / "2.JPG")
    records = find_adapter("folder").scan(tmp_path).records
    assert [(record.path, record.split, record.label) for record in records] == [
        ("a/1.png", "train", 0),
        ("b/c/2.JPG", "train", 0),
    ]


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_missing_folder_file_and_unknown_format(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_adapter(layout).scan(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a folder"):
        find_adapter(layout).scan(touch(tmp_path / "file.png"))
    with pytest.raises(UserError, match=r"format 'yolo': unknown \(known: mvtec, .*folder\)"):
        find_adapter("yolo")


def test_zero_images_says_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train" / "good").mkdir(parents=True)
    (tmp_path / "train" / "good" / "a.txt").write_text("x")
    for layout, root in (("mvtec", tmp_path), ("folder", tmp_path / "train" / "good")):
        with pytest.raises(UserError, match=r"no good training images found \(passed over: 1 not an image\)"):
            find_adapter(layout).scan(root)


def test_no_train_good_names_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"no folder train/good"):
        find_adapter("mvtec").scan(tmp_path)


def test_mask_without_image(line_folder: Path) -> None:
    touch(line_folder / "ground_truth" / "dent" / "099_mask.png")
    touch(line_folder / "ground_truth" / "crack" / "000_mask.png")
    assert problems(line_folder) == {
        "ground_truth/crack/000_mask.png": "mask without an image: there is no folder test/crack",
        "ground_truth/dent/099_mask.png": "mask without its image test/dent/099.*",
    }


def test_two_images_of_one_stem_are_ambiguous(line_folder: Path) -> None:
    touch(line_folder / "test" / "dent" / "001.jpg")
    found = problems(line_folder)
    assert set(found) == {"test/dent/001.jpg", "test/dent/001.png"}
    assert "ambiguous" in found["test/dent/001.jpg"]


def test_links_out_of_the_folder_are_refused(line_folder: Path, tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside" / "secret.png")
    good = line_folder / "train" / "good"
    (good / "out.png").symlink_to(outside)
    (good / "nothing.png").symlink_to(tmp_path / "nowhere.png")
    (good / "inside.png").symlink_to(good / "000.png")
    (good / "loop.png").symlink_to(good / "loop.png")
    found = problems(line_folder)
    assert set(found) == {f"train/good/{name}.png" for name in ("out", "nothing", "loop")}
    assert "a link out of the folder" in found["train/good/out.png"]
    assert found["train/good/nothing.png"] == found["train/good/loop.png"] == "a link to nothing"


def test_masks_behind_links_are_refused_too(line_folder: Path, tmp_path: Path) -> None:
    mask = line_folder / "ground_truth" / "dent" / "001_mask.png"
    mask.unlink()
    mask.symlink_to(touch(tmp_path / "outside.png"))
    assert "link out of the folder" in problems(line_folder)["test/dent/001.png"]


def test_linked_folders_are_refused_without_running_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "line" / "1.png")
    (tmp_path / "line" / "again").symlink_to(tmp_path / "line")
    assert set(problems(tmp_path / "line", "folder")) == {"again"}


def test_root_itself_may_be_a_link(line_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(line_folder)
    assert problems(tmp_path / "link") == {}


@pytest.mark.parametrize("name", [b"new\nline.png", b"bell\x07.png", b"\xff\xfe.png", "line\u2028sep.png".encode()])
def test_names_that_break_reports_are_refused(line_folder: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(line_folder / "train" / "good"), name)
    with open(path, "wb") as stream:
        stream.write(b"x")
    ((shown, problem),) = problems(line_folder).items()
    assert "control or undecodable" in problem
    assert shown.isprintable()
    assert shown.encode()


def test_unicode_and_spaces_in_names_are_fine(line_folder: Path) -> None:
    touch(line_folder / "train" / "good" / "Teil 1 geprüft (日本).png")
    assert problems(line_folder) == {}


def test_not_a_regular_file(line_folder: Path) -> None:
    os.mkfifo(line_folder / "train" / "good" / "pipe.png")
    assert problems(line_folder) == {"train/good/pipe.png": "not a regular file"}
