"""Greedy k-centre selection: of many vectors those that are farthest from each other (Gonzalez, 1985)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from stlm_core.progress import Progress, progress

_PLAYED = 0.05  # share of the points among which rounds are played: more make a round longer, fewer end it sooner
_FEWEST = 1000  # points; fewer are not worth the trouble
_CENTRES, _POINTS = 256, 1 << 14  # measured at a time: 16 MB


def farthest(pool: Tensor, size: int, kept: Tensor | None = None, *, told: bool = True) -> Tensor:
    """``size`` vectors (size, C): those ``kept`` already, then always the one of ``pool`` (n, C) farthest from all
    chosen; the first of the pool where none is kept. ``size`` is at most n, without what is kept, and
    of that there is at least one and at most ``size``. ``told``: whether progress is shown.

    A point's distance to the chosen can only shrink, so the one measured last is an upper bound. Rounds are played
    among the points with the largest bounds, until the best of them falls below the others' largest.
    """
    squares = pool.square().sum(1)
    bounds = torch.full_like(squares, torch.inf)
    chosen = pool.new_empty(size, pool.shape[1])
    count = 1 if kept is None else len(kept)
    chosen[:count] = pool[:1] if kept is None else kept
    measured = 0
    played = min(len(pool), max(_FEWEST, int(_PLAYED * len(pool))))
    display = progress("choose", size, start=count) if told else nullcontext(Progress("choose", size, count))
    with display as shown:
        while count < size:
            _measure(bounds, pool, squares, chosen[measured:count])
            measured = count
            largest = bounds.topk(min(len(pool), played + 1))
            limit = float(largest.values[-1]) if played < len(pool) else -torch.inf
            active = largest.indices[:played]
            points, own_squares, own_bounds = pool[active], squares[active], bounds[active]
            while count < size:
                place = int(own_bounds.argmax())
                if float(own_bounds[place]) < limit:
                    break
                chosen[count] = points[place]
                apart = own_squares + own_squares[place] - 2 * (points @ points[place])
                own_bounds = torch.minimum(own_bounds, apart)
                count += 1
            shown.advance(count - measured)
    return chosen


def _measure(bounds: Tensor, pool: Tensor, squares: Tensor, centres: Tensor) -> None:
    """Lower ``bounds`` (n,) to the squared distances of ``pool`` from the nearest of ``centres``, in place."""
    for some in centres.split(_CENTRES):
        own = some.square().sum(1)
        for start in range(0, len(pool), _POINTS):
            part = slice(start, start + _POINTS)
            apart = torch.addmm(own, pool[part], some.T, alpha=-2).amin(1) + squares[part]
            bounds[part] = torch.minimum(bounds[part], apart)
