"""Views that are drawn while training: another pose, camera and anomaly of a good image every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.seeding import derive_rng
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.camera import Camera, draw_camera
from stlm_core.synthesis.mixture import anomaly
from stlm_core.synthesis.packed_textures import TEXTURES, PackedTextures
from stlm_core.synthesis.pose import read_pose
from stlm_core.synthesis.rotation import draw_rotation, rotate

Images = npt.NDArray[np.uint8]


class FreshViews:
    """Draws for the bank in ``folder``; what is drawn follows from the seed, the step and the place in the batch.

    Raises:
        UserError: the bank has no packed textures: it was made without ``synthesize.fresh``; or with
            ``synthesize.rotation: auto`` no pose.
    """

    def __init__(self, folder: Path, settings: SynthesizeConfig) -> None:
        self._textures, self._settings = PackedTextures(folder / TEXTURES), settings
        self._rotation = read_pose(folder).policy if settings.rotation == "auto" else settings.rotation

    @property
    def varied(self) -> bool:
        """Whether :meth:`again` can show another image than it is given."""
        allowed = self._settings
        moved = self._rotation != "none" or allowed.shift > 0
        return moved or allowed.light > 0 or allowed.blur > 0 or allowed.jpeg_quality < 100

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
            scene, camera = self._scene(good[place], rng)
            faulty = scene
            if anomalous[place]:
                faulty, masks[place] = anomaly(scene, donors[place], self._textures, rng, self._settings)
            shown[place] = camera.photographed(faulty)
            clean[place] = camera.photographed(scene) if anomalous[place] else shown[place]
        return shown, masks, clean

    def again(self, image: Images, rng: np.random.Generator) -> Images:
        """``image`` (S, S, 3) without an anomaly, in another pose and before another camera."""
        scene, camera = self._scene(image, rng)
        return camera.photographed(scene)

    def _scene(self, image: Images, rng: np.random.Generator) -> tuple[Images, Camera]:
        posed = rotate(image, draw_rotation(self._rotation, rng))
        camera = draw_camera(self._settings, len(image), rng)
        return camera.lit(posed), camera
