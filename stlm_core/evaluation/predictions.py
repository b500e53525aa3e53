"""What evaluation takes in: one prediction an image, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GOOD = "good"


@dataclass(frozen=True)
class Prediction:
    """One image of the test split with what the detector says of it.

    ``path``: the image's name in tables and messages. ``label``: 0 good, 1 anomalous. ``defect_type``: "good" for
    good images. ``raw_score``: in [0, 1], before calibration. ``anomaly_map``: (H, W) in [0, 1]. ``mask``: (H, W) bool,
    True where anomalous; None for good images, and for anomalous images without ground truth, which then count at
    image level only. ``image``: uint8 (H, W, 3) RGB. ``sha256`` of the image file and ``group``, the physical part that
    it shows, tell images apart; "" if not known.
    """

    path: str
    label: int
    defect_type: str
    raw_score: float
    anomaly_map: npt.NDArray[np.floating]
    mask: npt.NDArray[np.bool_] | None
    image: npt.NDArray[np.uint8]
    sha256: str = ""
    group: str = ""
