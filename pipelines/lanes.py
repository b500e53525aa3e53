"""Lines beside a column of rows: on which side each runs, and how far out, so that few cross."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """From one row's side down to the sides of later rows."""

    name: str
    source: int
    targets: tuple[int, ...]

    @property
    def last(self) -> int:
        return max(self.targets)


@dataclass(frozen=True)
class Lane:
    """``side`` 0 is left, 1 is right; ``index`` 0 is next to the rows."""

    side: int
    index: int


def place_lines(lines: Sequence[Line]) -> dict[Line, Lane]:
    """A lane for every line.

    Each line is put where it costs least, then moved as long as that helps. Lines that do not meet share a lane.
    """
    sides: list[list[Line]] = [[], []]
    for line in lines:
        sides = _best_with(line, sides)
    while True:
        before = _cost(sides)
        for line in lines:
            sides = _best_with(line, [[other for other in side if other != line] for side in sides])
        if _cost(sides) >= before:
            return {line: Lane(side, index) for side in (0, 1) for line, index in _indices(sides[side]).items()}


def crossings(near: Line, far: Line) -> int:
    """How often the line farther out meets the nearer one on its way to a row.

    Where both end or both begin at a row, the order of their ends there (see ``ends``) keeps them apart.
    """
    return sum(near.source < row < near.last for row in (far.source, *far.targets))


def ends(row: int, side: int, lanes: dict[Line, Lane]) -> list[Line]:
    """The lines that touch a row's side, from top to bottom: arriving ones from the nearest lane outwards, then leaving
    ones from the farthest lane inwards."""
    touching = [(line, lane.index) for line, lane in lanes.items() if lane.side == side]
    arriving = sorted((index, line.name, line) for line, index in touching if row in line.targets)
    leaving = sorted((-index, line.name, line) for line, index in touching if row == line.source)
    return [line for _, _, line in (*arriving, *leaving)]


def _best_with(line: Line, sides: list[list[Line]]) -> list[list[Line]]:
    options = []
    for side, others in enumerate(sides):
        for position in range(len(others) + 1):
            option = list(sides)
            option[side] = [*others[:position], line, *others[position:]]
            options.append(option)
    return min(options, key=_cost)


def _cost(sides: list[list[Line]]) -> tuple[int, int, int]:
    """Crossings first, then the width of the lanes, then how many ends crowd on one side of a row."""
    crossed = sum(
        crossings(near, far) for side in sides for place, near in enumerate(side) for far in side[place + 1 :]
    )
    width = sum(1 + max(_indices(side).values(), default=-1) for side in sides)
    touched = Counter((place, row) for place, side in enumerate(sides) for a in side for row in (a.source, *a.targets))
    return crossed, width, sum(count * count for count in touched.values())


def _indices(side: list[Line]) -> dict[Line, int]:
    found: dict[Line, int] = {}
    for line in side:
        meeting = [found[other] for other in found if other.source < line.last and line.source < other.last]
        found[line] = 1 + max(meeting, default=-1)
    return found
