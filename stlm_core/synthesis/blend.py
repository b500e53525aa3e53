"""Putting a texture on a normal image (paper section 3.1)."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError
from stlm_core.synthesis.perlin import MIN_MASK_FRACTION, Mask, perlin_mask
from stlm_core.synthesis.textures import TextureSource, draw_texture, to_grey

Image = npt.NDArray[np.uint8]

# Mean change over a region, grey levels of the channel that changes most, below which nobody could see the region.
MIN_VISIBLE_CHANGE = 3.0
_MAX_DRAWS = 100


def is_grey(image: Image) -> bool:
    """Whether the three channels of ``image`` (H, W, 3) are equal everywhere: a picture of a grey camera."""
    first = image[..., 0]
    return bool(np.array_equal(first, image[..., 1]) and np.array_equal(first, image[..., 2]))


def blend(image: Image, texture: Image, mask: Mask, beta: float) -> tuple[Image, Mask]:
    """``beta * image + (1 - beta) * texture`` inside ``mask``, the image itself outside.

    ``image``: (H, W, 3); ``mask``: (H, W) with N pixels; ``texture``: (N, 3), for the mask's pixels row by row. Returns
    the pseudo-anomalous image and the mask of what is anomalous in it. A connected region of ``mask`` where the
    texture happens to match the image (mean change below 3 grey levels) is left out of both: labelled, it would teach
    that some normal pixels are anomalies. Within a region that stays, single pixels may be unchanged.
    """
    blended, kept = image.copy(order="C"), np.zeros(mask.shape, np.bool_)
    inside = np.flatnonzero(mask)
    if not len(inside):
        return blended, kept
    pixels = blended.reshape(-1, 3)
    before = pixels.take(inside, axis=0)[:, None]  # (N, 1, 3), which OpenCV takes for an image
    mixed = cv2.addWeighted(before, beta, texture[:, None], 1 - beta, 0)
    changes = cv2.absdiff(mixed, before)[:, 0]
    change = np.maximum(np.maximum(changes[:, 0], changes[:, 1]), changes[:, 2])  # (N,)
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    region = labels.ravel().take(inside)
    area = np.bincount(region, minlength=count)
    visible = np.bincount(region, weights=change, minlength=count) >= MIN_VISIBLE_CHANGE * area
    shown = visible[region]
    chosen = inside[shown]
    pixels[chosen] = mixed[shown, 0]
    kept.reshape(-1)[chosen] = True
    return blended, kept


def pseudo_anomaly(
    clean: Image,
    textures: TextureSource,
    rng: np.random.Generator,
    *,
    beta_max: float = 0.8,
    max_exponent: int = 5,
    threshold: float = 0.5,
) -> tuple[Image, Mask]:
    """One pseudo-anomalous counterpart of ``clean`` (S, S, 3): image (S, S, 3) and mask (S, S), never empty.

    Perlin mask, random texture, ``beta`` uniform in [0, ``beta_max``). On a grey image the texture is made grey
    too: colour alone would give every anomaly away, and the line's real defects have none. A draw whose anomaly is
    invisible is repeated.

    Raises:
        UserError: every draw was invisible, or see :func:`perlin_mask`.
    """
    grey = is_grey(clean)
    for _ in range(_MAX_DRAWS):
        mask = perlin_mask(rng, clean.shape[0], max_exponent, threshold)
        texture = draw_texture(textures, rng, clean.shape[0]).at(np.flatnonzero(mask))
        if grey:
            texture = to_grey(texture[:, None])[:, 0]
        image, kept = blend(clean, texture, mask, rng.uniform(0, beta_max))
        if np.count_nonzero(kept) >= MIN_MASK_FRACTION * kept.size:
            return image, kept
    raise UserError(
        f"synthesize.textures: none of {_MAX_DRAWS} draws can be told from the image; use a more varied texture folder"
    )
