"""Selection without defects: held-back good images against pseudo anomalies put on them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from stlm_core.errors import UserError
from stlm_core.evaluation.metrics.image import image_auroc
from stlm_core.evaluation.metrics.pixel import pixel_accumulator
from stlm_core.evaluation.metrics.ranking import average_precision, ranking_auroc
from stlm_core.models.detector import Detector
from stlm_core.synthesis.bank import Bank
from stlm_core.training.loop import SELECTION

_BATCH = 8


class PseudoValidation:
    """The bank's ``validation`` views: each held-back good image and its pseudo-anomalous variants.

    Says nothing of a detector from ``train-fa`` with a memory: it has remembered these images last of all.

    Raises:
        UserError: the bank has no validation images.
    """

    def __init__(self, bank: Bank) -> None:
        rows = bank.index[bank.index["split"] == "validation"]
        if rows.empty:
            raise UserError("the bank has no `validation` images; raise data.validation_fraction or add good images")
        self._bank = bank
        self._views = rows["view"].to_numpy(dtype=np.int64)
        self._labels = (rows["variant"].to_numpy() > 0).astype(np.int64)

    def figures(self, detector: Detector, device: torch.device) -> dict[str, float]:
        """Image AUROC, pixel AUROC and pixel AP of the detector, as fractions, and ``selection``, the mean of image
        AUROC and pixel AP: on pseudo anomalies the pixel AUROC is too near 1 to tell two states apart."""
        scores: list[npt.NDArray[np.float32]] = []
        pixels = pixel_accumulator()
        detector.eval()
        for raw, maps, masks in self._predictions(detector, device):
            scores.append(raw)
            for anomaly_map, mask in zip(maps, masks, strict=True):
                pixels.update(anomaly_map, mask)
        counts = pixels.counts()
        image = image_auroc(self._labels, np.concatenate(scores))
        pixel, precision = ranking_auroc(counts), average_precision(counts)
        if image is None or pixel is None or precision is None:
            raise UserError("the bank's validation images lack good or pseudo-anomalous views; synthesize again")
        return {
            SELECTION: (image + precision) / 2,
            "image_auroc": image,
            "pixel_auroc": pixel,
            "pixel_ap": precision,
        }

    @torch.no_grad()
    def _predictions(
        self, detector: Detector, device: torch.device
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        for start in range(0, len(self._views), _BATCH):
            views = self._views[start : start + _BATCH].tolist()
            raw, maps = detector(torch.from_numpy(self._bank.views(views)).to(device))
            yield raw.float().cpu().numpy(), maps.float().cpu().numpy(), self._bank.masks(views)
