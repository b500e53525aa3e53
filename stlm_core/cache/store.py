"""The teacher feature cache: find what is there, compute what is missing, read at random.

A row's key names its content: digest of the view's pixels (which the variant's seed determines), the teacher's
fingerprint (weights, preprocessing, input size, compute dtype), the grid and the storage dtype. A changed
image therefore recomputes only itself, and a changed teacher everything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.cache.chunks import Chunk, find_chunks, write_chunk
from stlm_core.cache.rows import Bytes, CacheDtype, Features, RowForm
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes, write_json_atomic
from stlm_core.progress import progress

INDEX = "index.json"
# A chunk is kept as it is while at least this share of its rows is wanted; below, its wanted rows are copied out.
_KEEP_SHARE = 0.5
_OPEN_FILES = 256  # a process may often have no more than 1024
_AGAIN = "run `stlm cache-teacher` again, it recomputes only what is damaged"

ComputeFeatures = Callable[[list[int]], Features]


def feature_key(view_sha256: str, teacher_fingerprint: str, grid: int, dtype: CacheDtype = "float16") -> str:
    """Content address of one view's features as ``dtype`` stores them, hex sha256."""
    return sha256_bytes(f"{view_sha256} {teacher_fingerprint} grid={grid} {dtype}".encode())


def belongs_to_shard(key: str, shard: int, shards: int) -> bool:
    """Whether ``key`` is computed by shard number ``shard`` (from 0) of ``shards``."""
    return int(key[:12], 16) % shards == shard


@dataclass(frozen=True)
class FillReport:
    """What a fill did: rows found sound, rows computed, rows found damaged."""

    reused: int
    computed: int
    damaged: int


def fill(
    folder: Path,
    wanted: Sequence[str],
    compute: ComputeFeatures,
    *,
    dtype: CacheDtype = "float16",
    sources: Iterable[Path] = (),
    rows_per_chunk: int = 64,
    label: str = "cache-teacher",
) -> FillReport:
    """Bring every key of ``wanted`` into ``folder``, from ``sources`` where sound, else through ``compute``.

    ``compute`` gets positions in ``wanted`` and returns their features, (n, maps, channels, h, w), which are kept as
    ``dtype``. A chunk is written while the next is computed. Finished chunks survive a killed process; at most two
    times ``rows_per_chunk`` rows are lost. Duplicate keys are computed once.

    Raises:
        UserError: a feature is not finite, or a chunk cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    position = {key: number for number, key in reversed(list(enumerate(wanted)))}
    have: set[str] = set()
    damaged = 0
    for source in (folder, *sources):
        for chunk in find_chunks(source):
            damaged += _adopt(folder, chunk, source, position, have)
    reused = len(have)
    missing = [number for key, number in position.items() if key not in have]
    missing.sort()
    with progress(label, len(position), start=reused) as shown, ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for start in range(0, len(missing), rows_per_chunk):
            part = missing[start : start + rows_per_chunk]
            features = compute(part)
            if writing is not None:
                writing.result()
            writing = writer.submit(_keep, folder, [wanted[number] for number in part], features, dtype)
            del features  # the writer's alone, else they live on while the next are computed
            shown.advance(len(part))
        if writing is not None:
            writing.result()
    return FillReport(reused, len(missing), damaged)


def _keep(folder: Path, keys: list[str], features: Features, dtype: CacheDtype) -> None:
    _, maps, channels, height, width = features.shape
    form = RowForm(dtype, (maps, channels, height, width))
    write_chunk(folder, keys, form.encode(features), form)


def _adopt(folder: Path, chunk: Chunk, source: Path, position: dict[str, int], have: set[str]) -> int:
    sound = chunk.sound_rows()
    useful = [row for row in sound if chunk.keys[row] in position and chunk.keys[row] not in have]
    whole = len(sound) == len(chunk.keys)
    if useful and whole and len(useful) >= _KEEP_SHARE * len(chunk.keys):
        if source != folder:
            chunk.link_into(folder)
        have.update(chunk.keys[row] for row in useful)
        return 0
    if useful:
        rows = _read_rows(chunk, useful)
        keys = [chunk.keys[row] for row in useful]
        _drop(chunk, source == folder)
        write_chunk(folder, keys, rows, chunk.form)
        have.update(keys)
    else:
        _drop(chunk, source == folder)
    return len(chunk.keys) - len(sound)


def _read_rows(chunk: Chunk, numbers: list[int]) -> Bytes:
    rows = np.empty((len(numbers), chunk.form.bytes), np.uint8)
    with chunk.data.open("rb") as stream:
        for row, number in zip(rows, numbers, strict=True):
            stream.seek(number * chunk.form.bytes)
            stream.readinto(row.data)
    return rows


def _drop(chunk: Chunk, own: bool) -> None:
    if own:  # index first: without it the data file counts as absent
        chunk.data.with_suffix(".json").unlink(missing_ok=True)
        chunk.data.unlink(missing_ok=True)


def write_index(folder: Path, wanted: Sequence[str]) -> None:
    """Record which key belongs to each view; written last, when every key is present.

    Raises:
        StlmError: keys are missing, because a shard was not merged for example.
    """
    present = {key for chunk in find_chunks(folder) for key in chunk.keys}
    absent = sum(key not in present for key in wanted)
    if absent:
        raise StlmError(f"{folder}: features of {absent} of {len(wanted)} views are missing; compute every shard first")
    write_json_atomic(folder / INDEX, {"keys": list(wanted)})


def chunks_are_sound(folder: Path) -> bool:
    """Whether every row in ``folder`` still matches its checksum; reads all of it once."""
    return all(len(chunk.sound_rows()) == len(chunk.keys) for chunk in find_chunks(folder))


class FeatureCache:
    """Read access by view number. Nothing is mapped, so no page of the files counts as the process's memory."""

    def __init__(self, chunks: list[Chunk], where: npt.NDArray[np.int64]) -> None:
        self._chunks = chunks
        self._where = where  # (views, 2): chunk number, row number
        self._form = chunks[0].form
        # A file closes when it is neither here nor in use by another thread's read.
        self._stream = lru_cache(_OPEN_FILES)(lambda number: chunks[number].data.open("rb", buffering=0))

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> FeatureCache:
        """Open a finished cache; with ``verify`` every row's checksum is compared first.

        Raises:
            UserError: the cache is unfinished, truncated or damaged.
        """
        try:
            wanted = json.loads((folder / INDEX).read_text(encoding="utf-8"))["keys"]
        except (OSError, ValueError, KeyError):
            raise UserError(f"{folder / INDEX}: missing or damaged; {_AGAIN}") from None
        chunks = find_chunks(folder)
        place: dict[str, tuple[int, int]] = {}
        for number, chunk in enumerate(chunks):
            if verify and len(chunk.sound_rows()) != len(chunk.keys):
                raise UserError(f"{chunk.data}: damaged; {_AGAIN}")
            place.update((key, (number, row)) for row, key in enumerate(chunk.keys))
        if not wanted or any(key not in place for key in wanted):
            raise UserError(f"{folder}: features are missing; {_AGAIN}")
        try:
            for chunk in chunks:
                chunk.require_whole()
        except StlmError as error:
            raise UserError(f"{error}; {_AGAIN}") from None
        if len({chunk.form for chunk in chunks}) > 1:
            raise UserError(f"{folder}: rows of several shapes or dtypes; {_AGAIN}")
        return cls(chunks, np.array([place[key] for key in wanted], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._where)

    def read(self, views: Sequence[int] | npt.NDArray[np.int64]) -> Features:
        """Features of ``views``, (n, maps, channels, h, w), in that order; float16, or float32 of a cache in int8.

        Safe from several threads at once.

        Raises:
            UserError: a file is gone or shorter than it was when the cache was opened.
        """
        rows = np.empty((len(views), self._form.bytes), np.uint8)
        for row, (chunk, number) in zip(rows, self._where[np.asarray(views, dtype=np.int64)].tolist(), strict=True):
            self._read_row(row, chunk, number)
        return self._form.decode(rows)

    def _read_row(self, row: Bytes, chunk: int, number: int) -> None:
        try:
            count = os.preadv(self._stream(chunk).fileno(), [row.data], number * len(row))
        except OSError as error:
            raise UserError(
                f"{self._chunks[chunk].data}: cannot be read: {error.strerror or error}; {_AGAIN}"
            ) from None
        if count != len(row):
            raise UserError(f"{self._chunks[chunk].data}: changed while it was read; {_AGAIN}")
