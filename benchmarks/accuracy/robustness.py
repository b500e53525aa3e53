"""A finished model on distorted test images: what is left of its accuracy, and what its threshold then rejects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.distortions import DISTORTIONS, Distortion, Mask
from benchmarks.accuracy.figures import image_figures, pixel_figures
from benchmarks.accuracy.lines import Line, load_pair, validated
from benchmarks.accuracy.table import markdown, percent
from stlm_core.data.manifest import Manifest
from stlm_core.files import write_bytes_atomic
from stlm_core.runtime.model import DetectorSession

_COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO@0.3",
    "false_reject_rate": "false rejects",
    "recall": "recall",
    "unusual": "pictures called unusual",
}


@dataclass(frozen=True)
class Outcome:
    """Figures under one distortion, fractions; false rejects and recall are at the threshold that the model ships,
    ``unusual`` is the share of pictures unlike the line's own in light or focus. ``left_out``: defective images whose
    defect was moved out of the picture."""

    distortion: str
    figures: dict[str, float]
    left_out: int


def measure(session: DetectorSession, manifest: Manifest, name: str, distortion: Distortion) -> Outcome:
    """The model on every test image under one distortion, one image at a time."""
    labels: list[int] = []
    scores: list[float] = []
    rejected: list[bool] = []
    unusual: list[bool] = []
    left_out = 0

    def maps() -> Iterator[tuple[npt.NDArray[np.float32], Mask | None]]:
        nonlocal left_out
        for row in manifest.test():
            image, mask = load_pair(manifest, row)
            image, moved = distortion(image, mask)
            if mask is not None and mask.any() and moved is not None and not moved.any():
                left_out += 1
                continue
            found = session.predict(image[None])
            labels.append(row.label)
            scores.append(float(found.scores[0]))
            rejected.append(bool(found.is_anomalous[0]))
            unusual.append(bool(session.complaints(image)))
            if row.label == 0 or moved is not None:
                yield found.anomaly_maps[0], moved

    figures = pixel_figures(maps())
    figures |= image_figures(labels, scores)
    if unusual and "capture" in session.metadata:
        figures["unusual"] = float(np.mean(unusual))
    truth, decisions = np.array(labels), np.array(rejected)
    for share, label in (("false_reject_rate", 0), ("recall", 1)):
        if (truth == label).any():
            figures[share] = float(decisions[truth == label].mean())
    return Outcome(name, figures, left_out)


def run_robustness(results: Path, line: Line, model: Path) -> str:
    """Measure under all distortions, write ``robustness-<line>.json`` and ``.md``; returns what the latter holds.

    Raises:
        UserError: the model is not one that ``stlm export`` made.
    """
    session = DetectorSession(model)
    manifest = validated(results, line)
    outcomes = []
    for name, distortion in DISTORTIONS.items():
        outcomes.append(measure(session, manifest, name, distortion))
        print(f"{line.name}: {name} done", flush=True)
    content = {
        "line": line.name,
        "model_sha256": session.sha256,
        "threshold": session.threshold,
        "test_images": len(manifest.test()),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    told = to_markdown(outcomes)
    write_bytes_atomic(results / f"robustness-{line.name}.json", (json.dumps(content, indent=2) + "\n").encode())
    write_bytes_atomic(results / f"robustness-{line.name}.md", told.encode())
    return told


def to_markdown(outcomes: list[Outcome]) -> str:
    """The table, in percent, without the figures that the line does not have."""
    columns = [name for name in _COLUMNS if any(name in outcome.figures for outcome in outcomes)]
    body = [
        [outcome.distortion, *(percent(outcome.figures.get(name)) for name in columns), str(outcome.left_out)]
        for outcome in outcomes
    ]
    return markdown(["distortion", *(_COLUMNS[name] for name in columns), "left out"], body)
