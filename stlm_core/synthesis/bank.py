"""The bank of views on disk: every good image of the training and validation splits with its pseudo anomalies.

``views.npy`` (V, S, S, 3) uint8 RGB; ``masks.npy`` (V, S, ceil(S / 8)) uint8, bits packed along the last axis;
``fractions.npy`` (A, S, S, 3) uint8, for the A views that show an image as it is, in their order: what rounding to
whole levels took from them, :func:`fraction_of`; ``index.parquet`` one row a view, see :data:`INDEX_COLUMNS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from stlm_core.errors import UserError

VIEWS, MASKS, FRACTIONS, INDEX = "views.npy", "masks.npy", "fractions.npy", "index.parquet"
INDEX_COLUMNS = {
    "view": "int64",  # row number
    "image": "str",  # sha256 of the source file
    "path": "str",  # of the source file, relative to the line's data root
    "split": "str",  # train or validation
    "variant": "int64",  # 0 clean, 1..K pseudo-anomalous
    "clean_view": "int64",  # the clean counterpart in the same pose; its own row for a clean view
    "mask_fraction": "float64",  # share of anomalous pixels
    "seed": "int64",  # of what was drawn; 0 for the image as it is
    "degrees": "float64",  # counter-clockwise rotation of the view against the image
    "view_sha256": "str",  # of the view's pixel bytes
}
_REPAIR = "run `stlm synthesize --force` again"
_STEPS = 127  # of a fraction, in one level; it is between -1 and 1


def fraction_of(exact: npt.NDArray[np.float32], rounded: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``exact - rounded``, levels of the same shape, as whole steps of 1 / 127 level from -1 on; what is further apart
    than a level is cut off."""
    return np.rint((np.clip(exact - rounded, -1, 1) + 1) * _STEPS).astype(np.uint8)


class ArrayWriter:
    """Writes a uint8 ``.npy`` file item by item, so that memory does not grow with the file.

    A context manager. The number of items is fixed beforehand; leaving the block with another number is an error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._stream: IO[bytes] = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)
        self._shape, self._written = shape, 0

    def append(self, items: npt.NDArray[np.uint8]) -> None:
        """Add ``items``, (n, ...) of the file's item shape."""
        if items.shape[1:] != self._shape[1:] or items.dtype != np.uint8:
            raise ValueError(f"items of shape {items.shape} do not fit into {self._shape}")
        self._stream.write(np.ascontiguousarray(items).data)
        self._written += len(items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        with self._stream:
            if kind is not None:
                return
            if self._written != self._shape[0]:
                raise ValueError(f"{self._written} items written instead of {self._shape[0]}")
            self._stream.flush()
            os.fsync(self._stream.fileno())


class ArrayReader:
    """Reads single items of a uint8 ``.npy`` file without mapping it: no page of it counts as the process's memory.

    Raises:
        UserError: the file is missing, is not such an array, or is shorter or longer than its header says.
    """

    def __init__(self, path: Path, ndim: int) -> None:
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}; {_REPAIR}") from None
        try:
            if np.lib.format.read_magic(self._stream) != (1, 0):
                raise ValueError("unexpected version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(self._stream)
        except ValueError:
            raise UserError(f"{path}: not a numpy array file; {_REPAIR}") from None
        if dtype != np.uint8 or fortran or len(shape) != ndim or 0 in shape:
            raise UserError(f"{path}: array of {dtype} and shape {shape} is not a bank's; {_REPAIR}")
        self.shape: tuple[int, ...] = shape
        self._start = self._stream.tell()
        self._item = int(np.prod(shape[1:]))
        expected, actual = self._start + shape[0] * self._item, path.stat().st_size
        if actual != expected:
            raise UserError(f"{path}: {actual} bytes instead of {expected}, truncated or overwritten; {_REPAIR}")
        self._path = path

    def read(self, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Items ``rows``, (n, ...); a fresh array. Safe from several threads and forked processes at once.

        Raises:
            IndexError: a row is outside the file.
        """
        items = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for item, row in zip(items, rows, strict=True):
            if not 0 <= row < self.shape[0]:
                raise IndexError(f"row {row} of {self.shape[0]}")
            if os.preadv(self._stream.fileno(), [item.data], self._start + int(row) * self._item) != self._item:
                raise UserError(f"{self._path}: changed while it was read; {_REPAIR}")
        return items


class Bank:
    """A finished bank, read view by view; made by :meth:`open`. V views of S x S pixels."""

    def __init__(
        self, folder: Path, index: pd.DataFrame, views: ArrayReader, masks: ArrayReader, fractions: ArrayReader
    ) -> None:
        self.folder, self.index, self._views, self._masks, self._fractions = folder, index, views, masks, fractions
        self._places = {view: place for place, view in enumerate(index.loc[index["seed"] == 0, "view"].tolist())}

    @classmethod
    def open(cls, folder: Path) -> Bank:
        """Open the bank in ``folder`` and check that its four files are whole and fit together.

        Raises:
            UserError: a file is missing, truncated, of another format, or does not fit the others.
        """
        views, masks = ArrayReader(folder / VIEWS, 4), ArrayReader(folder / MASKS, 3)
        fractions = ArrayReader(folder / FRACTIONS, 4)
        index = read_index(folder / INDEX)
        count, side = views.shape[:2]
        if views.shape[1:] != (side, side, 3) or masks.shape != (count, side, (side + 7) // 8) or len(index) != count:
            raise UserError(
                f"{folder}: {len(index)} index rows, views {views.shape} and masks {masks.shape} do not fit "
                f"together; {_REPAIR}"
            )
        bank = cls(folder, index, views, masks, fractions)
        if fractions.shape != (len(bank._places), side, side, 3):
            raise UserError(
                f"{folder}: {len(bank._places)} images and fractions {fractions.shape} do not fit together; {_REPAIR}"
            )
        return bank

    def __len__(self) -> int:
        return self._views.shape[0]

    @property
    def size(self) -> int:
        """Side S of the views, pixels."""
        return self._views.shape[1]

    def views(self, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Views, uint8 RGB (n, S, S, 3), in the order asked for."""
        return self._views.read(rows)

    def exact(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Views that show an image as it is, not rounded to whole levels: float32 RGB (n, S, S, 3), levels.

        Raises:
            KeyError: a view is turned or has an anomaly.
        """
        fractions = self._fractions.read([self._places[row] for row in rows]).astype(np.float32)
        return np.asarray(self._views.read(rows) + (fractions / _STEPS - 1), np.float32)

    def as_they_are(self, split: str) -> list[int]:
        """The views that show the images of ``split`` unrotated and without an anomaly, one an image."""
        views: list[int] = self.index.loc[(self.index["split"] == split) & (self.index["seed"] == 0), "view"].tolist()
        return views

    def masks(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Masks of anomalous pixels, bool (n, S, S), in the order asked for."""
        return np.unpackbits(self._masks.read(rows), axis=-1, count=self.size).view(np.bool_)


def read_index(path: Path) -> pd.DataFrame:
    """The bank's index with the columns of :data:`INDEX_COLUMNS`, rows in view order.

    Raises:
        UserError: not a parquet file, a column is missing or of another type, or rows contradict each other.
    """
    try:
        index = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {_REPAIR}") from None
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}; {_REPAIR}") from None
    missing = [column for column in INDEX_COLUMNS if column not in index.columns]
    if missing:
        raise UserError(f"{path}: column `{missing[0]}` is missing; {_REPAIR}")
    try:
        index = index.astype(INDEX_COLUMNS)
    except (TypeError, ValueError):
        raise UserError(f"{path}: a column has another type than a bank's index; {_REPAIR}") from None
    rows = np.arange(len(index))
    clean = index["clean_view"].to_numpy()
    sound = np.array_equal(index["view"].to_numpy(), rows) and bool(np.all((clean >= 0) & (clean < len(rows))))
    if not sound or not (index["variant"].to_numpy()[clean] == 0).all():
        raise UserError(f"{path}: rows contradict each other; {_REPAIR}")
    return index
