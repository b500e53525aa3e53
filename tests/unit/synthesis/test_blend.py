"""What may change in a pseudo-anomalous image, and by how much."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.errors import UserError
from stlm_core.synthesis.blend import MIN_VISIBLE_CHANGE, blend, is_grey, pseudo_anomaly
from stlm_core.synthesis.perlin import MIN_MASK_FRACTION
from stlm_core.synthesis.textures import ProceduralTextures

from .conftest import part_image

TEXTURES = ProceduralTextures(96)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), beta_max=st.floats(0, 0.99))
def test_pixels_outside_the_mask_are_the_clean_ones(seed: int, beta_max: float) -> None:
    clean = part_image(seed % 7)
    image, mask = pseudo_anomaly(clean, TEXTURES, np.random.default_rng(seed), beta_max=beta_max)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[~mask], clean[~mask])
    assert mask.mean() >= MIN_MASK_FRACTION
    change = np.abs(image.astype(int) - clean)[mask].max(axis=-1)
    assert change.mean() >= MIN_VISIBLE_CHANGE


@settings(max_examples=40, deadline=None)
@given(beta=st.floats(0, 1), level=st.integers(0, 255))
def test_blend_is_the_papers_formula(beta: float, level: int) -> None:
    image = part_image(3)
    texture = np.full_like(image, level)
    mask = np.zeros(image.shape[:2], bool)
    mask[20:60, 30:70] = True
    blended, kept = blend(image, texture[mask], mask, beta)
    expected = beta * image.astype(float) + (1 - beta) * texture
    if kept.any():
        np.testing.assert_array_equal(kept, mask)
        np.testing.assert_allclose(blended[mask], expected[mask], atol=0.5001)
    else:
        np.testing.assert_array_equal(blended, image)
        assert np.abs(expected - image)[mask].max(axis=-1).mean() < MIN_VISIBLE_CHANGE + 0.5


def test_invisible_regions_leave_mask_and_pixels_alone() -> None:
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:, 32:] = 200
    mask = np.zeros((64, 64), bool)
    mask[10:20, 5:15] = True  # the texture has the image's own grey here
    mask[10:20, 40:50] = True
    blended, kept = blend(image, np.full_like(image, 101)[mask], mask, 0.0)
    assert not kept[:, :32].any()
    np.testing.assert_array_equal(kept[:, 32:], mask[:, 32:])
    np.testing.assert_array_equal(blended[:, :32], image[:, :32])
    assert (blended[10:20, 40:50] == 101).all()


def test_an_empty_mask_changes_nothing() -> None:
    image = part_image(0)
    blended, kept = blend(image, np.empty((0, 3), np.uint8), np.zeros(image.shape[:2], bool), 0.2)
    np.testing.assert_array_equal(blended, image)
    assert not kept.any()


def test_blend_does_not_write_into_its_input() -> None:
    image = part_image(0)
    before = image.copy()
    blend(image, np.zeros((image[..., 0].size, 3), np.uint8), np.ones(image.shape[:2], bool), 0.2)
    np.testing.assert_array_equal(image, before)


def test_beta_covers_its_range_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from stlm_core.synthesis import blend as module

    betas = []

    def recording(image, texture, mask, beta):  # type: ignore[no-untyped-def]
        betas.append(beta)
        return blend(image, texture, mask, beta)

    monkeypatch.setattr(module, "blend", recording)
    clean = part_image(0)
    for seed in range(200):
        pseudo_anomaly(clean, TEXTURES, np.random.default_rng(seed), beta_max=0.8)
    assert min(betas) < 0.05
    assert 0.75 < max(betas) < 0.8
    assert abs(np.mean(betas) - 0.4) < 0.06


def test_grey_images_stay_grey_and_coloured_ones_do_not() -> None:
    grey, coloured = part_image(1, grey=True), part_image(1)
    assert is_grey(grey)
    assert not is_grey(coloured)
    for seed in range(10):
        assert is_grey(pseudo_anomaly(grey, TEXTURES, np.random.default_rng(seed))[0])
    assert any(
        not is_grey(pseudo_anomaly(np.full_like(coloured, (90, 91, 90)), TEXTURES, np.random.default_rng(seed))[0])
        for seed in range(5)
    )


def test_same_seed_same_pixels() -> None:
    clean = part_image(2)
    first, second, other = (pseudo_anomaly(clean, TEXTURES, np.random.default_rng(seed)) for seed in (9, 9, 10))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()


def test_texture_that_never_shows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from stlm_core.synthesis import blend as module

    monkeypatch.setattr(module, "MIN_VISIBLE_CHANGE", 256.0)
    with pytest.raises(UserError, match=r"synthesize\.textures"):
        pseudo_anomaly(part_image(0), TEXTURES, np.random.default_rng(0))
