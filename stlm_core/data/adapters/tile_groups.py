"""Which files of the magnetic tile dataset (Huang et al.) show the same physical tile.

A file is called ``exp<exposure>_num_<number>``: the number counts frames of one long recording, the exposure is 0 to 6.
Neither names the tile. Exposures of one tile follow each other, crops of one tile have nearly the same size, and two
tiles recorded at the same time (their numbers interleave) have different ones. That never joins two tiles, but parts
some: those that came back later in the recording, or whose crops differ more. Correlating the pixels of all images
found these, and they are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_NAME = re.compile(r"exp(\d{1,2})_num_(\d{1,9})")
_MAX_GAP = 200  # frames between two exposures of a tile
_MAX_WIDTH_CHANGE, _MAX_HEIGHT_CHANGE = 0.25, 0.15  # of the larger of the two
_RECENT = 6  # tiles that an image may continue
# Numbers of files that show the same tile, one of each run of exposures that the rule above keeps apart.
_SAME_TILE = (
    (3191, 3234),
    (5874, 13526),
    (8676, 9196, 10334),
    (9473, 9594),
    (37056, 37556),
    (53011, 65001),
    (85602, 85998, 86828, 88149),
    (98080, 98305, 98336, 98402),
    (108719, 108889),
    (124236, 124592),
    (136254, 136676),
    (148923, 148977),
    (257630, 257938),
    (283203, 283465),
    (320808, 320895),
    (355636, 358102),
)


@dataclass
class _Run:
    """Exposures of one tile that follow each other; size and number are those of the last."""

    size: tuple[int, int]
    number: int
    exposures: set[int] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)

    def continues(self, exposure: int, number: int, size: tuple[int, int]) -> bool:
        return (
            exposure not in self.exposures
            and number - self.number <= _MAX_GAP
            and _change(size[0], self.size[0]) <= _MAX_WIDTH_CHANGE
            and _change(size[1], self.size[1]) <= _MAX_HEIGHT_CHANGE
        )


def frame(path: str) -> tuple[int, int] | None:
    """(number, exposure) in the name of a file; None if it is not named that way."""
    found = _NAME.fullmatch(PurePosixPath(path).stem)
    return (int(found[2]), int(found[1])) if found else None


def tile_groups(sizes: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """Tile of each file, called "tile-<smallest number>", from paths and (width, height) in pixels.

    Files that are not named ``exp<exposure>_num_<number>`` are left out. Files with the same name and size are the
    same photograph. The name of a tile can change when files are added.
    """
    same: dict[tuple[int, int, tuple[int, int]], list[str]] = {}
    for path in sorted(sizes):
        if found := frame(path):
            same.setdefault((*found, sizes[path]), []).append(path)
    runs: list[_Run] = []
    for (number, exposure, size), paths in sorted(same.items(), key=lambda item: (*item[0][:2], item[1])):
        run = next((run for run in reversed(runs[-_RECENT:]) if run.continues(exposure, number, size)), None)
        if run is None:
            runs.append(run := _Run(size, number))
        run.size, run.number = size, number
        run.exposures.add(exposure)
        run.paths += paths
    return {path: tile for tile, paths in _tiles(runs) for path in paths}


def _tiles(runs: Iterable[_Run]) -> Iterable[tuple[str, list[str]]]:
    """Names of the tiles, with their files; runs that show one tile are joined."""
    first_of = {number: numbers[0] for numbers in _SAME_TILE for number in numbers}
    tiles: dict[int, list[str]] = {}
    for run in runs:
        numbers = [found[0] for path in run.paths if (found := frame(path))]
        known = {first_of[number] for number in numbers if number in first_of}
        tiles.setdefault(min(known, default=numbers[0]), []).extend(run.paths)
    return ((f"tile-{number}", paths) for number, paths in tiles.items())


def _change(one: int, other: int) -> float:
    return abs(one - other) / max(one, other, 1)
