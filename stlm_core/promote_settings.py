"""The settings of the promotion gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stlm_core.settings_section import Fraction, Section


class PromoteConfig(Section):
    """The gate. Metrics are fractions of 1; a null floor is not asked for.

    ``automatic``: the pipeline on a cluster promotes what passes; with false it ends with the challenger, and a person
    runs `stlm promote`.

    Against the champion, on the test images that both have seen: ``max_regression`` is the loss of image AUROC and
    AUPRO that is put up with, ``max_rate_regression`` that of recall and false rejects, which a single image moves
    more; ``confidence`` is how sure one must be that the loss is not larger. ``max_type_regression``: share of a defect
    type that may be lost. ``max_score_shift``: how far the score that operators see of the same good part may move, of
    1. With fewer common images than ``min_common_good`` and ``min_common_defects``, or when they cannot decide,
    ``undecided`` says whether a `person` is asked or the champion stays (`keep`).

    ``commercial``: the model is for a commercial product; one of non-commercial or unknown data or teacher is refused.
    """

    automatic: bool = True
    min_image_auroc: Fraction | None = Field(0.8, ge=0, le=1)
    min_aupro_30: Fraction | None = Field(None, ge=0, le=1)
    min_recall_at_budget: Fraction | None = Field(None, ge=0, le=1)
    max_regression: Fraction = Field(0.01, ge=0, le=1)
    max_rate_regression: Fraction = Field(0.03, ge=0, le=1)
    undecided: Literal["person", "keep"] = "person"
    confidence: Fraction = Field(0.95, gt=0.5, lt=1)
    max_type_regression: Fraction = Field(0.05, ge=0, le=1)
    max_score_shift: Fraction = Field(0.2, ge=0, le=1)
    min_common_good: int = Field(10, ge=1)
    min_common_defects: int = Field(10, ge=1)
    max_latency_ms: float | None = Field(None, gt=0)
    max_size_mb: float | None = Field(120.0, gt=0)
    commercial: bool = False
