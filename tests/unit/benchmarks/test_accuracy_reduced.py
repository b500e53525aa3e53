"""Lines with few good images or unmarked defects: what is kept, what moves, and nothing twice."""

from __future__ import annotations

import pytest

from benchmarks.accuracy.lines import find_line
from benchmarks.accuracy.reduced import reduce_line
from stlm_core.errors import UserError


@pytest.fixture
def line(tmp_path):
    """90 good training images, 4 good and 12 defective test images; every file has its own content."""
    names = [f"train/good/{number:03}.png" for number in range(90)] + [f"test/good/{number}.png" for number in range(4)]
    for kind in ("crack", "dent"):
        names += [f"test/{kind}/{number}.png" for number in range(6)]
        names += [f"ground_truth/{kind}/{number}_mask.png" for number in range(6)]
    for name in names:
        path = tmp_path / "line" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "line"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_few_good_images_and_the_test_as_it_was(line, tmp_path):
    found, whole = files(reduce_line(line, "20", tmp_path / "few")), files(line)
    assert len([name for name in found if name.startswith("train/")]) == 20
    assert found.items() <= whole.items()
    assert {name for name in whole if not name.startswith("train/")} <= set(found)


def test_hidden_defects_are_two_in_a_hundred_and_no_longer_tested(line, tmp_path):
    found, whole = files(reduce_line(line, "2%", tmp_path / "dirty")), files(line)
    hidden = {name: content for name, content in found.items() if "unmarked" in name}
    assert len(hidden) == 2
    assert all(content.startswith(("test/crack/", "test/dent/")) for content in hidden.values())
    gone = set(whole) - set(found)
    masks = {c.replace("test", "ground_truth").replace(".png", "_mask.png") for c in hidden.values()}
    assert gone == set(hidden.values()) | masks
    assert sorted(found.values()) == sorted(set(whole.values()) - masks)


def test_the_same_images_every_time_and_a_finished_copy_is_kept(line, tmp_path):
    one = reduce_line(line, "5%", tmp_path / "one")
    assert files(one) == files(reduce_line(line, "5%", tmp_path / "two"))
    (one / "mark").write_text("")
    assert (reduce_line(line, "5%", one) / "mark").exists()


@pytest.mark.parametrize("change", ["", "0", "many", "91", "100%", "12%"])
def test_what_cannot_be_is_one_error(line, tmp_path, change):
    with pytest.raises(UserError, match="@"):
        reduce_line(line, change, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_line_is_named_after_its_change(line, tmp_path):
    few = find_line(f"cable@20={line}", tmp_path, tmp_path)
    assert (few.name, few.format, few.folder) == ("cable-20", "mvtec", tmp_path / "lines" / "cable-20")
    assert find_line(f"cable@2%={line}", tmp_path, tmp_path).name == "cable-2-percent"
    with pytest.raises(UserError, match="MVTec"):
        find_line(f"cable@2%={line}:folder", tmp_path, tmp_path)
