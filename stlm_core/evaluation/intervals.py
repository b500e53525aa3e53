"""How sure a measured share is."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054
_BISECTIONS = 60  # to the last digits of a float


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


def binomial_low(count: int, total: int, confidence: float) -> float:
    """The share that the true one exceeds with that confidence: exact, one-sided (Clopper and Pearson 1934).

    ``count`` of ``total`` > 0 -> in [0, 1]: the share under which ``count`` or more would be seen with probability
    1 - ``confidence``.
    """
    if count == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(count, total, middle) < 1 - confidence else (low, middle)
    return low


def _tail(count: int, total: int, share: float) -> float:
    """Probability of ``count`` or more of ``total``; 0 < share < 1."""
    return math.fsum(
        math.exp(_ways(total, each) + each * math.log(share) + (total - each) * math.log1p(-share))
        for each in range(count, total + 1)
    )


def chance_of_rejects(count: int, total: int, above: int, held_back: int) -> float:
    """Probability that a threshold rejects ``count`` or more of ``total`` > 0 good parts, in [0, 1].

    ``above`` of the ``held_back`` parts that it comes from, which are of the same source, lie above it. Its own rate of
    false rejects is then distributed as Beta(above + 1, held_back - above), and the rejects as a beta-binomial.
    """
    first, second = above + 1, held_back - above
    return math.fsum(
        math.exp(_ways(total, each) + _beta(each + first, total - each + second) - _beta(first, second))
        for each in range(count, total + 1)
    )


def _ways(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)


def _beta(first: int, second: int) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)
