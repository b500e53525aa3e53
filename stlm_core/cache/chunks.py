"""Files of teacher features: rows of a fixed size, the key and checksum of each in an index beside them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stlm_core.cache.rows import CACHE_DTYPES, Bytes, RowForm
from stlm_core.errors import StlmError
from stlm_core.files import sha256_bytes, write_bytes_atomic, write_json_atomic

_PREFIX = "features-"


@dataclass(frozen=True)
class Chunk:
    """One data file ``features-<digest of its keys>.bin`` and the index beside it."""

    data: Path
    keys: tuple[str, ...]
    checksums: tuple[int, ...]
    form: RowForm

    def require_whole(self) -> None:
        """Compare the data file's size.

        Raises:
            StlmError: the data file is missing or truncated.
        """
        try:
            size = self.data.stat().st_size
        except OSError as error:
            raise StlmError(f"{self.data}: cannot be read: {error.strerror or error}") from None
        if size != self.form.bytes * len(self.keys):
            raise StlmError(f"{self.data}: truncated")

    def sound_rows(self) -> list[int]:
        """Numbers of the rows whose bytes still match their checksum; reads the whole file once."""
        try:
            with self.data.open("rb") as stream:
                return [
                    number
                    for number, checksum in enumerate(self.checksums)
                    if len(row := stream.read(self.form.bytes)) == self.form.bytes and zlib.crc32(row) == checksum
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
        linked = replace(self, data=target)
        _write_index(linked)
        return linked


def write_chunk(folder: Path, keys: Sequence[str], rows: Bytes, form: RowForm) -> Chunk:
    """Write ``rows`` (n, bytes) of ``form`` under their ``keys``; the index comes last, so a chunk that has one is
    whole."""
    data = folder / f"{_PREFIX}{sha256_bytes(' '.join(keys).encode())[:20]}.bin"
    chunk = Chunk(data, tuple(keys), tuple(zlib.crc32(row) for row in rows), form)
    write_bytes_atomic(data, rows.data)
    _write_index(chunk)
    return chunk


def find_chunks(folder: Path) -> list[Chunk]:
    """All chunks with a readable index in ``folder``, in name order; an unreadable one counts as absent."""
    chunks = []
    for path in sorted(folder.glob(f"{_PREFIX}*.json")):
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            a, b, c, d = (int(side) for side in index["row_shape"])
            form = RowForm(CACHE_DTYPES[CACHE_DTYPES.index(index["dtype"])], (a, b, c, d))
            keys, checksums = tuple(map(str, index["keys"])), tuple(map(int, index["crc32"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if len(keys) == len(checksums):
            chunks.append(Chunk(path.with_suffix(".bin"), keys, checksums, form))
    return chunks


def _write_index(chunk: Chunk) -> None:
    index = {
        "row_shape": list(chunk.form.shape),
        "dtype": chunk.form.dtype,
        "keys": list(chunk.keys),
        "crc32": list(chunk.checksums),
    }
    write_json_atomic(chunk.data.with_suffix(".json"), index)
