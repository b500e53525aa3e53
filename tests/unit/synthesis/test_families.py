"""Every family changes the image where its mask says, is repeatable, and keeps grey pictures grey."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.errors import UserError
from stlm_core.synthesis.blend import is_grey
from stlm_core.synthesis.families import FAMILIES, Material
from stlm_core.synthesis.mixture import MIN_VISIBLE_CHANGE, mixed_anomaly
from stlm_core.synthesis.shapes import draw_area, draw_bar, draw_blob, draw_centre, draw_curve, place
from stlm_core.synthesis.textures import ProceduralTextures

from .conftest import part_image

TEXTURES = ProceduralTextures(96)
LOCAL = sorted(set(FAMILIES) - {"perlin", "shade"})  # those that change nothing outside their mask


def material(image: np.ndarray) -> Material:
    return Material(TEXTURES, image, is_grey(image))


def grey_image(seed: int) -> np.ndarray:
    return np.repeat(part_image(seed)[..., :1], 3, axis=-1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_marks_what_it_changed_and_repeats_itself(family):
    for seed in range(12):
        image = part_image(seed % 5)
        found = FAMILIES[family](image, material(image), np.random.default_rng(seed))
        again = FAMILIES[family](image, material(image), np.random.default_rng(seed))
        assert (found is None) == (again is None)
        if found is None:
            continue
        made, mask = found
        assert made.shape == image.shape
        assert made.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        assert mask.dtype == np.bool_
        assert mask.any()
        np.testing.assert_array_equal(made, again[0])
        np.testing.assert_array_equal(mask, again[1])
        if family in LOCAL:
            np.testing.assert_array_equal(made[~mask], image[~mask])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_grey_picture_stays_grey(family):
    for seed in range(6):
        image = grey_image(seed)
        found = FAMILIES[family](image, material(image), np.random.default_rng(seed))
        assert found is None or is_grey(found[0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_mixture_is_visible_where_it_is_marked(seed: int) -> None:
    image = part_image(seed % 7)
    made, mask = mixed_anomaly(image, LOCAL, material(image), np.random.default_rng(seed))
    np.testing.assert_array_equal(made[~mask], image[~mask])
    assert np.abs(made.astype(int) - image)[mask].max(axis=-1).mean() >= MIN_VISIBLE_CHANGE


def test_what_nobody_could_see_is_an_error():
    flat = np.full((64, 64, 3), 90, np.uint8)
    with pytest.raises(UserError, match=r"synthesize\.families"):
        mixed_anomaly(flat, ["bend"], material(flat), np.random.default_rng(0))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([64, 96, 256]))
def test_outlines_are_of_the_size_they_promise(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    blob = draw_blob(side, rng, 1e-3, 1e-2)
    assert 0 < blob.sum() <= max(60, 0.03 * side**2)
    bar, curve = draw_bar(side, rng), draw_curve(side, rng)
    assert bar.any()
    assert max(bar.shape) <= 0.5 * side + 8
    assert curve.any()
    assert max(curve.shape) <= 1.5 * side + 12


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([64, 96, 256]))
def test_a_large_area_is_one_piece_of_the_image(seed: int, side: int) -> None:
    area = draw_area(side, np.random.default_rng(seed))
    placed = place(area, (side / 2, side / 2), side)
    assert placed is not None
    pieces, _ = cv2.connectedComponents(placed.mask.view(np.uint8))
    assert pieces == 2  # itself and the background
    assert 0.001 < placed.mask.sum() / side**2 < 0.7


def test_a_finish_leaves_the_surface_but_not_as_it_was():
    """Its structure shows through, unlike that of a patch of foreign matter."""
    image = part_image(3)
    seen = 0
    for seed in range(20):
        found = FAMILIES["finish"](image, material(image), np.random.default_rng(seed))
        if found is None or found[1].sum() < 200:
            continue
        made, mask = found
        before, after = image[mask].mean(-1), made[mask].mean(-1)
        if before.std() > 5 and after.std() > 5:  # not on a flat place, nor driven into white
            seen += 1
            assert np.corrcoef(before, after)[0, 1] > 0.5
    assert seen >= 5


@settings(max_examples=60, deadline=None)
@given(x=st.floats(-50, 150), y=st.floats(-50, 150), seed=st.integers(0, 1000))
def test_a_placed_outline_lies_inside_the_image(x: float, y: float, seed: int) -> None:
    placed = place(draw_blob(96, np.random.default_rng(seed)), (x, y), 96)
    if placed is None:
        return
    assert placed.mask.shape == (placed.rows.stop - placed.rows.start, placed.columns.stop - placed.columns.start)
    assert placed.on(96).sum() == placed.mask.sum() > 0
    weights = placed.softened(1.5)
    assert weights.max() <= 1
    assert (weights[..., 0][~placed.mask] == 0).all()


def test_anomalies_are_put_where_something_is():
    image = np.full((128, 128, 3), 200, np.uint8)
    image[32:64, 32:64] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    rng = np.random.default_rng(1)
    centres = np.array([draw_centre(image, rng) for _ in range(300)])
    inside = ((centres > 26) & (centres < 70)).all(1).mean()
    assert inside > 0.7  # the square and its border are a tenth of the image
    assert ((centres >= 0) & (centres <= 128)).all()
