"""MVTec LOCO AD's layout: as MVTec AD, with more good images and a folder of masks for each anomalous image."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from stlm_core.data.adapters.base import folders, list_images, printable
from stlm_core.data.adapters.masks import Mask
from stlm_core.data.adapters.mvtec import MvtecAdapter


class MvtecLocoAdapter(MvtecAdapter):
    """MVTec LOCO AD. The defect types are ``logical_anomalies`` and ``structural_anomalies``.

    ``validation/good`` is for training too: the pipeline makes its own validation and calibration splits. The mask of
    an image is a folder, ``ground_truth/<type>/<stem>``, with one file for each defect or each place where a missing
    object might have been; what counts here is their union, so the pixel values, which stand for the kind of defect
    and its saturation threshold, are not told apart.
    """

    summary: ClassVar[str] = "MVTec LOCO: train/good, validation/good, test/..., ground_truth/<type>/<stem>/000.png"
    format: ClassVar[str] = "mvtec_loco"
    training: ClassVar[tuple[str, ...]] = ("train/good", "validation/good")

    def _check(self, home: Path) -> None:
        """Everything that sets the layout apart is needed anyway."""

    def _masks(self, root: Path, folder: Path) -> list[Mask]:
        masks = []
        for own in folders(folder):
            files = list(list_images(root, own))
            bad = next((f"{path}: {problem}" for path, problem in files if problem), "")
            path = printable(own.relative_to(root).as_posix())
            masks.append(Mask(printable(own.name), path, bad or ("" if files else "no mask in this folder")))
        return masks
