"""What the checks for near-duplicates and drift find at their default settings, and what they should not have found.

    python benchmarks/data_checks.py [--datasets DATASETS] [--scratch FOLDER] [--json FILE]

Measured on the sample line with 180 good training images, and on `mvtec_ad/bottle`, `mvtec_ad/screw` and
`magnetic_tile` in DATASETS. Every image is decoded once; what is changed is changed in memory. All draws are seeded.

Near-duplicates: pairs that count as copies in lines as published, and the share of true copies that are found. Copies
of every n-th good training image, 60 a line, are put among the line's images as test images whose part is
unknown, five at a time, because copies of many images change what counts as alike. A copy is found when it is paired
with its original or another image of the original's part.

Drift: two disjoint draws from the good training images of a line, which should not be flagged, and such with the
second draw changed, which should be. Of magnetic tile both are drawn twice: image by image, so that both draws show the
same tiles, and tile by tile, so that they have none in common.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from changed_images import COPIED, COPIES, DRIFTS, Line, load
from drift_checks import (
    CHANGED_SIZES,
    DRAWS,
    NOTHING,
    PSI_LIMIT,
    SIZES,
    drawn_rows,
    false_alarms,
    sensitivity,
    ways_to_draw,
)

from stlm_core.data.inspection import Inspected
from stlm_core.data.sample_line import write_sample_line
from stlm_core.data.similarity import NearDuplicates, find_near_duplicates
from stlm_core.settings import ValidateConfig

AT_A_TIME = 5  # copies
SMALL_TRAIN, SMALL_TEST, SMALL_DRAWS = 20, 5, 20
SAMPLE_TRAIN = 180
LEAST_SIMILARITY = 0.5  # that can be set
NAMED = 10  # pairs of a line that are listed
RULES = ValidateConfig()


def near_duplicates(line: Line) -> dict[str, Any]:
    """Pairs in the line as it is, and the share of copies found."""
    found = find_near_duplicates(line.rows, RULES.near_duplicate_similarity)
    alike = {"across": pairs(found.across), "within": pairs(found.within)}
    hits, wrong_with_copies = dict.fromkeys(COPIES, 0), {}
    for change in COPIES:
        others: set[tuple[str, str]] = set()
        for start in range(0, len(line.copied), AT_A_TIME):
            batch = line.copied[start : start + AT_A_TIME]
            found_in_batch, wrong_in_batch = find_copies(line.rows, line, change, batch)
            hits[change] += found_in_batch
            others |= wrong_in_batch
        wrong_with_copies[change] = sorted(others)
    return {
        "line": line.name,
        "images": len(line.rows),
        "pairs": {
            side: [(line.rows[first].path, line.rows[second].path) for first, second in sorted(of)]
            for side, of in alike.items()
        },
        "most_similar": nearest(find_near_duplicates(line.rows, LEAST_SIMILARITY)),
        "copies": len(line.copied),
        "recall": {change: count / len(line.copied) for change, count in hits.items()},
        "wrong_with_copies": wrong_with_copies,
    }


def small_lines(line: Line) -> dict[str, Any]:
    """The same for draws of a few of the line's good images."""
    rng = np.random.default_rng(0)
    tested = [index for index, row in enumerate(line.rows) if row.split == "test" and not row.label]
    others = sorted(set(line.learnt) - set(line.copied))
    hits, alarms = dict.fromkeys(COPIES, 0), 0
    for _ in range(SMALL_DRAWS):
        copied = rng.choice(line.copied, AT_A_TIME, replace=False).tolist()
        drawn = [*copied, *rng.choice(others, SMALL_TRAIN - AT_A_TIME, replace=False).tolist()]
        drawn += rng.choice(tested, SMALL_TEST, replace=False).tolist()
        rows = [line.rows[index] for index in drawn]
        alarms += bool(find_near_duplicates(rows, RULES.near_duplicate_similarity).across)
        for change in COPIES:
            hits[change] += find_copies(rows, line, change, copied)[0]
    copies = SMALL_DRAWS * AT_A_TIME
    recall = {change: count / copies for change, count in hits.items()}
    return {"line": line.name, "alarms": alarms / SMALL_DRAWS, "copies": copies, "recall": recall}


def find_copies(
    rows: list[Inspected], line: Line, change: str, copied: Sequence[int]
) -> tuple[int, set[tuple[str, str]]]:
    """How many changed images of ``copied`` are found among ``rows``, and the wrong pairs across the border."""
    copies = [
        replace(line.changed[change][index], path=f"{change}/{index}", split="test", group="") for index in copied
    ]
    across = find_near_duplicates([*rows, *copies], RULES.near_duplicate_similarity).across
    origin = {len(rows) + at: line.rows[index] for at, index in enumerate(copied)}

    def shows_the_original(other: Inspected, original: Inspected) -> bool:
        return other.path == original.path or (other.group == original.group != "")

    hits = sum(
        number in across and across[number].index < len(rows) and shows_the_original(rows[across[number].index], of)
        for number, of in origin.items()
    )
    together = [*rows, *copies]
    wrong = {
        (together[first].path, together[second].path)
        for first, second in pairs(across)
        if not (second in origin and first < len(rows) and shows_the_original(rows[first], origin[second]))
    }
    return hits, wrong


def pairs(found: Mapping[int, Any]) -> set[tuple[int, int]]:
    """Every image with its nearest copy, each pair once."""
    return {(min(index, copy.index), max(index, copy.index)) for index, copy in found.items()}


def nearest(found: NearDuplicates) -> dict[str, float | None]:
    """The highest similarity across the border and within a side; None where no pair is that similar."""
    sides = {"across": found.across, "within": found.within}
    return {side: max((copy.similarity for copy in of.values()), default=None) for side, of in sides.items()}


def print_near_duplicates(entries: Sequence[dict[str, Any]], small: Sequence[dict[str, Any]]) -> None:
    """Three tables."""
    print_table(
        f"Pairs above {RULES.near_duplicate_similarity} in the lines as they are, and the most similar pair",
        ("line", "images", "across", "within", "most similar, across", "within"),
        (
            (
                entry["line"],
                entry["images"],
                *(len(entry["pairs"][side]) for side in ("across", "within")),
                *(similar(entry["most_similar"][side]) for side in ("across", "within")),
            )
            for entry in entries
        ),
    )
    print()
    for entry in entries:
        for side, alike in entry["pairs"].items():
            for first, second in alike[:NAMED]:
                print(f"{entry['line']}, {side}: {first} and {second}")
    print_table(
        f"Copies found, of {COPIED} a line, {AT_A_TIME} at a time (and different wrong pairs)",
        ("copy", *(entry["line"] for entry in entries)),
        (
            (
                change,
                *(
                    f"{percent(entry['recall'][change])} ({len(entry['wrong_with_copies'][change])})"
                    for entry in entries
                ),
            )
            for change in COPIES
        ),
    )
    print_table(
        f"Small lines: {SMALL_TRAIN} training and {SMALL_TEST} test images, {SMALL_DRAWS} draws, "
        f"{AT_A_TIME} copies in each",
        ("", *(entry["line"] for entry in small)),
        [
            ("draws with a wrong pair", *(percent(entry["alarms"]) for entry in small)),
            *((f"{change}: found", *(percent(entry["recall"][change]) for entry in small)) for change in COPIES),
        ],
    )


def print_drift(alarms: Sequence[dict[str, Any]], changed: Sequence[dict[str, Any]]) -> None:
    """Three tables."""
    names = list(dict.fromkeys(entry["line"] for entry in alarms))
    by_size = {(entry["line"], entry["reference"], entry["new"]): entry for entry in alarms}

    def cells(show: Callable[[dict[str, Any]], str]) -> Iterable[Sequence[object]]:
        for sizes in SIZES:
            found = (by_size.get((name, *sizes)) for name in names)
            yield f"{sizes[0]}, {sizes[1]}", *("-" if entry is None else show(entry) for entry in found)

    heads = ("reference, new", *names)
    print_table(
        f"PSI without drift, {DRAWS} draws: median of the largest of four (share above {PSI_LIMIT})",
        heads,
        cells(lambda entry: f"{entry['psi_median']:.2f} ({percent(entry['psi_flagged'])})"),
    )
    print_table(f"False alarms of the rule, the same {DRAWS} draws", heads, cells(lambda e: percent(e["flagged"])))
    print_table(
        f"Draws flagged, {CHANGED_SIZES[0]} reference and {CHANGED_SIZES[1]} new images, all new ones changed",
        ("change", *(entry["line"] for entry in changed)),
        ((change, *(percent(entry["flagged"][change]) for entry in changed)) for change in (NOTHING, *DRIFTS)),
    )


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table under its title."""
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")


def percent(share: float) -> str:
    """A share with one digit after the point where it needs it."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def similar(value: float | None) -> str:
    """A similarity, or that there was none worth a number."""
    return f"< {LEAST_SIMILARITY}" if value is None else f"{value:.3f}"


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=None, help="folder of the real lines")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the sample line")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()
    began = time.perf_counter()
    cv2.setNumThreads(1)
    lines = []
    if arguments.datasets is not None:
        lines += [
            load("bottle", arguments.datasets / "mvtec_ad" / "bottle", "mvtec"),
            load("screw", arguments.datasets / "mvtec_ad" / "screw", "mvtec"),
            load("magnetic tile", arguments.datasets / "magnetic_tile", "magnetic_tile"),
        ]
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="data-checks-") as folder:
        write_sample_line(Path(folder) / "sample", train_good=SAMPLE_TRAIN)
        lines.append(load("sample line", Path(folder) / "sample", "mvtec"))
    found, small = [near_duplicates(line) for line in lines], [small_lines(line) for line in lines]
    print_near_duplicates(found, small)
    lines = [drawn for line in lines for drawn in ways_to_draw(line)]
    alarms = [entry for line in lines for entry in false_alarms(line.name, [line.rows[at] for at in line.learnt])]
    alarms += false_alarms("drawn", drawn_rows())
    changed = [sensitivity(line) for line in lines]
    print_drift(alarms, changed)
    print(f"\n{time.perf_counter() - began:.0f} s")
    if arguments.json is not None:
        figures = {"near_duplicates": found, "small_lines": small, "false_alarms": alarms, "sensitivity": changed}
        settings = {name: getattr(RULES, name) for name in ("near_duplicate_similarity", "max_drift", "max_outside")}
        arguments.json.write_text(json.dumps({"settings": settings, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
