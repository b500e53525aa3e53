"""A finished detector with its memory heard more or less: what each share would give on the test images.

For a look at what `stlm_core/training/balance.py` decides without them. A share that is chosen from this table has seen
the test images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.figures import detector_figures
from benchmarks.accuracy.lines import Line, validated
from benchmarks.accuracy.table import markdown, percent
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.models.detector import load_detector
from stlm_core.training.optimisation import pick_device

SHARES = (0.0, 0.25, 0.35, 0.5, 0.65, 0.75, 1.0)
_COLUMNS = {
    "image_auroc": "image AUROC",
    "recall_at_1": "recall at 1 % FRR",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "aupro_30": "AUPRO@0.3",
}


def run_shares(results: Path, line: Line, model: Path, top_pixels: int, shares: Sequence[float] = SHARES) -> str:
    """Measure the detector as it is, and every share, in score and map alike.

    Writes ``shares-<line>.json`` and ``.md``; returns the latter's text.

    ``model``: ``detector.safetensors`` of ``train-fa``, without what ``evaluate`` adds to its memory. ``top_pixels``:
    as in ``evaluate.top_pixels``.

    Raises:
        UserError: the file is no detector of this project, or its detector has no memory.
    """
    detector = load_detector(model, top_pixels).to(pick_device())
    if detector.memory is None:
        raise UserError(f"{model}: this detector has no memory; `model.memory` of its line was 0")
    memory, own = detector.memory, float(detector.memory.share)
    manifest = validated(results, line)
    trained = detector_figures(detector, manifest, manifest.test())
    memory.map_shift.zero_()
    found: dict[float, dict[str, float]] = {}
    for share in sorted(shares):
        memory.share.fill_(share)
        memory.map_share.fill_(share)
        found[share] = detector_figures(detector, manifest, manifest.test())
        print(f"{line.name}: a share of {share:.2f} done", flush=True)
    content = {
        "line": line.name,
        "own_share": own,
        "as_trained": trained,
        "figures": [{"share": share, **figures} for share, figures in found.items()],
    }
    told = to_markdown({f"as trained: {own:.2f} in the score": trained} | {f"{s:.2f}": f for s, f in found.items()})
    write_bytes_atomic(results / f"shares-{line.name}.json", (json.dumps(content, indent=2) + "\n").encode())
    write_bytes_atomic(results / f"shares-{line.name}.md", told.encode())
    return told


def to_markdown(found: dict[str, dict[str, float]]) -> str:
    """The table, in percent, without the figures that the line does not have."""
    columns = [name for name in _COLUMNS if any(name in figures for figures in found.values())]
    body = [[share, *(percent(figures.get(name)) for name in columns)] for share, figures in found.items()]
    return markdown(["share of the memory", *(_COLUMNS[name] for name in columns)], body)
