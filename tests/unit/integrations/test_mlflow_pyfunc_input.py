"""What callers of the model in MLflow may hand over as an image."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from stlm_core.data.images import read_image
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_pyfunc_input import ALLOW_PATHS, single_images, to_pixels

PICTURES = {name: content for name, content in pictures().items() if name != "float.tif"}
PNG = PICTURES["rgb.png"]
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize("name", PICTURES)
def test_files_are_read_as_predict_reads_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(PICTURES[name])
    expected = read_image(path)
    text = base64.b64encode(PICTURES[name]).decode()
    forms: list[Any] = [PICTURES[name], bytearray(PICTURES[name]), memoryview(PICTURES[name]), path, text]
    forms += [f"data:image/{path.suffix[1:]};base64,{text}", base64.encodebytes(PICTURES[name]).decode()]
    for form in forms:
        np.testing.assert_array_equal(to_pixels(form, "row 0"), expected)


def test_a_file_that_predict_refuses_is_refused() -> None:
    with pytest.raises(UserError, match="row 3: pixel format F is not supported"):
        to_pixels(pictures()["float.tif"], "row 3")


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_colour_arrays_and_lists_are_taken_as_they_are(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(to_pixels(pixels, "row 0"), pixels)
    np.testing.assert_array_equal(to_pixels(pixels.tolist(), "row 0"), pixels)


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_a_grey_array_is_three_equal_channels(pixels: np.ndarray) -> None:
    expected = np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(to_pixels(pixels, "row 0"), expected)
    np.testing.assert_array_equal(to_pixels(pixels[..., None], "row 0"), expected)


def test_alpha_of_an_array_lies_on_black() -> None:
    pixels = np.full((2, 2, 4), 200, np.uint8)
    pixels[..., 3] = [[255, 0], [0, 255]]
    assert to_pixels(pixels, "row 0")[..., 0].tolist() == [[200, 0], [0, 200]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "row 7: not an image"),
        (b"GIF89a", "row 7: not an image in a known format"),
        (PNG[:-30], "row 7: damaged or truncated image"),
        ("", "row 7: no image"),
        ("data:image/png,raw", "row 7: a data URL that is not base64"),
        ("not base64!", "row 7: the text is not base64"),
        ("abc", "row 7: the text is not base64"),
        (None, "row 7: no image"),
        (float("nan"), "row 7: no image"),
        (7, "row 7: a value of type int is no image"),
        ({"image": 1}, "row 7: a value of type dict is no image"),
        ([], "row 7: nested lists must be H x W x 3"),
        ([[1, 2], [3]], "row 7: nested lists must be H x W x 3"),
        ([[1, 2], [3, 4]], "row 7: nested lists must be H x W x 3"),
        ([[[1, 2, 256]]], "row 7: nested lists must be H x W x 3"),
        ([[[1, 2, -1]]], "row 7: nested lists must be H x W x 3"),
        ([[[0.5, 0.5, 0.5]]], "row 7: nested lists must be H x W x 3"),
        ([[[1, 2]]], "row 7: an array uint8 1 x 1 x 2 is no image"),
        (np.zeros((2, 2, 3)), "row 7: an array float64 2 x 2 x 3 is no image"),
        (np.zeros((0, 2, 3), np.uint8), "row 7: an array uint8 0 x 2 x 3 is no image"),
        (np.zeros((2, 2, 2, 3), np.uint8), "row 7: an array uint8 2 x 2 x 2 x 3 is no image"),
    ],
)
def test_what_is_no_image_is_named(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_pixels(value, "row 7")


@pytest.mark.parametrize("value", [PNG, TEXT, np.zeros((34, 45, 3), np.uint8), np.zeros((34, 45), np.uint8)])
def test_too_many_pixels_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"row 0: 45 x 34 pixels is more than .*1000"):
        to_pixels(value, "row 0", 1000)


def test_text_names_a_file_only_where_the_environment_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(PNG)
    refusals = []
    for text in (str(path), str(tmp_path / "absent.png")):
        with pytest.raises(UserError) as refused:
            to_pixels(text, "row 0")
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1], "whether a file exists cannot be told"
    monkeypatch.setenv(ALLOW_PATHS, "1")
    np.testing.assert_array_equal(to_pixels(str(path), "row 0"), read_image(path))
    np.testing.assert_array_equal(to_pixels(TEXT, "row 0"), read_image(path))
    with pytest.raises(UserError, match="the text is not base64"):
        to_pixels(str(tmp_path / "absent.png"), "row 0")


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=12,
    )
    | npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3))
)
def test_anything_is_an_image_or_one_clear_error(value: Any) -> None:
    assert ALLOW_PATHS not in os.environ
    for image in single_images([value]):
        message, pixels = "", np.zeros((1, 1, 3), np.uint8)
        try:
            pixels = to_pixels(image, "row 0")
        except UserError as error:
            message = str(error)
        assert message.startswith("row 0: ") or not message
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)


def test_what_mlflow_packs_into_one_cell_is_several_images() -> None:
    path = Path("a.png")
    column = [["a", "b"], "c", np.array("d"), [path, path], np.array(["e", "f"]), b"g"]
    assert list(single_images(column)) == ["a", "b", "c", "d", path, path, "e", "f", b"g"]
