"""The pose policies."""

from __future__ import annotations

import numpy as np
import pytest

from stlm_core.synthesis.rotation import draw_rotation, rotate

from .conftest import part_image


def _draws(policy: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_rotation(policy, rng) for _ in range(500)])  # type: ignore[arg-type]


def test_policies_keep_their_ranges() -> None:
    assert (_draws("none") == 0).all()
    small, quarter, free = _draws("small"), _draws("quarter"), _draws("any")
    assert -5 <= small.min() < -4
    assert 4 < small.max() <= 5
    assert set(quarter) == {0, 90, 180, 270}
    assert free.min() < -160
    assert free.max() > 160


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_quarter_turns_are_exact(degrees: int) -> None:
    image = part_image(0)
    np.testing.assert_array_equal(rotate(image, degrees), np.rot90(image, degrees // 90))


def test_other_angles_turn_the_same_way_and_leave_no_black_corner() -> None:
    image = np.full((65, 65, 3), 200, np.uint8)
    image[:20, 28:37] = 90  # a mark at the top
    turned = rotate(image, 89.99)
    np.testing.assert_allclose(turned, np.rot90(image), atol=3)
    assert rotate(image, 37.0).min() >= 89


def test_a_wide_picture_keeps_its_frame() -> None:
    wide = np.ascontiguousarray(part_image(0)[16:-16])
    np.testing.assert_array_equal(rotate(wide, 180.0), wide[::-1, ::-1])
    height, width = wide.shape[:2]
    turned = rotate(wide, 90.0)
    assert turned.shape == wide.shape
    middle = np.s_[:, (width - height) // 2 : (width + height) // 2]
    np.testing.assert_array_equal(turned[middle], np.rot90(wide[middle]))
