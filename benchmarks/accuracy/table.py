"""One table of all cells: mean and standard deviation over seeds, ranked by pseudo anomalies alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.figures import FIGURES
from benchmarks.accuracy.records import Record
from stlm_core.files import write_bytes_atomic
from stlm_core.training.loop import SELECTION

_NONE = "-"
Spread = tuple[float, float | None]


@dataclass(frozen=True)
class Row:
    """A configuration on a line. ``selected_by``, ``test``, ``minutes`` and ``peak_memory_gib`` are pairs of a mean and
    a standard deviation over the seeds (None for one seed). ``rank``: among the line's configurations, by
    ``selected_by``; None for what has no such figure."""

    line: str
    configuration: str
    seeds: tuple[int, ...]
    selected_by: Spread | None
    rank: int | None
    test: Mapping[str, Spread]
    minutes: Spread
    peak_memory_gib: Spread


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation, which one value does not have."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def summarise(records: Sequence[Record]) -> list[Row]:
    """A row for each line and configuration, lines in the order they come, best rank first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.line, record.configuration), []).append(record)
    rows = [_row(sorted(group, key=lambda record: record.seed)) for group in groups.values()]
    lines = dict.fromkeys(row.line for row in rows)
    return [row for line in lines for row in _ranked([row for row in rows if row.line == line])]


def overall(rows: Sequence[Row]) -> dict[str, float]:
    """The mean over all lines of the figure that ranks, best first, for configurations that ran on every line where
    any configuration was ranked."""
    ranked = [row for row in rows if row.selected_by is not None]
    lines = {row.line for row in ranked}
    found: dict[str, dict[str, float]] = {}
    for row in ranked:
        assert row.selected_by is not None
        found.setdefault(row.configuration, {})[row.line] = row.selected_by[0]
    means = {name: statistics.fmean(values.values()) for name, values in found.items() if set(values) == lines}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def to_markdown(rows: Sequence[Row]) -> str:
    """The table; shares in percent, figures that no row has are left out."""
    figures = [name for name in FIGURES if any(name in row.test for row in rows)]
    header = ["line", "configuration", "seeds", "selected by (pseudo anomalies)", "rank"]
    header += [*(FIGURES[name] for name in figures), "minutes", "peak GiB"]
    body = [
        [
            row.line,
            row.configuration,
            " ".join(map(str, row.seeds)),
            percent(row.selected_by),
            str(row.rank or _NONE),
            *(percent(row.test.get(name)) for name in figures),
            number(row.minutes),
            number(row.peak_memory_gib),
        ]
        for row in rows
    ]
    return markdown(header, body)


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, with a line break at its end."""
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def percent(value: Spread | float | None) -> str:
    """A share, with its spread if it has one, as percent with two decimals."""
    if value is None:
        return _NONE
    mean, deviation = value if isinstance(value, tuple) else (value, None)
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" +- {100 * deviation:.2f}")


def number(value: Spread) -> str:
    """The mean with one decimal; how costs spread is a matter of the machine."""
    return f"{value[0]:.1f}"


def warnings(records: Sequence[Record]) -> list[str]:
    """What a reader must know before comparing rows."""
    told = []
    for what in ("code", "device"):
        seen = sorted({str(record.facts.get(what, "")) for record in records})
        if len(seen) > 1:
            told.append(f"the cells were made with more than one {what}: {', '.join(seen)}")
    banks: dict[tuple[str, int], set[str]] = {}
    for record in records:
        if record.pseudo:
            banks.setdefault((record.line, record.seed), set()).add(str(record.facts.get("pseudo_anomalies", "")))
    if unlike := sorted({line for (line, _), seen in banks.items() if len(seen) > 1}):
        told.append(
            f"configurations of {', '.join(unlike)} were validated on different pseudo anomalies (size, splits or "
            "number of variants); their ranks compare unlike figures"
        )
    return told


def write_tables(results: Path, records: Sequence[Record]) -> str:
    """``accuracy.json`` and ``accuracy.md`` in the folder; returns what the second holds."""
    rows = summarise(records)
    told = to_markdown(rows)
    ranking = overall(rows)
    if ranking:
        places = ", ".join(f"{name} {percent(value)}" for name, value in ranking.items())
        told += f"\nOver all lines, by pseudo anomalies alone: {places}.\n"
    told += "".join(f"\nNote: {warning}.\n" for warning in warnings(records))
    content: dict[str, Any] = {
        "rows": [asdict(row) for row in rows],
        "overall_by_pseudo_anomalies": ranking,
        "cells": [asdict(record) for record in records],
    }
    write_bytes_atomic(results / "accuracy.json", (json.dumps(content, indent=2) + "\n").encode())
    write_bytes_atomic(results / "accuracy.md", told.encode())
    return told


def _row(group: Sequence[Record]) -> Row:
    selected = [record.pseudo[SELECTION] for record in group if SELECTION in record.pseudo]
    common = [name for name in FIGURES if all(name in record.test for record in group)]
    return Row(
        line=group[0].line,
        configuration=group[0].configuration,
        seeds=tuple(record.seed for record in group),
        selected_by=spread(selected) if len(selected) == len(group) else None,
        rank=None,
        test={name: spread([record.test[name] for record in group]) for name in common},
        minutes=spread([sum(record.seconds.values()) / 60 for record in group]),
        peak_memory_gib=spread([record.peak_memory_mib / 1024 for record in group]),
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows of one line with their ranks: only the figure of pseudo anomalies is looked at."""
    chosen = sorted((row for row in rows if row.selected_by), key=lambda row: -(row.selected_by or (0.0, None))[0])
    ranked = [Row(**{**vars(row), "rank": place}) for place, row in enumerate(chosen, start=1)]
    return [*ranked, *(row for row in rows if not row.selected_by)]
