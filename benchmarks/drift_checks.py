"""How often the drift rule and PSI flag draws of a line's good images; used by `data_checks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from changed_images import DRIFTS, Line
from numpy.typing import NDArray

from stlm_core.data.drift import TrainingStatistics, compare
from stlm_core.data.inspection import Inspected
from stlm_core.settings import ValidateConfig

SIZES = ((160, 160), (84, 84), (84, 20), (20, 20))  # reference, new
CHANGED_SIZES = (84, 20)
DRAWS = 400
NOTHING = "none"
PSI_BINS, PSI_LIMIT = 10, 0.25
PSI_STATISTICS = ("brightness", "contrast", "sharpness", "saturated")
RULES = ValidateConfig()


def ways_to_draw(line: Line) -> list[Line]:
    """The line image by image, and also part by part where its parts are known."""
    if not any(row.group for row in line.rows):
        return [line]
    by_image = replace(line, rows=[replace(row, group="") for row in line.rows])
    return [by_image, replace(line, name=f"{line.name}, by part")]


def false_alarms(name: str, rows: Sequence[Inspected]) -> list[dict[str, Any]]:
    """For every pair of sizes the share of draws without drift that the rule flags, and that PSI does."""
    entries = []
    for sizes in SIZES:
        rng = np.random.default_rng(sizes)
        flagged, psi = [], []
        for _ in range(DRAWS):
            drawn = two_draws(rows, sizes, rng)
            if drawn is None:
                continue
            reference, new = ([rows[index] for index in indices] for indices in drawn)
            flagged.append(is_flagged(reference, new))
            psi.append(largest_psi(reference, new))
        if flagged:
            figures = {
                "flagged": float(np.mean(flagged)),
                "psi_median": float(np.median(psi)),
                "psi_flagged": float(np.mean(np.array(psi) > PSI_LIMIT)),
            }
            entries.append({"line": name, "reference": sizes[0], "new": sizes[1], "draws": len(flagged), **figures})
    return entries


def sensitivity(line: Line) -> dict[str, Any]:
    """By change the share of draws that are flagged when all new images are changed; the draws of `false_alarms`."""
    rng = np.random.default_rng(CHANGED_SIZES)
    learnt = line.learnt
    flagged = dict.fromkeys((NOTHING, *DRIFTS), 0)
    for _ in range(DRAWS):
        drawn = two_draws([line.rows[index] for index in learnt], CHANGED_SIZES, rng)
        if drawn is None:
            raise SystemExit(f"{line.name}: too few good training images")
        reference = [line.rows[learnt[at]] for at in drawn[0]]
        flagged[NOTHING] += is_flagged(reference, [line.rows[learnt[at]] for at in drawn[1]])
        for change in DRIFTS:
            flagged[change] += is_flagged(reference, [line.changed[change][learnt[at]] for at in drawn[1]])
    return {"line": line.name, "flagged": {change: count / DRAWS for change, count in flagged.items()}}


def drawn_rows(count: int = 1000) -> list[Inspected]:
    """Rows whose statistics are drawn: two normal, one log-normal, one exponential; the size is fixed."""
    rng = np.random.default_rng(2)
    names = ("brightness", "contrast", "sharpness", "saturated")
    columns = (
        rng.normal(0.5, 0.03, count),
        rng.normal(0.2, 0.02, count),
        rng.lognormal(4, 0.4, count),
        rng.exponential(0.02, count),
    )
    row = Inspected("", "train", 0, "good", "", "", width=640, height=480)
    values = enumerate(zip(*(column.tolist() for column in columns), strict=True))
    return [replace(row, path=str(at), **dict(zip(names, found, strict=True))) for at, found in values]


def two_draws(
    rows: Sequence[Inspected], counts: tuple[int, int], rng: np.random.Generator
) -> tuple[list[int], list[int]] | None:
    """Indices of that many rows each, which show no part in common; None where there are too few."""
    part_of = [row.group or row.path for row in rows]
    position = {part: at for at, part in enumerate(rng.permutation(sorted(set(part_of))))}
    order = sorted(rng.permutation(len(rows)).tolist(), key=lambda index: position[part_of[index]])
    if len(order) < sum(counts):
        return None
    reference = order[: counts[0]]
    new = [index for index in order[counts[0] :] if part_of[index] != part_of[reference[-1]]][: counts[1]]
    return (reference, new) if len(new) == counts[1] else None


def is_flagged(reference: Sequence[Inspected], new: Sequence[Inspected]) -> bool:
    """Whether any statistic exceeds the default limits."""
    drifts = compare(TrainingStatistics.of(reference), new)
    return any(drift.exceeds(RULES.max_drift, RULES.max_outside) for drift in drifts)


def largest_psi(reference: Sequence[Inspected], new: Sequence[Inspected]) -> float:
    """The largest PSI of the four statistics that vary on every line."""

    def values(rows: Sequence[Inspected], name: str) -> NDArray[np.float64]:
        return np.array([getattr(row, name) for row in rows], np.float64)

    return max(population_stability(values(reference, name), values(new, name)) for name in PSI_STATISTICS)


def population_stability(reference: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    """PSI over the reference's deciles; an empty bin counts as half an image."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    shares = []
    for values in (reference, new):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts, 0.5) / len(values))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
