"""Near-duplicates: the same photograph saved again, told from another part of the same line.

All good images of a line look alike, so plain image distances call everything a copy. Here a thumbnail counts by what
tells the line's images apart. It is normalised to mean 0 and standard deviation 1 (exposure drops out), the line's mean
thumbnail is subtracted, and the rest is whitened by the line's own covariance: directions in which all its images
differ count little, those in which two images of different parts are never alike count most. The cosine of two such
vectors is the similarity; a pair above the threshold also needs nearly equal perceptual hashes.

Measured at the default 0.87 by `python benchmarks/data_checks.py --datasets DATASETS`, with copies of 60 images a line,
5 at a time: on MVTec AD screw, magnetic tile and the sample line every copy is found that was saved as JPEG 75, resized
by 0.9, both, made 5 % lighter or darker, or blurred with sigma 1. On bottle, whose parts differ least, so is each but
those resized (12 %, as JPEG 75 5 %). Cropped by 1 % every copy is found on screw and magnetic tile, 5 % on the sample
line and none on bottle; by 4 % only on magnetic tile, 40 %.

No other pair of these lines lies across the border. Screw has no margin: of pairs with nearly equal hashes its most
similar one across has 0.868, and where copies are inserted, up to 3 are also paired with another image, of a screw in
nearly the same place. On the other lines no such pair has more than 0.582. Draws of 20 training and 5 test images have
no wrong pair, and copies are found as well (crops aside at least 99 %), but on bottle at most 43 % of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stlm_core.data.inspection import Inspected
from stlm_core.data.statistics import THUMBNAIL_SIDE

_SAMPLE = 4096  # images that mean and covariance are estimated from
# Ridge of the whitening, in mean variances: what saving an image again changes, and what few images cannot tell.
_RIDGE, _RIDGE_OF_FEW = 0.02, 10.0
_MAX_DIFFERENT_BITS = 8  # of the 64 of a perceptual hash; copies differ in 0 to 6
_BLOCK = 512  # rows and columns of the similarities in memory at a time: what the processor keeps near
_MANY = 64 * _BLOCK
_AHEAD = 64  # axes on which a pair is looked at first; 4 in 1,000 pairs of screw and magnetic tile come further
_ROUNDING = 1e-5  # of products in float32
_FLAT = 0.5  # levels: a thumbnail with less contrast shows nothing that could be compared


@dataclass(frozen=True, slots=True)
class Copy:
    """The most similar other image, by its index in the rows, and the cosine."""

    index: int
    similarity: float


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """For every row that has one: its nearest copy on the other side of the train/test border, and on its own side."""

    across: dict[int, Copy]
    within: dict[int, Copy]


def find_near_duplicates(rows: Sequence[Inspected], threshold: float) -> NearDuplicates:
    """Rows that show the same photograph as another row without having the same bytes.

    Pairs of one physical part (equal non-empty ``group``) are expected to be alike and passed over; pairs of equal
    bytes are for another rule; rows without a thumbnail or with a flat one are skipped. O(n^2) time in blocks of matrix
    products over a quarter of the axes, O(n) memory.
    """
    kept = [index for index, row in enumerate(rows) if not row.problem and len(row.thumbnail) == THUMBNAIL_SIDE**2]
    pixels = np.frombuffer(b"".join(rows[index].thumbnail for index in kept), np.uint8)
    features, textured = _features(pixels.reshape(len(kept), THUMBNAIL_SIDE**2))
    indices = np.array(kept, np.int64)[textured]
    if len(indices) < 2:
        return NearDuplicates({}, {})
    members = [rows[index] for index in indices]
    test = np.array([row.split == "test" for row in members])
    groups = _codes([row.group for row in members])
    digests = _codes([row.sha256 for row in members])
    hashes = np.array([int(row.phash or "0", 16) for row in members], np.uint64)
    across, within = _Best(len(members)), _Best(len(members))
    for first, second, similarity in _pairs(features, threshold):
        same_part = (groups[first] == groups[second]) & (groups[first] >= 0)
        bits = np.bitwise_count(hashes[first] ^ hashes[second])
        found = ~same_part & (digests[first] != digests[second]) & (bits <= _MAX_DIFFERENT_BITS)
        border = test[first] != test[second]
        across.add(first, second, similarity, found & border)
        within.add(first, second, similarity, found & ~border)
    return NearDuplicates(across.by_row(indices), within.by_row(indices))


class _Best:
    """The most similar partner of each of ``count`` members; -1 where there is none."""

    def __init__(self, count: int) -> None:
        self.partner = np.full(count, -1, np.int64)
        self.similarity = np.zeros(count, np.float32)

    def add(
        self,
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        similarity: NDArray[np.float32],
        chosen: NDArray[np.bool_],
    ) -> None:
        self._add(first[chosen], second[chosen], similarity[chosen])
        self._add(second[chosen], first[chosen], similarity[chosen])

    def _add(self, members: NDArray[np.int64], partners: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        # Ascending: of several partners of one member the most similar is written last, of equal ones the first.
        order = np.lexsort((-partners, values))
        order = order[values[order] > self.similarity[members[order]]]
        self.partner[members[order]] = partners[order]
        self.similarity[members[order]] = values[order]

    def by_row(self, indices: NDArray[np.int64]) -> dict[int, Copy]:
        return {
            int(indices[member]): Copy(int(indices[self.partner[member]]), round(float(self.similarity[member]), 4))
            for member in np.flatnonzero(self.partner >= 0)
        }


def _features(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Whitened unit vectors (M, 256) of the thumbnails (N, 256) that show something, and which those are (N,)."""
    textured = pixels.std(axis=1, dtype=np.float32) >= _FLAT
    if np.count_nonzero(textured) < 2:
        return np.empty((0, pixels.shape[1]), np.float32), textured
    vectors = pixels[textured].astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= vectors.std(axis=1, keepdims=True)
    count = len(vectors)
    sample = vectors[np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)].astype(np.float64)
    mean = sample.mean(axis=0)
    variances, directions = np.linalg.eigh((sample - mean).T @ (sample - mean) / len(sample))
    variances = np.maximum(variances, 0)
    ridge = variances.mean() * (_RIDGE + _RIDGE_OF_FEW / len(sample)) + 1e-9
    whitened = (vectors - mean.astype(np.float32)) @ (directions / np.sqrt(variances + ridge)).astype(np.float32)
    lengths = np.linalg.norm(whitened, axis=1, keepdims=True)
    return whitened / np.maximum(lengths, 1e-6), textured


def _pairs(
    features: NDArray[np.float32], threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Index pairs (i < j) with a cosine above ``threshold``, block by block.

    Of a block with very many (a camera that sent one frame again and again) each image's nearest is enough.
    """
    bounding = _bounding(features)
    for top in range(0, len(features), _BLOCK):
        for left in range(top, len(features), _BLOCK):
            first, second = _above(bounding, top, left, threshold - _ROUNDING)
            if len(first) > _MANY:
                first, second, cosines = _nearest_above(features, top, left, threshold)
            else:
                cosines = np.einsum("ij,ij->i", features[first], features[second])
                found = cosines > threshold
                first, second, cosines = first[found], second[found], cosines[found]
            if len(first):
                yield first, second, cosines


def _bounding(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (N, 65) whose products are never below the cosines of the unit vectors ``features`` (N, 256).

    The axes that carry most, and the length of the rest: the rest's product is at most that of its lengths (Cauchy and
    Schwarz).
    """
    carried = np.square(features).mean(axis=0)
    ahead = features[:, np.argsort(-carried, kind="stable")[:_AHEAD]]
    rest = np.sqrt(np.maximum(1 - np.square(ahead).sum(axis=1, keepdims=True), 0))
    return np.concatenate([ahead, rest], axis=1)


def _above(
    vectors: NDArray[np.float32], top: int, left: int, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (i < j) of the block at row ``top`` and column ``left`` whose product is above ``threshold``."""
    columns = vectors[left : left + _BLOCK]
    places = np.flatnonzero(vectors[top : top + _BLOCK] @ columns.T > threshold)
    first, second = np.divmod(places, len(columns))
    first, second = first + top, second + left
    return (first[first < second], second[first < second]) if top == left else (first, second)


def _nearest_above(
    features: NDArray[np.float32], top: int, left: int, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Pairs of a block above ``threshold`` with their cosines, of very many only every image's nearest."""
    rows = features[top : top + _BLOCK]
    cosines = rows @ features[left : left + _BLOCK].T  # (<= 512, <= 512)
    if left == top:
        cosines[np.tril_indices(len(rows))] = -1
    alike = cosines > threshold
    if np.count_nonzero(alike) > _MANY:
        nearest = np.zeros_like(alike)
        nearest[np.arange(len(rows)), cosines.argmax(axis=1)] = True
        nearest[cosines.argmax(axis=0), np.arange(cosines.shape[1])] = True
        alike &= nearest
    first, second = np.nonzero(alike)
    return first + top, second + left, cosines[first, second]


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    """Equal numbers for equal names, -1 for empty ones."""
    known: dict[str, int] = {"": -1}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)
