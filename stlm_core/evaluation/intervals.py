"""How sure a measured share is."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share: ``count`` of ``total`` > 0 -> (low, high) in [0, 1] (Wilson, JASA 1927).

    Keeps its coverage with few images and near 0 and 1, where the textbook interval has no width.
    """
    share, z2 = count / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return low, high
