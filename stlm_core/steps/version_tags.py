"""The tags that a registered version has from its first moment, and those of what the gate says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.files import read_json_object
from stlm_core.integrations.mlflow_run import RunContent
from stlm_core.integrity import SHA256_TAG, SIGNATURE_TAG
from stlm_core.promotion.gate import COMPARED

IMAGE_DIGEST = "STLM_IMAGE_DIGEST"
"""Environment variable: the container image this runs in, ``name@sha256:...`` or the digest alone."""

KEPT, NEEDS_HUMAN = ("kept_at", "kept_reason"), ("needs_human_at", "needs_human_reason")
"""Why a challenger was kept back, or waits for a person; until it is proposed anew."""

_DIGEST = re.compile(r"([^@\s]+@)?sha256:[0-9a-f]{64}")
_REMEDY = "run the step that makes it again"


def version_tags(content: RunContent, inputs: dict[str, Path]) -> dict[str, str]:
    """What the gate and the status table read, on the version itself.

    ``drift``: of the images from those of the champion at the time, the largest distance of any statistic in standard
    deviations; absent if there was no champion.

    Raises:
        UserError: an output is damaged, or the environment's digest of the image is none.
    """
    parity = read_json_object(inputs["parity"], _REMEDY)
    passed = parity.get("passed") is True and parity.get("onnx_sha256") == content.onnx_sha256
    measured = (*COMPARED, "pixel_auroc", "false_reject_rate")
    numbers = {name: content.metrics[name] for name in measured if name in content.metrics}
    numbers |= {
        "size_mb": content.metrics.get("onnx_size_mb", len(content.model) / 1e6),
        **({"latency_p95_ms": content.metrics["latency_p95_ms"]} if "latency_p95_ms" in content.metrics else {}),
        **_drift(inputs["validation"]),
    }
    return {
        **content.tags,
        **{name: repr(value) for name, value in numbers.items()},
        **_image_digest(),
        **({SIGNATURE_TAG: content.signature} if content.signature else {}),
        SHA256_TAG: content.onnx_sha256,
        "parity_passed": str(passed).lower(),
    }


def _drift(validation: Path) -> dict[str, float]:
    measured = read_json_object(validation, _REMEDY).get("drift", [])
    try:
        distances = [float(statistic["distance"]) for statistic in measured]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{validation}: `drift` is not a list of statistics with a distance; {_REMEDY}") from None
    return {"drift": max(distances)} if distances else {}


def _image_digest() -> dict[str, str]:
    digest = os.environ.get(IMAGE_DIGEST)
    if not digest:
        return {}
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"{IMAGE_DIGEST}: {digest!r} is no digest of an image; give [name@]sha256:<64 hex digits>")
    return {"image_digest": digest}
