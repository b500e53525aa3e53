"""Views that are drawn while training: another pose, light and anomaly of a good image every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.seeding import derive_rng
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.mixture import anomaly
from stlm_core.synthesis.packed_textures import TEXTURES, PackedTextures
from stlm_core.synthesis.rotation import draw_rotation, rotate

Images = npt.NDArray[np.uint8]
_LEVELS = 80.0  # what a share of light is worth in added grey levels


class FreshViews:
    """Draws for the bank in ``folder``; what is drawn follows from the seed, the step and the place in the batch.

    Raises:
        UserError: the bank has no packed textures: it was made without ``synthesize.fresh``.
    """

    def __init__(self, folder: Path, settings: SynthesizeConfig) -> None:
        self._textures, self._settings = PackedTextures(folder / TEXTURES), settings

    def draw(
        self, good: Images, donors: Images, anomalous: npt.NDArray[np.bool_], seed: int, step: int, first: int
    ) -> tuple[Images, npt.NDArray[np.bool_], Images]:
        """From ``good`` images (n, S, S, 3): what is shown, its masks (n, S, S), and the same without the anomalies.

        ``donors`` (n, S, S, 3): other good images, of which pieces may be pasted; ``anomalous`` (n,): which images
        get an anomaly; ``first``: place of the first in the whole batch.
        """
        shown, clean = np.empty_like(good), np.empty_like(good)
        masks = np.zeros(good.shape[:3], np.bool_)
        for place in range(len(good)):
            rng = derive_rng("fresh", seed, step, first + place)
            clean[place] = self._seen_again(good[place], rng)
            shown[place] = clean[place]
            if anomalous[place]:
                shown[place], masks[place] = anomaly(clean[place], donors[place], self._textures, rng, self._settings)
        return shown, masks, clean

    def _seen_again(self, image: Images, rng: np.random.Generator) -> Images:
        """``image`` (S, S, 3) in another pose and light, as the line's settings allow."""
        posed = rotate(image, draw_rotation(self._settings.rotation, rng))
        light = self._settings.light
        if light == 0:
            return posed
        gain, offset = rng.uniform(1 - light, 1 + light), rng.uniform(-light, light) * _LEVELS
        return np.asarray(np.clip(np.rint(posed * np.float32(gain) + np.float32(offset)), 0, 255), np.uint8)
