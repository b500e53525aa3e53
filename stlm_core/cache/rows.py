"""How the teacher's features of one view lie in a file: as float16, or as int8 with a scale a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from stlm_core.errors import UserError

CacheDtype = Literal["float16", "int8"]
CACHE_DTYPES: tuple[CacheDtype, ...] = get_args(CacheDtype)
Features = npt.NDArray[np.float16] | npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
RowShape = tuple[int, int, int, int]  # (maps, channels, h, w)
_LARGEST = 127
_EXPONENT = np.uint16(0x7C00)  # all bits set: infinite or not a number


@dataclass(frozen=True)
class RowForm:
    """Shape and storage of a row, which is what is kept of one view.

    float16: the features as they are. int8: the features over their vector's scale, rounded, in [-127, 127]; after
    them one float32 scale for each of the maps x h x w vectors, the largest magnitude in it over 127. So a stored
    number is off by half its vector's scale at most.
    """

    dtype: CacheDtype
    shape: RowShape

    @property
    def bytes(self) -> int:
        """Size of one row."""
        values = math.prod(self.shape)
        return 2 * values if self.dtype == "float16" else values + 4 * values // self.shape[1]

    def encode(self, features: Features) -> Bytes:
        """Rows (n, bytes) of ``features`` (n, maps, channels, h, w).

        Raises:
            UserError: a feature is infinite or not a number, or does not fit into float16.
        """
        count = len(features)
        if self.dtype == "float16":
            with np.errstate(over="ignore"):
                halves = np.ascontiguousarray(features, dtype=np.float16)
            _require_finite(bool(((halves.view(np.uint16) & _EXPONENT) < _EXPONENT).all()))
            return halves.reshape(count, -1).view(np.uint8)
        values = np.asarray(features, np.float32)
        scale = np.maximum(values.max(axis=2), -values.min(axis=2)) / np.float32(_LARGEST)  # (n, maps, h, w)
        _require_finite(bool(np.isfinite(scale).all()))
        scale[scale < np.finfo(np.float32).tiny] = 0  # a divisor this small is no longer exact
        rows = np.empty((count, self.bytes), np.uint8)
        quotient = values / np.where(scale > 0, scale, np.float32(np.inf))[:, :, None]
        split = math.prod(self.shape)
        rows[:, :split] = np.rint(quotient, out=quotient).astype(np.int8).reshape(count, -1).view(np.uint8)
        rows[:, split:] = scale.reshape(count, -1).view(np.uint8)
        return rows

    def decode(self, rows: Bytes) -> Features:
        """Features (n, maps, channels, h, w) of ``rows`` (n, bytes): float16, a view of them, or float32 from int8."""
        shape = (len(rows), *self.shape)
        if self.dtype == "float16":
            return rows.view(np.float16).reshape(shape)
        split = math.prod(self.shape)
        maps, _, height, width = self.shape
        scale = rows[:, split:].view(np.float32).reshape(len(rows), maps, 1, height, width)
        values = rows[:, :split].view(np.int8).reshape(shape)
        return np.multiply(values, scale, dtype=np.float32)


def _require_finite(finite: bool) -> None:
    if not finite:
        raise UserError(
            "teacher.autocast: the teacher's features are not finite; set it to off, and if that is no cure, "
            "fetch the teacher's weights again"
        )
