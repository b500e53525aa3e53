"""The teacher feature cache: find what is there, compute what is missing, read at random.

A row's key names its content: digest of the view's pixels (which the variant's seed determines), the teacher's
fingerprint (weights, preprocessing, input size, compute dtype), the grid and the storage dtype. A changed
image therefore recomputes only itself, and a changed teacher everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.cache.chunks import Chunk, Rows, find_chunks, write_chunk
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes, write_json_atomic
from stlm_core.progress import progress

INDEX = "index.json"
# A chunk is kept as it is while at least this share of its rows is wanted; below, its wanted rows are copied out.
_KEEP_SHARE = 0.5

ComputeRows = Callable[[list[int]], Rows]


def feature_key(view_sha256: str, teacher_fingerprint: str, grid: int) -> str:
    """Content address of one view's features, hex sha256."""
    return sha256_bytes(f"{view_sha256} {teacher_fingerprint} grid={grid} float16".encode())


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
    compute: ComputeRows,
    *,
    sources: Iterable[Path] = (),
    rows_per_chunk: int = 64,
    label: str = "cache-teacher",
) -> FillReport:
    """Bring every key of ``wanted`` into ``folder``, from ``sources`` where sound, else through ``compute``.

    ``compute`` gets positions in ``wanted`` and returns their rows, (n, maps, channels, h, w). Finished chunks survive
    a killed process; at most ``rows_per_chunk`` rows are lost. Duplicate keys are computed once.
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
    with progress(label, len(position), start=reused) as shown:
        for start in range(0, len(missing), rows_per_chunk):
            part = missing[start : start + rows_per_chunk]
            write_chunk(folder, [wanted[number] for number in part], compute(part))
            shown.advance(len(part))
    return FillReport(reused, len(missing), damaged)


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
        write_chunk(folder, keys, rows)
        have.update(keys)
    else:
        _drop(chunk, source == folder)
    return len(chunk.keys) - len(sound)


def _read_rows(chunk: Chunk, numbers: list[int]) -> Rows:
    with chunk.data.open("rb") as stream:
        parts = []
        for number in numbers:
            stream.seek(number * chunk.row_bytes)
            parts.append(np.frombuffer(stream.read(chunk.row_bytes), np.float16).reshape(chunk.row_shape))
    return np.stack(parts)


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
    """Read access by view number. Rows come from memory-mapped files, so memory does not grow with the cache."""

    def __init__(self, chunks: list[Chunk], where: npt.NDArray[np.int64]) -> None:
        self._rows = [chunk.rows() for chunk in chunks]
        self._where = where  # (views, 2): chunk number, row number
        self.row_shape = chunks[0].row_shape

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> FeatureCache:
        """Open a finished cache; with ``verify`` every row's checksum is compared first.

        Raises:
            UserError: the cache is unfinished, truncated or damaged.
        """
        again = "run `stlm cache-teacher` again, it recomputes only what is damaged"
        try:
            wanted = json.loads((folder / INDEX).read_text(encoding="utf-8"))["keys"]
        except (OSError, ValueError, KeyError):
            raise UserError(f"{folder / INDEX}: missing or damaged; {again}") from None
        chunks = find_chunks(folder)
        place: dict[str, tuple[int, int]] = {}
        for number, chunk in enumerate(chunks):
            if verify and len(chunk.sound_rows()) != len(chunk.keys):
                raise UserError(f"{chunk.data}: damaged; {again}")
            place.update((key, (number, row)) for row, key in enumerate(chunk.keys))
        if not wanted or any(key not in place for key in wanted):
            raise UserError(f"{folder}: features are missing; {again}")
        try:
            return cls(chunks, np.array([place[key] for key in wanted], dtype=np.int64))
        except StlmError as error:
            raise UserError(f"{error}; {again}") from None

    def __len__(self) -> int:
        return len(self._where)

    def read(self, views: Sequence[int] | npt.NDArray[np.int64]) -> Rows:
        """Features of ``views``, float16 (n, maps, channels, h, w), in that order."""
        out = np.empty((len(views), *self.row_shape), np.float16)
        for place, (chunk, row) in enumerate(self._where[np.asarray(views, dtype=np.int64)]):
            out[place] = self._rows[chunk][row]
        return out
