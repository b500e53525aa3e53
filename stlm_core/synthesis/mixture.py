"""A pseudo-anomalous image from several families, with a mask of what can be seen of it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from stlm_core.errors import UserError
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.blend import is_grey, pseudo_anomaly
from stlm_core.synthesis.families import FAMILIES, Material
from stlm_core.synthesis.shapes import Image, Mask
from stlm_core.synthesis.textures import TextureSource

# Mean change over a region, grey levels of the channel that changes most: a small outline needs more than a Perlin
# mask's 3 levels to be seen.
MIN_VISIBLE_CHANGE = 6.0
_MIN_PIXELS = 10 / 256**2  # share of the image that must be left
_SINGLE = 0.6  # probability of one anomaly instead of two or three
_MAX_DRAWS = 100


def anomaly(
    clean: Image, donor: Image, textures: TextureSource, rng: np.random.Generator, settings: SynthesizeConfig
) -> tuple[Image, Mask]:
    """One pseudo-anomalous counterpart of ``clean`` (S, S, 3) as configured: image (S, S, 3) and mask (S, S).

    The paper's family alone is its one Perlin mask. ``donor`` (S, S, 3): a good image of the line.

    Raises:
        UserError: see :func:`mixed_anomaly`.
    """
    perlin = {
        "beta_max": settings.beta_max,
        "max_exponent": settings.perlin_max_exponent,
        "threshold": settings.perlin_threshold,
    }
    if settings.families == ("perlin",):
        return pseudo_anomaly(clean, textures, rng, **perlin)  # type: ignore[arg-type]
    material = Material(textures, donor, is_grey(clean), **perlin)  # type: ignore[arg-type]
    return mixed_anomaly(clean, settings.families, material, rng)


def mixed_anomaly(
    image: Image, families: Sequence[str], material: Material, rng: np.random.Generator
) -> tuple[Image, Mask]:
    """One to three anomalies of random ``families`` on ``image`` (S, S, 3), and the mask (S, S), never empty.

    Connected regions that changed by less than 6 levels in the mean are taken back and not marked. A draw of which
    nothing is left is repeated.

    Raises:
        UserError: every draw was invisible, or see :func:`~stlm_core.synthesis.perlin.perlin_mask`.
    """
    for _ in range(_MAX_DRAWS):
        made, mask = image, np.zeros(image.shape[:2], np.bool_)
        for _ in range(1 if rng.random() < _SINGLE else int(rng.integers(2, 4))):
            found = FAMILIES[families[int(rng.integers(len(families)))]](made, material, rng)
            if found is not None:
                made, mask = found[0], mask | found[1]
        kept = _visible(image, made, mask)
        if np.count_nonzero(kept) >= _MIN_PIXELS * kept.size:
            if (unseen := mask & ~kept).any():
                made = made.copy()
                made[unseen] = image[unseen]
            return made, kept
    raise UserError(
        f"synthesize.families: none of {_MAX_DRAWS} draws can be told from the image; use more families or textures"
    )


def _visible(image: Image, made: Image, mask: Mask) -> Mask:
    """The connected regions of ``mask`` that changed visibly."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    kept = np.zeros_like(mask)
    # A window of no pixels: nothing is marked.
    if width and height:
        red, green, blue = cv2.split(cv2.absdiff(made[window], image[window]))
        change = cv2.max(cv2.max(red, green), blue)  # many times faster than a maximum over an axis of three
        count, labels = cv2.connectedComponents(np.ascontiguousarray(mask[window]).view(np.uint8), connectivity=8)
        area = np.bincount(labels.ravel(), minlength=count)
        shown = np.bincount(labels.ravel(), weights=change.ravel(), minlength=count) >= MIN_VISIBLE_CHANGE * area
        shown[0] = False  # the background
        kept[window] = shown[labels]
    return kept
