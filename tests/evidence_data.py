"""Made-up evidence of evaluations, for tests of what compares them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.predictions import GOOD, Prediction

SIDE = 8


def evidence(
    scores: Sequence[float] | npt.NDArray[np.floating],
    types: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    localised: Sequence[float] | None = None,
) -> Evidence:
    """Images of 8 x 8 pixels with a defect of 2 x 2, rejected where the score is above 0.5.

    ``types``: "good" or a defect type. ``names`` tell images apart. ``localised``: the map's value on the defect; the
    score itself if not given. Elsewhere the maps rise evenly from 0 to 0.3.
    """
    collector = EvidenceCollector()
    for index, (score, kind) in enumerate(zip(scores, types, strict=True)):
        name = names[index] if names else f"{index}.png"
        anomaly_map = np.linspace(0, 0.3, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
        mask = None
        if kind != GOOD:
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            mask[2:4, 2:4] = True
            anomaly_map[mask] = score if localised is None else localised[index]
        shown = Prediction(
            path=name,
            label=int(kind != GOOD),
            defect_type=kind,
            raw_score=float(score),
            anomaly_map=anomaly_map,
            mask=mask,
            image=np.zeros((SIDE, SIDE, 3), dtype=np.uint8),
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            group=groups[index] if groups else "",
        )
        collector.add(shown, float(score), float(score) > 0.5)
    return collector.build()


def two_models(
    seed: int, good: int, defects: int, *, better: float = 0.0, alike: float = 0.8, types: int = 3
) -> tuple[Evidence, Evidence]:
    """Two detectors on the same images, in logits: defects lie 3 above good parts, the first model's ``better`` higher.

    ``alike``: correlation of the two models' noise.
    """
    rng = np.random.default_rng(seed)
    kinds = [GOOD] * good + [f"type {index % types}" for index in range(defects)]
    level = np.array([-2.0] * good + [1.0] * defects)
    shared = rng.normal(size=good + defects)
    own = rng.normal(size=(2, good + defects))
    noise = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
    lift = np.where(level > 0, better, 0.0)
    first, second = (1 / (1 + np.exp(-(level + noise[index] + (lift if index == 0 else 0)))) for index in range(2))
    return evidence(first, kinds), evidence(second, kinds)
