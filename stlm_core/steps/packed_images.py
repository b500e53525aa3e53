"""A line's images as one file, from the step that fetches them to those that read them.

An uncompressed tar: first ``.stlm/images.json``, which says how many files and bytes follow, then the files by the path
they have in the project, sorted. Without times and owners, so equal data give an equal file.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from stlm_core.errors import UserError
from stlm_core.progress import progress

MARKER = ".stlm/images.json"
_VERSION = 1
_LARGEST_MARKER = 1 << 16
_BUFFER = 1 << 20
_REMEDY = "fetch it again with `stlm fetch-images`"


def is_safe(name: str) -> bool:
    """Whether ``name`` is a relative posix path as it should be written, that stays in the folder it starts from."""
    path = PurePosixPath(name)
    return bool(path.parts) and str(path) == name and not (path.is_absolute() or ".." in path.parts or "\0" in name)


def pack_images(line: str, revision: str, root: Path, names: Sequence[str], archive: Path) -> int:
    """Write the files ``names`` below ``root`` into ``archive``, which appears when it is whole.

    Returns:
        How many bytes the files have.

    Raises:
        UserError: a file is missing, is a link or has no usable name, or the archive cannot be written.
    """
    names = sorted(names)
    for name in names:
        if not is_safe(name) or not (root / name).is_file() or (root / name).is_symlink():
            raise UserError(f"{root / name}: not a regular file, so it cannot be sent to a cluster")
    sizes = [(root / name).stat().st_size for name in names]
    mark = {"version": _VERSION, "line": line, "revision": revision, "files": len(names), "bytes": sum(sizes)}
    part = archive.with_name(f".{archive.name}.part")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with (
            part.open("wb", buffering=_BUFFER) as target,
            tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar,
            progress(f"{line}: packing files", len(names)) as shown,
        ):
            content = json.dumps(mark, sort_keys=True).encode()
            tar.addfile(_member(MARKER, len(content)), io.BytesIO(content))
            for name, size in zip(names, sizes, strict=True):
                with (root / name).open("rb") as source:
                    tar.addfile(_member(name, size), source)
                shown.advance()
        part.replace(archive)
    except OSError as error:
        raise UserError(f"{archive}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return sum(sizes)


def unpack_images(archive: Path, root: Path) -> None:
    """Put the files of :func:`pack_images` where they were, below ``root``; files that are there are replaced.

    Nothing is written outside ``root``: links, devices and paths that lead elsewhere are refused.

    Raises:
        UserError: ``archive`` is cut off or not such a file, or ``root`` cannot be written.
    """
    with _opened(archive) as tar:
        mark = _marker(tar, archive)
        count = total = 0
        made: set[Path] = set()
        with progress(f"{mark['line']}: unpacking files", mark["files"]) as shown:
            for member in tar:
                if member.name == MARKER and not count:
                    continue
                _check(member, archive)
                target = root / member.name
                if target.parent not in made:
                    _make_folder(root, target.parent)
                    made.add(target.parent)
                source = tar.extractfile(member)
                assert source is not None  # a regular file has content
                _write(source, target)
                count, total = count + 1, total + member.size
                shown.advance()
    if (count, total) != (mark["files"], mark["bytes"]):
        raise UserError(f"{archive}: holds {count} of {mark['files']} files, cut off or changed; {_REMEDY}")
    _make_folder(root, (root / MARKER).parent)
    _write(io.BytesIO(json.dumps(mark, sort_keys=True).encode()), root / MARKER)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:", encoding="utf-8") as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{archive}: cut off or not packed images: {error}; {_REMEDY}") from None
    except OSError as error:
        raise UserError(f"{archive}: cannot be read: {error.strerror or error}") from None


def _marker(tar: tarfile.TarFile, archive: Path) -> dict[str, Any]:
    first = tar.next()
    if first is not None and first.name == MARKER and first.isreg() and first.size <= _LARGEST_MARKER:
        stream = tar.extractfile(first)
        assert stream is not None
        mark = json.loads(stream.read())
        if isinstance(mark, dict) and mark.get("version") == _VERSION and isinstance(mark.get("line"), str):
            counts = [mark.get("files"), mark.get("bytes")]
            if all(isinstance(count, int) and count >= 0 for count in counts):
                return mark
    raise UserError(f"{archive}: not packed images of this version of stlm; {_REMEDY}")


def _check(member: tarfile.TarInfo, archive: Path) -> None:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise UserError(f"{archive}: {member.name!r} is no plain file; refused")
    if not is_safe(member.name) or member.name == MARKER:
        raise UserError(f"{archive}: {member.name!r} is no path inside a project; refused")


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


def _make_folder(root: Path, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}") from None
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{folder}: a link out of {root}; unpack into another folder")


def _write(source: IO[bytes], target: Path) -> None:
    try:
        if target.is_symlink():
            target.unlink()
        with target.open("wb") as stream:
            shutil.copyfileobj(source, stream, _BUFFER)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
