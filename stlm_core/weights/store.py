"""The cache folder: which file is where, and whether it is whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from stlm_core.addresses import without_credentials
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.weights.catalog import CATALOG, PretrainedFile

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Status = Literal["present", "missing", "corrupt"]


@dataclass(frozen=True)
class CachedFile:
    """One catalogue entry as found in the cache folder; ``status`` comes from the file's sha256."""

    entry: PretrainedFile
    path: Path
    status: Status


def is_address(source: str) -> bool:
    """Whether ``source`` is an address (``https://``, ``s3://``, ...) and not a path."""
    return _ADDRESS.match(source) is not None


def expected_sha256(entry: PretrainedFile, sha256: str | None) -> str:
    """The hash the file must have: the user's, or else the catalogue's; lower case.

    Raises:
        UserError: not 64 hexadecimal digits.
    """
    if sha256 is None:
        return entry.sha256
    if not _SHA256.fullmatch(sha256.lower()):
        raise UserError(f"sha256 `{sha256}`: needs to be 64 hexadecimal digits")
    return sha256.lower()


def cached_path(entry: PretrainedFile, cache_dir: Path, sha256: str | None = None) -> Path:
    """Where the entry's file lies once fetched; a file of another hash gets that hash into its name."""
    expected = expected_sha256(entry, sha256)
    if expected == entry.sha256:
        return cache_dir / entry.file_name
    name = PurePosixPath(entry.file_name)
    return cache_dir / f"{name.stem}-{expected[:12]}{name.suffix}"


def inspect(cache_dir: Path, name: str | None = None) -> list[CachedFile]:
    """State of every catalogue entry, or of one. Reads each present file to its end."""
    entries = list(CATALOG.values()) if name is None else [CATALOG[name]]
    return [
        CachedFile(entry, path := cached_path(entry, cache_dir), _status(path, entry.size, entry.sha256))
        for entry in entries
    ]


def locate(
    entry: PretrainedFile, cache_dir: Path, given: str | None = None, sha256: str | None = None, *, root: Path
) -> Path:
    """The local file a setting means: ``given`` is None (the pinned file), a path from ``root``, or an address.

    An address is never opened here: its file must have been fetched into ``cache_dir``.

    Raises:
        UserError: the file does not exist; the message has the command that gets it.
    """
    if given is not None and not is_address(given):
        path = root / Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"{path}: no such weights file; correct the path, or leave it out for the pinned file")
        return path
    path = cached_path(entry, cache_dir, sha256)
    if not path.is_file():
        raise UserError(f"{path}: missing; get it with `{fetch_command(entry, given, sha256)}`")
    return path


def fetch_command(entry: PretrainedFile, given: str | None = None, sha256: str | None = None) -> str:
    """The shell command that puts the file into the cache folder."""
    command = f"stlm weights fetch {entry.name}"
    if given is not None:
        command += f" --from {without_credentials(given)}"
    if sha256 is not None and sha256.lower() != entry.sha256:
        command += f" --sha256 {sha256.lower()}"
    return command


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Compare a file with the hash it must have.

    Raises:
        UserError: they differ; the message names both hashes and ends with ``remedy``.
    """
    actual = sha256_file(path)
    if actual != expected:
        raise UserError(f"{path}: has sha256 {actual}, expected {expected}; {remedy}")


def _status(path: Path, size: int, sha256: str) -> Status:
    if not path.is_file():
        return "missing"
    whole = path.stat().st_size == size and sha256_file(path) == sha256
    return "present" if whole else "corrupt"
