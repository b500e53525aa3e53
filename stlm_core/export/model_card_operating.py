"""The operating point in parts: of a thousand, and of a day's production."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stlm_core.evaluation.operating_point import OperatingPoint

CONFIDENCE = 0.95
DAYS = (1_000, 10_000)  # parts
DEFECTIVE_SHARE = 0.01  # assumed for a day: what a line really has is not known here


@dataclass(frozen=True)
class Operating:
    """``rejects`` and ``misses`` say what becomes of a thousand good and a thousand defective parts: pairs of what and
    how many. ``days``: rows of what happens on a day, one value for each of :data:`DAYS`."""

    rejects: tuple[tuple[str, str], ...]
    misses: tuple[tuple[str, str], ...]
    days: tuple[tuple[str, ...], ...]


def operating(point: OperatingPoint, metrics: Mapping[str, float]) -> Operating:
    """What the operating point and the measured shares mean. ``metrics``: as in ``metrics.json``."""
    bound = point.false_reject_bound(CONFIDENCE)
    rejects = [
        ("budget that was asked for", count(1000 * point.budget)),
        ("expected, averaged over sets of held-back images: at most", at_most(1000 * point.guaranteed_false_reject)),
        (f"this very threshold, with {CONFIDENCE:.0%} confidence: at most", at_most(1000 * bound)),
    ]
    misses = []
    measured = _shares(metrics, "false_reject_rate")
    if measured:
        rejects.append((f"measured on {_images(metrics, 'test_good', 'good')}", _range(measured, 1000)))
    found = _shares(metrics, "recall_at_budget")
    if found:
        missed = tuple(1 - share for share in (found[0], *reversed(found[1:])))
        misses = [
            (f"found, on {_images(metrics, 'test_anomalous', 'defective')}", _range(found, 1000)),
            ("missed", _range(missed, 1000)),
        ]
    good = [parts * (1 - DEFECTIVE_SHARE) for parts in DAYS]
    defective = [parts * DEFECTIVE_SHARE for parts in DAYS]
    days = [
        ("good parts rejected, if the budget is used up", *(count(point.budget * parts) for parts in good)),
        ("good parts rejected, expected at most", *(at_most(point.guaranteed_false_reject * parts) for parts in good)),
        (f"good parts rejected, at most with {CONFIDENCE:.0%} confidence", *(at_most(bound * parts) for parts in good)),
    ]
    if measured:
        days.append(("good parts rejected, as measured", *(_range(measured, parts) for parts in good)))
    if found:
        days.append(("defective parts found", *(_range(found, parts) for parts in defective)))
        days.append(("defective parts passed as good", *(_range(missed, parts) for parts in defective)))
    return Operating(tuple(rejects), tuple(misses), tuple(days))


def count(parts: float) -> str:
    """A number of parts; with one decimal where that is more than nothing to the eye."""
    rounded = round(parts, 1) if parts < 10 else round(parts)
    return f"{rounded:,.1f}" if rounded % 1 else f"{rounded:,.0f}"


def at_most(parts: float) -> str:
    """An upper bound in parts, rounded up."""
    # Rounding errors of a product must not push a whole number to the next one.
    scale = 10 if parts < 10 else 1
    return count(math.ceil(round(parts * scale, 6)) / scale)


def _shares(metrics: Mapping[str, float], name: str) -> tuple[float, ...]:
    """Value, low and high of a share; empty if it was not measured."""
    names = (name, f"{name}_low", f"{name}_high")
    return tuple(metrics[each] for each in names) if all(each in metrics for each in names) else ()


def _range(shares: tuple[float, ...], parts: float) -> str:
    value, low, high = (count(share * parts) for share in shares)
    return f"{value} ({low} to {high})"


def _images(metrics: Mapping[str, float], name: str, kind: str) -> str:
    number = int(metrics.get(name, 0))
    return f"1 {kind} test image" if number == 1 else f"{number:,} {kind} test images"
