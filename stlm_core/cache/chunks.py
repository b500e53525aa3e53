"""Files of teacher features: fixed-size fp16 rows, each with its key and checksum beside it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.errors import StlmError
from stlm_core.files import sha256_bytes, write_bytes_atomic, write_json_atomic

Rows = npt.NDArray[np.float16]
RowShape = tuple[int, int, int, int]  # (maps, channels, h, w)
_PREFIX = "features-"


@dataclass(frozen=True)
class Chunk:
    """One data file ``features-<digest of its keys>.bin`` and the index beside it."""

    data: Path
    keys: tuple[str, ...]
    checksums: tuple[int, ...]
    row_shape: RowShape

    @property
    def row_bytes(self) -> int:
        """Size of one row, bytes."""
        return int(np.prod(self.row_shape)) * np.dtype(np.float16).itemsize

    def rows(self) -> Rows:
        """All rows, (n, maps, channels, h, w), memory-mapped.

        Raises:
            StlmError: the data file is missing or truncated.
        """
        try:
            if self.data.stat().st_size != self.row_bytes * len(self.keys):
                raise StlmError(f"{self.data}: truncated")
            return np.memmap(self.data, np.float16, mode="r", shape=(len(self.keys), *self.row_shape))
        except OSError as error:
            raise StlmError(f"{self.data}: cannot be read: {error.strerror or error}") from None

    def sound_rows(self) -> list[int]:
        """Numbers of the rows whose bytes still match their checksum; reads the whole file once."""
        try:
            with self.data.open("rb") as stream:
                return [
                    number
                    for number, checksum in enumerate(self.checksums)
                    if len(row := stream.read(self.row_bytes)) == self.row_bytes and zlib.crc32(row) == checksum
                ]
        except OSError:
            return []

    def link_into(self, folder: Path) -> Chunk:
        """The same chunk under another folder, hard-linked where the file system allows, else copied."""
        target = folder / self.data.name
        if not target.exists():
            try:
                os.link(self.data, target)
            except OSError:
                write_bytes_atomic(target, self.data.read_bytes())
        _write_index(target, self.keys, self.checksums, self.row_shape)
        return Chunk(target, self.keys, self.checksums, self.row_shape)


def write_chunk(folder: Path, keys: Sequence[str], rows: Rows) -> Chunk:
    """Write ``rows`` (n, maps, channels, h, w) under their ``keys``; the index comes last, so a chunk that has
    one is whole."""
    rows = np.ascontiguousarray(rows, dtype=np.float16)
    data = folder / f"{_PREFIX}{sha256_bytes(' '.join(keys).encode())[:20]}.bin"
    checksums = tuple(zlib.crc32(row.tobytes()) for row in rows)
    shape: RowShape = (rows.shape[1], rows.shape[2], rows.shape[3], rows.shape[4])
    write_bytes_atomic(data, rows.tobytes())
    _write_index(data, tuple(keys), checksums, shape)
    return Chunk(data, tuple(keys), checksums, shape)


def find_chunks(folder: Path) -> list[Chunk]:
    """All chunks with a readable index in ``folder``, in name order; an unreadable one counts as absent."""
    chunks = []
    for path in sorted(folder.glob(f"{_PREFIX}*.json")):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            a, b, c, d = (int(side) for side in index["row_shape"])
            keys, checksums = tuple(map(str, index["keys"])), tuple(map(int, index["crc32"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if len(keys) == len(checksums):
            chunks.append(Chunk(path.with_suffix(".bin"), keys, checksums, (a, b, c, d)))
    return chunks


def _write_index(data: Path, keys: tuple[str, ...], checksums: tuple[int, ...], shape: RowShape) -> None:
    index = {"row_shape": list(shape), "dtype": "float16", "keys": list(keys), "crc32": list(checksums)}
    write_json_atomic(data.with_suffix(".json"), index)
