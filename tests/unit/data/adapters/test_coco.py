"""COCO-style annotations: files and splits, polygons, run lengths, and everything a JSON file can get wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.adapters.base import printable, stays_inside
from stlm_core.data.adapters.coco_masks import CocoMask, read_shapes, unpack_counts
from stlm_core.data.adapters.held_out import held_out
from stlm_core.errors import UserError

WIDTH, HEIGHT = 20, 12
SQUARE = [4, 3, 8, 3, 8, 6, 4, 6]


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(path)


def content(names: list[str], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A COCO file of the images ``names``, numbered from 1."""
    return {
        "info": {"description": "a line"},
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(names, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "scratch"}],
    }


def region(number: int, image: int, category: int, segmentation: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": [4, 3, 4, 3],
        "area": 12,
        "iscrowd": int(isinstance(segmentation, dict)),
    }


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Twelve images, the first two annotated, as an annotation tool exports them."""
    names = [f"{number:02d}.jpg" for number in range(1, 13)]
    for name in names:
        photo(tmp_path / "images" / name)
    regions = [
        region(1, 1, 1, [SQUARE]),
        region(2, 1, 2, [[10, 1, 18, 1, 18, 9, 10, 9]]),
        region(3, 2, 1, {"size": [HEIGHT, WIDTH], "counts": [13, 3, HEIGHT * WIDTH - 16]}),
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(content(names, regions)))
    return tmp_path


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply ``change`` to the parsed annotations."""
    file = root / "annotations.json"
    parsed = json.loads(file.read_text())
    change(parsed)
    file.write_text(json.dumps(parsed))


def drawn(record: Record) -> NDArray[np.bool_]:
    assert record.mask_shape is not None
    mask = record.mask_shape.draw()
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    return mask > 0


def test_one_file_is_split_by_hash(export: Path) -> None:
    scan = find_adapter("coco").scan(export)
    first, second, *good = scan.records
    assert first.path == "images/01.jpg"
    assert (first.split, first.label, first.defect_type) == ("test", 1, "scratch")  # the larger of its two
    assert (second.split, second.label, second.defect_type) == ("test", 1, "dent")
    assert first.must_be_imported
    assert first.mask_path == "masks/images/01.jpg.png"
    assert [record.split for record in good] == ["test" if held_out(record.path) else "train" for record in good]
    assert {record.split for record in good} == {"train", "test"}
    assert good[0] == Record("images/03.jpg", good[0].split, 0, "good")
    assert scan.ignored == {"not an image": 1}


def test_masks_are_the_union_of_the_annotations(export: Path) -> None:
    first, second, *_ = find_adapter("coco").scan(export).records
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[3:6, 4:8] = True
    expected[1:9, 10:18] = True
    assert np.array_equal(drawn(first), expected)
    expected[:] = False
    expected[1:4, 1] = True
    assert np.array_equal(drawn(second), expected)


@pytest.mark.parametrize("split_folder", ["{split}", "images/{split}"])
def test_several_files_are_the_splits(tmp_path: Path, split_folder: str) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        names = ["000.jpg", "001.jpg", "002.jpg"]
        for name in names:
            photo(tmp_path / split_folder.format(split=split) / name)
        file = tmp_path / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content(names, [region(7, 2, 1, [SQUARE])])))
    scan = find_adapter("coco").scan(tmp_path)
    train, val = (split_folder.format(split=split) for split in ("train2017", "val2017"))
    assert [(record.path, record.split, record.label) for record in scan.records] == [
        (f"{train}/000.jpg", "train", 0),
        (f"{train}/002.jpg", "train", 0),
        (f"{val}/000.jpg", "test", 0),
        (f"{val}/001.jpg", "test", 1),
        (f"{val}/002.jpg", "test", 0),
    ]
    assert scan.ignored == {"defective, in a training file": 1, "not an image": 2}


def test_images_beside_their_file(tmp_path: Path) -> None:
    for folder, regions in (("train", []), ("valid", [region(1, 1, 2, [SQUARE])])):
        photo(tmp_path / folder / "a.jpg")
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content(["a.jpg"], regions)))
    found = [(record.path, record.split, record.label) for record in find_adapter("coco").scan(tmp_path).records]
    assert found == [("train/a.jpg", "train", 0), ("valid/a.jpg", "test", 1)]


def test_images_in_the_folder_itself_and_in_one_called_masks(export: Path) -> None:
    photo(export / "13.jpg")
    photo(export / "masks" / "14.jpg")

    def add(parsed: dict[str, Any]) -> None:
        for number, name in ((13, "13.jpg"), (14, "masks/14.jpg")):
            parsed["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            parsed["annotations"].append(region(number, number, 1, [SQUARE]))

    edit(export, add)
    masks = {record.path: record.mask_path for record in find_adapter("coco").scan(export).records if record.label}
    assert masks["13.jpg"] == "masks_/13.jpg.png"
    assert masks["masks/14.jpg"] == "masks_/masks/14.jpg.png"


def test_files_without_a_split_in_their_name(export: Path) -> None:
    (export / "annotations").mkdir()
    for name in ("instances_train.json", "more.json"):
        (export / "annotations" / name).write_bytes((export / "annotations.json").read_bytes())
    (export / "annotations.json").unlink()
    with pytest.raises(UserError, match=r"more.json: one of several files, so its name must say train, test or val"):
        find_adapter("coco").scan(export)


def test_unlisted_and_missing_images(export: Path) -> None:
    photo(export / "images" / "unlisted.jpg")
    (export / "images" / "05.jpg").unlink()
    scan = find_adapter("coco").scan(export)
    assert scan.ignored == {"not an image": 1, "outside the layout": 1}
    assert {record.path: record.problem for record in scan.records if record.problem} == {
        "images/05.jpg": "no such file"
    }


BAD_SEGMENTATIONS = [
    ([], "no segmentation, so no exact mask; draw a polygon or a mask"),
    ([SQUARE[:-1]], "a polygon with an odd number of coordinates"),
    ([SQUARE[:4]], "a polygon with 2 corners, 3 to 100000 are possible"),
    ([[*SQUARE[:7], "6"]], "a polygon that is not a list of numbers"),
    ([SQUARE, 5], "a polygon that is not a list of numbers"),
    ([[*SQUARE[:7], True]], "a polygon that is not a list of numbers"),
    ([[4, 3, 8, 3, 8, 600]], "a polygon far outside the image of 20 x 12 pixels"),
    ([[4, 3, 8, 3, 10**400, 6]], "a polygon far outside the image of 20 x 12 pixels"),
    ("rle", "a segmentation that is neither polygons nor run lengths"),
    (None, "a segmentation that is neither polygons nor run lengths"),
    ({"size": [WIDTH, HEIGHT], "counts": "T1"}, "run lengths whose size is not the image's [12, 20]"),
    ({"counts": [240]}, "run lengths whose size is not the image's [12, 20]"),
    ({"size": [HEIGHT, WIDTH], "counts": [200, 41]}, "run lengths that do not add up to the image's 240 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": [241, -1]}, "run lengths that do not add up to the image's 240 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": "T1"}, "run lengths that do not add up to the image's 240 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5]}, "run lengths that are neither whole numbers nor a string"),
    ({"size": [HEIGHT, WIDTH]}, "run lengths that are neither whole numbers nor a string"),
    ({"size": [HEIGHT, WIDTH], "counts": "T~"}, "run lengths in a damaged string"),
    ({"size": [HEIGHT, WIDTH], "counts": "o" * 50}, "run lengths in a damaged string"),
    ({"size": [HEIGHT, WIDTH], "counts": "T"}, "run lengths in a string that is cut off"),
]


@pytest.mark.parametrize(("segmentation", "message"), BAD_SEGMENTATIONS)
def test_masks_that_cannot_be_drawn_are_problems_of_their_image(export: Path, segmentation: Any, message: str) -> None:
    edit(export, lambda parsed: parsed["annotations"][0].update(segmentation=segmentation))
    first, *others = find_adapter("coco").scan(export).records
    assert first.problem == f"annotation 1 in annotations.json: {message}"
    assert first.label == 1
    assert first.mask_shape is None
    assert not any(record.problem for record in others)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": "12"}, {"width": 10**6, "height": 10**6}, {"width": True}])
def test_images_of_no_possible_size(export: Path, size: dict[str, Any]) -> None:
    edit(export, lambda parsed: [image.update(size) for image in parsed["images"][:3]])
    problems = [record.problem for record in find_adapter("coco").scan(export).records]
    assert problems[0].startswith("its size in annotations.json is not a width and height of at most 100000000 pixels")
    assert problems[2:] == [""] * 10  # a good image needs no size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "no list `images`, so not COCO-style annotations"),
        (lambda d: d.update(annotations={}), "no list `annotations`"),
        (lambda d: d.update(categories=["dent"]), "no list `categories`"),
        (
            lambda d: d["images"][2].update(file_name="../x.jpg"),
            r"image 3: file_name '\.\./x\.jpg' leads out of the fo",
        ),
        (lambda d: d["images"][2].update(file_name="/etc/x.jpg"), "image 3: file_name '/etc/x.jpg' leads out of the f"),
        (lambda d: d["images"][2].update(file_name=7), "image 3: no file_name"),
        (lambda d: d["images"][2].update(file_name="01.jpg"), "image images/01.jpg is listed already"),
        (lambda d: d["images"][2].update(id=1), "image 1 is listed twice"),
        (lambda d: d["images"][2].update(id=None), "a image: `id` is not a number or a text"),
        (lambda d: d["annotations"][0].update(image_id=99), "annotation 1: no image 99"),
        (lambda d: d["annotations"][0].update(image_id=[1]), "annotation 1: `image_id` is not a number or a text"),
        (lambda d: d["annotations"][0].update(category_id=9), "annotation 1: no category 9"),
        (lambda d: d["categories"][0].update(name=" "), "category 1: no name"),
        (lambda d: d["categories"][0].update(name="good"), "annotation 1: category 'good', but what is annotated is"),
    ],
)
def test_entries_that_do_not_fit_are_named(
    export: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(export, change)
    with pytest.raises(UserError, match=f"^{export}/annotations.json: {message}"):
        find_adapter("coco").scan(export)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"images": [NaN]}',
        '{"images": [Infinity]}',
        "[" * 100_000,
        "\udcff",
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_files_that_are_no_such_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"annotations\.json: (cannot be read as JSON|not an object)") as caught:
        find_adapter("coco").scan(tmp_path)
    assert len(str(caught.value)) < 400


def test_a_coordinate_too_large_for_a_float(export: Path) -> None:
    text = (export / "annotations.json").read_text().replace("[4, 3, 8, 3, 8, 6, 4, 6]", "[4, 3, 8, 3, 8, 1e999]")
    (export / "annotations.json").write_text(text)
    assert "far outside the image" in find_adapter("coco").scan(export).records[0].problem


def test_a_huge_file_is_not_read(export: Path) -> None:
    with (export / "annotations.json").open("r+b") as stream:
        stream.truncate(600 << 20)  # sparse
    with pytest.raises(UserError, match="larger than 512 MiB; divide it into several files"):
        find_adapter("coco").scan(export)


def test_no_annotations_at_all(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match=r"no annotations\.json or .*; wrong folder or wrong --format\?"):
        find_adapter("coco").scan(tmp_path)


# Written by pycocotools 2.0.11 from these masks.
def _disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:40, :50]
    return np.asarray(((x - 24) ** 2 + (y - 18) ** 2 < 150) | ((y == 39) & (x % 3 == 0)))


GOLDEN = [
    (np.zeros((9, 4), np.bool_), "T1"),
    (
        _disc(),
        "W11g300000YO4bMLK:>4M2D@Mb0;2O0G\\OMf0:000HZOMh09000IXONh0901NIZONf0:01NH\\ONd0<N2NF@O>`0L5JBLU30000000aM",
    ),
    (
        np.random.default_rng(5).random((12, 13)) < 0.5,
        "'2110221NN0O33NMO10O33MM30M020O0O00011OO330NMO010O122OOON22NN00001000O000020O1010NO0030M0'"[1:-1],
    ),
]


@pytest.mark.parametrize(("mask", "packed"), GOLDEN)
def test_strings_of_the_reference_implementation(mask: NDArray[np.bool_], packed: str) -> None:
    height, width = mask.shape
    (shape,) = read_shapes({"size": [height, width], "counts": packed}, width, height)
    assert np.array_equal(CocoMask(width, height, (shape,)).draw() > 0, mask)
    assert shape.area() == mask.sum()


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths down the columns, the first of unmarked pixels."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(count) for count in np.diff([0, *changes, mask.size])]


def pack(counts: list[int]) -> str:
    """Run lengths as COCO's compressed string, the inverse of :func:`unpack_counts`."""
    packed = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            packed += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return packed


MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(MASKS)
def test_run_lengths_round_trip(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    counts = run_lengths(mask)
    assert unpack_counts(pack(counts)) == counts
    for stored in (counts, pack(counts)):
        shapes = read_shapes({"size": [height, width], "counts": stored}, width, height)
        assert np.array_equal(CocoMask(width, height, shapes).draw() > 0, mask)


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_packed_numbers_round_trip(counts: list[int]) -> None:
    assert unpack_counts(pack(counts)) == counts


@given(st.text(max_size=40))
def test_any_string_is_unpacked_or_refused(packed: str) -> None:
    try:
        counts = unpack_counts(packed)
    except ValueError:
        return
    assert len(counts) <= len(packed)


CORNERS = st.lists(st.tuples(st.floats(-4, 24), st.floats(-4, 16)), min_size=3, max_size=9)


@settings(deadline=None)
@given(CORNERS)
def test_polygons_mark_the_pixels_whose_centre_is_inside(corners: list[tuple[float, float]]) -> None:
    (shape,) = read_shapes([[value for corner in corners for value in corner]], 20, 12)
    mask = CocoMask(20, 12, (shape,)).draw() > 0
    expected = np.zeros((12, 20), np.bool_)
    unclear = np.zeros((12, 20), np.bool_)
    for y in range(12):
        for x in range(20):
            crossings = [
                x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
                if (y0 <= y + 0.5) != (y1 <= y + 0.5)
            ]
            expected[y, x] = sum(crossing <= x + 0.5 for crossing in crossings) % 2
            unclear[y, x] = any(abs(crossing - x - 0.5) < 1e-6 for crossing in crossings)
    if expected.any() and not unclear.any():
        assert np.array_equal(mask, expected)


def test_a_scratch_thinner_than_a_pixel_is_not_lost() -> None:
    shapes = read_shapes([[2.1, 3.1, 9.1, 3.1, 9.1, 3.2, 2.1, 3.2]], 20, 12)
    mask = CocoMask(20, 12, shapes).draw() > 0
    assert np.argwhere(mask).tolist() == [[3, x] for x in range(2, 10)]


def test_a_hole_drawn_by_crossing_the_outline_stays_open() -> None:
    ring = [0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 3, 3, 3, 7, 7, 7, 7, 3, 3, 3]
    mask = CocoMask(12, 12, read_shapes([ring], 12, 12)).draw() > 0
    assert mask.sum() == 100 - 16
    assert not mask[3:7, 3:7].any()


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 400) | st.floats() | st.text(max_size=5) | st.just(SQUARE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", "image_id", "category_id", "segmentation", "file_name", "width", "height", "name"])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 1), KEYS, VALUES, st.text(max_size=8))
def test_any_entry_is_read_or_refused(part: str, index: int, key: str, value: Any, name: str) -> None:
    parsed = content(["a.jpg", "b.jpg", name or "c.jpg"], [region(1, 1, 1, [SQUARE]), region(2, 1, 2, [SQUARE])])
    parsed[part][index][key] = value
    check(json.dumps(parsed).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused(stored: bytes) -> None:
    check(stored)


def check(stored: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "annotations.json").write_bytes(stored)
        for name in ("a.jpg", "b.jpg"):
            (Path(folder) / name).write_bytes(b"never decoded")
        records, refused = (), ""
        try:
            records = find_adapter("coco").scan(Path(folder)).records
        except UserError as error:
            refused = str(error)
        assert printable(refused) == refused
        assert len({record.path for record in records}) == len(records)
        for record in records:
            assert stays_inside(record.path)
            if record.mask_shape:
                assert isinstance(record.mask_shape, CocoMask)
                assert record.mask_shape.draw().shape == (record.mask_shape.height, record.mask_shape.width)
