"""Resumable copying of one remote file into a ``.part`` file, whatever it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stlm_core.errors import UserError
from stlm_core.progress import Progress, progress

_CHUNK = 1 << 20
_MIB = 1 << 20
# No file of the catalogue comes near it; it stops a server that never ends.
MAX_BYTES = 16 << 30


class ByteStream(Protocol):
    """What a source hands out: read up to ``size`` bytes, empty at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Opened:
    """An open source. ``start``: offset of the first byte the stream gives, 0 when the source cannot resume;
    ``total``: size of the whole file in bytes, or None where the source does not say; ``etag``: changes with the
    file's bytes, empty where the source does not say."""

    stream: ByteStream
    start: int
    total: int | None
    etag: str = ""


RangeOpener = Callable[[int], AbstractContextManager[Opened]]
"""Opens a source at a byte offset. Raises :class:`TransferInterruptedError` for what may pass by itself,
:class:`RangeRefusedError` when the source ends before the offset, and ``UserError`` for what will not pass."""


@dataclass(frozen=True)
class Source:
    """A place to download from; ``described`` names it in messages and holds no secret."""

    open_at: RangeOpener
    described: str


class TransferInterruptedError(Exception):
    """The connection failed or ended early; trying again may help. The message says what happened."""


class RangeRefusedError(Exception):
    """The source has no byte at the offset asked for."""


@dataclass(frozen=True)
class Patience:
    """How long to try. ``attempts`` in a row without at least 1 MiB of progress; ``pause`` seconds before the
    second one, doubled each time; ``timeout`` seconds without a byte."""

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 30.0


def download(source: Source, part: Path, size: int | None, patience: Patience) -> bool:
    """Append to ``part`` until the source ends; True when bytes of an earlier run were kept.

    ``part`` survives every interruption, so that the next call continues it. ``size``: the size the file must have
    in bytes, None if unknown.

    Raises:
        UserError: the source stayed unreachable, sends more than ``size`` bytes, or ``part`` cannot be written.
    """
    offset = _existing(part, size)
    resumed = offset > 0
    failures = 0
    while size is None or offset < size:
        begun = offset
        try:
            with source.open_at(offset) as opened:
                if opened.start < offset:  # the source ignores ranges: only a fresh copy can be right
                    resumed = False
                offset = begun = opened.start
                offset = _copy(source, opened, part, size)
            total = size if opened.total is None else opened.total
            if total is None or offset >= total:
                break
            reason = f"it ended after {offset} of {total} bytes"
        except RangeRefusedError:
            break
        except TransferInterruptedError as error:
            reason = str(error)
            offset = _existing(part, size)
        failures = 1 if offset - begun >= _MIB else failures + 1
        if failures >= patience.attempts:
            remedy = (
                f"{offset / 1e6:.1f} MB are kept, run the command again to continue"
                if offset
                else "check the network, or give another source with --from"
            )
            raise UserError(f"{source.described}: {reason} (tried {failures} times); {remedy}")
        time.sleep(patience.pause * 2 ** (failures - 1))
    return resumed


def _existing(part: Path, size: int | None) -> int:
    """Bytes worth keeping; more than there can be means that they are of another file."""
    if not part.exists():
        return 0
    kept = part.stat().st_size
    if size is not None and kept > size:
        part.unlink()
        return 0
    return kept


def _copy(source: Source, opened: Opened, part: Path, size: int | None) -> int:
    """Write the stream to ``part`` and return the new end."""
    offset = opened.start
    limit = MAX_BYTES if size is None else size
    with _shown(part, opened.total or size, offset) as shown, _PartWriter(part, opened.start) as write:
        while chunk := opened.stream.read(_CHUNK):
            if offset + len(chunk) > limit:
                part.unlink()
                raise UserError(f"{source.described}: sends more than the {limit} bytes of the file asked for; refused")
            write(chunk)
            if shown is not None:
                shown.advance((offset + len(chunk)) // _MIB - offset // _MIB)
            offset += len(chunk)
    return offset


def _shown(part: Path, total: int | None, offset: int) -> AbstractContextManager[Progress | None]:
    if total is None:
        return nullcontext()
    label = part.name.removeprefix(".").removesuffix(".part")
    return progress(f"{label} (MiB)", -(-total // _MIB), start=offset // _MIB)


class _PartWriter:
    """Writes at ``start`` of ``part`` and drops what was beyond; every failure is one clear sentence."""

    def __init__(self, part: Path, start: int) -> None:
        self._part = part
        try:
            self._stream = part.open("r+b" if start else "wb", buffering=0)
            self._stream.seek(start)
        except OSError as error:
            raise _cannot_write(part, error) from None

    def __enter__(self) -> Callable[[bytes], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            raise _cannot_write(self._part, error) from None


def _cannot_write(part: Path, error: OSError) -> UserError:
    return UserError(
        f"{part.parent}: cannot be written: {error.strerror or error}; make room or choose another folder with "
        "STLM_WEIGHTS, then run the command again to continue"
    )
