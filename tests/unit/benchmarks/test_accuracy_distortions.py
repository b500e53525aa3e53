"""Distortions move the mask with the image; robustness counts what they do to a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_onnx import tiny_onnx

from benchmarks.accuracy.distortions import DISTORTIONS, blur, brightness, jpeg, rotate, shift
from benchmarks.accuracy.robustness import measure, to_markdown
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.runtime.model import DetectorSession


def marked(height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A dark image with a white rectangle off its centre, and the rectangle's mask."""
    mask = np.zeros((height, width), np.bool_)
    mask[20:35, 70:100] = True
    return np.where(mask[..., None], np.uint8(250), np.uint8(20)).repeat(3, 2), mask


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_mask_stays_on_the_defect(name: str) -> None:
    image, mask = marked()
    distorted, moved = DISTORTIONS[name](image, mask)
    assert (distorted.shape, distorted.dtype) == (image.shape, np.uint8)
    assert moved is not None
    assert (moved.shape, moved.dtype) == (mask.shape, np.bool_)
    bright = distorted[..., 0] > 128
    assert (bright & moved).sum() / (bright | moved).sum() > 0.9


@pytest.mark.parametrize("name", DISTORTIONS)
def test_good_images_have_no_mask(name: str) -> None:
    assert DISTORTIONS[name](marked()[0], None)[1] is None


def test_shift_is_exact_and_mirrors_what_comes_in() -> None:
    image, mask = marked()
    distorted, moved = shift(image, mask, share=0.1)
    assert moved is not None
    np.testing.assert_array_equal(distorted[9:, 12:], image[:-9, :-12])
    np.testing.assert_array_equal(distorted[8::-1, 12:], image[:9, :-12])
    np.testing.assert_array_equal(moved[9:, 12:], mask[:-9, :-12])


def test_rotation_turns_about_the_centre() -> None:
    image, mask = marked(101, 101)
    turned, moved = rotate(image, mask, degrees=90.0)
    np.testing.assert_array_equal(turned, np.rot90(image))
    assert moved is not None
    np.testing.assert_array_equal(moved, np.rot90(mask))


def test_rotation_leaves_no_black_corner() -> None:
    assert rotate(np.full((60, 90, 3), 200, np.uint8), None, degrees=5.0)[0].min() == 200


def test_light_and_optics() -> None:
    image, _ = marked()
    assert set(np.unique(brightness(image, None, factor=1.2)[0])) == {24, 255}
    assert set(np.unique(brightness(image, None, factor=0.8)[0])) == {16, 200}
    blurred = blur(image, None, sigma=2.0)[0]
    assert abs(float(blurred.mean()) - float(image.mean())) < 1
    assert blurred.std() < image.std()
    assert 0 < np.abs(jpeg(image, None, quality=50)[0].astype(int) - image).mean() < 10


def line_of_two(folder: Path) -> Manifest:
    """A good dark image and one with a bright defect in its last columns."""
    good = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.bool_)
    mask[10:20, 39:] = True
    rows = []
    for name, image in (("bad", np.where(mask[..., None], np.uint8(255), good)), ("good", good)):
        Image.fromarray(image).save(folder / f"{name}.png")
        label = int(name == "bad")
        row = ManifestRow(f"{name}.png", "test", label, name, "mask.png" if label else "", "", "0", 1, 40, 40, "RGB")
        rows.append(row)
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "mask.png")
    return Manifest(folder, tuple(rows))


def test_robustness_at_the_shipped_threshold(tmp_path: Path) -> None:
    manifest, session = line_of_two(tmp_path), DetectorSession(tiny_onnx())
    plain = measure(session, manifest, "none", DISTORTIONS["none"])
    assert plain.left_out == 0
    assert set(plain.figures) >= {"image_auroc", "pixel_auroc", "aupro_30"}
    assert (plain.figures["recall"], plain.figures["false_reject_rate"]) == (1.0, 0.0)
    brighter = measure(session, manifest, "light", lambda image, mask: brightness(image, mask, factor=1.4))
    assert brighter.figures["false_reject_rate"] == 1.0
    assert "| light | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 | 0 |" in to_markdown([plain, brighter])


def test_a_defect_that_left_the_picture_is_left_out(tmp_path: Path) -> None:
    outcome = measure(DetectorSession(tiny_onnx()), line_of_two(tmp_path), "shift", DISTORTIONS["shift by 5 %"])
    assert outcome.left_out == 1
    assert "recall" not in outcome.figures
    assert outcome.figures["false_reject_rate"] == 0.0
