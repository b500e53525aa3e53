"""Hashes, atomic writes, JSON objects and locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stlm_core.errors import UserError

_CHUNK = 1 << 20


def sha256_bytes(content: bytes) -> str:
    """sha256 of ``content`` as a hex digest."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes as a hex digest, read in 1 MiB pieces.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def sha256_tree(path: Path) -> str:
    """One digest for a file, or for all files under a folder with their relative names."""
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        # The name as the file system has it: on Linux that is any bytes, which need not be UTF-8.
        digest.update(os.fsencode(file.relative_to(path)) + f"\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def write_bytes_atomic(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` so that ``path`` holds either its old bytes or all of the new ones.

    A symbolic link at ``path`` is replaced, not followed: whoever can make one must not choose what is overwritten.
    The temporary file beside it has a short name of its own: ``path`` may have the longest that there can be.

    Raises:
        UserError: the folder is missing, not writable, or the disk is full; the old file stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".stlm-", suffix=".tmp")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline; see :func:`write_bytes_atomic`."""
    write_bytes_atomic(path, (json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n").encode())


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in ``path``; ``remedy``, what to do about a bad file, ends the sentence of an error.

    Raises:
        UserError: the file cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; {remedy}")
    return value


@contextmanager
def exclusive_lock(lock: Path, busy: str | None = None, notice: str | None = None) -> Iterator[None]:
    """Hold the file or folder ``lock`` against other processes; a file is made when missing, with its folders.

    Waits for another holder, after printing ``notice`` on standard error, or with ``busy`` refuses at once with that
    sentence. The lock goes with the process, however that ends.

    Raises:
        UserError: ``lock`` cannot be opened, or another process holds it and ``busy`` is given.
    """
    folder = os.path.isdir(lock)  # Path.is_dir raises where the folder above may not be searched
    try:
        if not folder:
            lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{lock if folder else lock.parent}: cannot be written: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                raise UserError(busy) from None
            if notice is not None:
                print(notice, file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
