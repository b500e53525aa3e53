"""Near-duplicates: copies of a photograph are found, other parts of the same line are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from stlm_core.data.inspection import Inspected
from stlm_core.data.sample_line import write_sample_line
from stlm_core.data.similarity import _features, _pairs, find_near_duplicates
from stlm_core.data.statistics import image_statistics

THRESHOLD = 0.87  # the default of the settings
Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue())).convert(image.mode)


def resized(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * 0.9), round(image.height * 0.9)), Image.Resampling.BILINEAR)


COPIES: dict[str, Change] = {
    "jpeg": jpeg,
    "resized": resized,
    "resized jpeg": lambda image: jpeg(resized(image)),
    "brighter": lambda image: image.point(lambda value: min(255, round(value * 1.05))),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


def row(path: str, image: Image.Image, *, split: str = "train", group: str = "", sha256: str = "") -> Inspected:
    seen = image_statistics(image)
    facts = {"phash": seen.phash, "thumbnail": seen.thumbnail, "contrast": seen.contrast}
    return Inspected(path, split, 0, "good", "", group, sha256 or path, **facts)


def opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB" if image.mode != "L" else "L")


@pytest.fixture(scope="module")
def flanges(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    root = tmp_path_factory.mktemp("sample")
    write_sample_line(root)
    return [opened(file) for file in sorted((root / "train" / "good").iterdir())]


@pytest.fixture(scope="module")
def line(flanges: list[Image.Image]) -> list[Inspected]:
    """Training images, and every sixth a test image."""
    return [row(f"{i:03d}.png", image, split="train" if i % 6 else "test") for i, image in enumerate(flanges)]


def test_different_parts_are_not_copies(line: list[Inspected]) -> None:
    found = find_near_duplicates(line, THRESHOLD)
    assert found.across == {}
    assert found.within == {}


@pytest.mark.parametrize("name", COPIES)
def test_copies_across_the_border_are_found(line: list[Inspected], flanges: list[Image.Image], name: str) -> None:
    copied = range(1, len(line), 11)
    copies = [row(f"copy{i:03d}.png", COPIES[name](flanges[i]), split="test") for i in copied if i % 6]
    originals = [i for i in copied if i % 6]
    found = find_near_duplicates([*line, *copies], THRESHOLD)
    pairs = {number: found.across[number].index for number in found.across}
    expected = {i: len(line) + at for at, i in enumerate(originals)}
    assert pairs == expected | {copy: original for original, copy in expected.items()}
    assert all(THRESHOLD < copy.similarity <= 1 for copy in found.across.values())
    assert found.within == {}


def test_a_copy_on_the_same_side_is_no_leak(line: list[Inspected], flanges: list[Image.Image]) -> None:
    found = find_near_duplicates([*line, row("copy.png", jpeg(flanges[1]))], THRESHOLD)
    assert found.across == {}
    assert {number: copy.index for number, copy in found.within.items()} == {1: len(line), len(line): 1}


def test_pictures_of_one_part_and_equal_bytes_are_for_other_rules(
    line: list[Inspected], flanges: list[Image.Image]
) -> None:
    grouped = [replace(line[1], group="p"), *line[2:]]
    copy = row("copy.png", jpeg(flanges[1]), split="test", group="p")
    assert find_near_duplicates([*grouped, copy], THRESHOLD).across == {}
    same = row("copy.png", flanges[1], split="test", sha256=line[1].sha256)
    assert find_near_duplicates([*line, same], THRESHOLD).across == {}


def test_few_images_are_enough(line: list[Inspected], flanges: list[Image.Image]) -> None:
    few = [*line[:24], row("copy.png", resized(flanges[7]), split="test")]
    found = find_near_duplicates(few, THRESHOLD)
    assert {number: copy.index for number, copy in found.across.items()} == {7: 24, 24: 7}


def test_rows_without_a_picture_are_passed_over(line: list[Inspected]) -> None:
    blank = row("blank.png", Image.new("L", (64, 64), 90), split="test")
    other = row("other.png", Image.new("L", (64, 64), 90))
    broken = replace(line[0], problem="damaged", path="broken.png", sha256="b")
    empty = replace(line[0], thumbnail=b"", path="empty.png", sha256="e")
    assert find_near_duplicates([*line, blank, other, broken, empty], THRESHOLD).within == {}
    assert find_near_duplicates([], THRESHOLD).across == {}
    assert find_near_duplicates([blank, other], THRESHOLD).across == {}


def test_a_camera_that_stood_still(line: list[Inspected]) -> None:
    """Every image is like every other one: each gets a partner, in bounded time and memory."""
    frozen = [
        replace(line[1], path=f"{i}.png", sha256=str(i), split="test" if i < 1000 else "train") for i in range(5000)
    ]
    found = find_near_duplicates([*line[2:], *frozen], THRESHOLD)
    start = len(line) - 2
    assert set(found.across) == set(range(start, start + 5000))


def test_of_several_copies_the_most_similar_is_named(line: list[Inspected], flanges: list[Image.Image]) -> None:
    near, far = row("near.png", jpeg(flanges[1], 95), split="test"), row("z.png", jpeg(flanges[1], 60), split="test")
    found = find_near_duplicates([*line, far, near], THRESHOLD)
    assert found.across[1].index == len(line) + 1


@pytest.mark.parametrize("rank", [2, 30, 200], ids="of rank {}".format)
@pytest.mark.parametrize("threshold", [0.5, THRESHOLD])
def test_pairs_are_those_of_all_cosines(rank: int, threshold: float) -> None:
    """The bound on fewer axes leaves no pair out, whether few axes carry a line's images or all of them do."""
    rng = np.random.default_rng(rank)
    drawn = rng.normal(size=(1100, rank)) @ rng.normal(size=(rank, 256)) + 0.5 * rng.normal(size=(1100, 256))
    for spread, copy in zip(np.linspace(0.02, 0.5, 100), range(1000, 1100), strict=True):
        drawn[copy] = drawn[copy - 1000] + spread * rng.normal(size=256)
    low, high = drawn.min(), drawn.max()
    features, _textured = _features(np.rint(255 * (drawn - low) / (high - low)).astype(np.uint8))
    cosines = features.astype(np.float64) @ features.T.astype(np.float64)
    expected = {(i, j) for i, j in np.argwhere(np.triu(cosines > threshold, 1)).tolist()}
    clear = {(i, j) for i, j in expected if cosines[i, j] > threshold + 1e-6}

    found: dict[tuple[int, int], float] = {}
    for first, second, similarity in _pairs(features, threshold):
        found.update(zip(zip(first.tolist(), second.tolist(), strict=True), similarity.tolist(), strict=True))
    assert len(clear) > 20
    assert clear <= set(found) <= expected | {pair for pair in found if found[pair] < threshold + 1e-6}
    assert found == pytest.approx({pair: cosines[pair] for pair in found}, abs=1e-5)


@pytest.mark.parametrize(("folder", "pairs"), [("mvtec_ad/bottle", 0), ("mvtec_ad/screw", 0)])
def test_real_parts_are_not_copies_across_the_border(datasets_root: Path, folder: str, pairs: int) -> None:
    root = datasets_root / folder
    if not root.is_dir():
        pytest.skip(f"{folder} not found in {datasets_root}")
    files = sorted(file for side in ("train", "test") for file in (root / side).rglob("*.jpg"))[::2]
    rows = [row(str(file), opened(file).reduce(2), split=file.relative_to(root).parts[0]) for file in files]
    assert np.sum([bool(row.thumbnail) for row in rows]) > 100
    assert len(find_near_duplicates(rows, THRESHOLD).across) == pairs
