"""A line's files changed together with ``params.yaml``: all of them, or after an error or a kill none.

``stlm lines add --force`` replaces images, ``line.json``, ``quarantine.csv`` and DVC's pointer, and ``params.yaml``
last. Until then what it replaces is kept in a folder of the line, with a note of what ``params.yaml`` named before and
will name. Whoever finds that folder later knows from ``params.yaml`` which of the two states is the line's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stlm_core.config import LINE_NAME, load_params
from stlm_core.data.catalog import publish
from stlm_core.errors import UserError
from stlm_core.files import read_json_object, write_bytes_atomic, write_json_atomic
from stlm_core.steps.line_files import LineFolder

_KEPT = ".import.kept"
_NEW, _DONE = f"{_KEPT}.new", f"{_KEPT}.done"  # not whole yet; not needed any more
_NOTE = "note.json"
_IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a line was, kept in its folder while it is replaced.

    ``collected``: the folder of the new images until they take the place of the line's; None if they do not.
    """

    params: Path
    folder: LineFolder
    collected: Path | None

    @property
    def aside(self) -> Path:
        """Where the old images go."""
        return self.folder.path / _KEPT / _IMAGES

    def begin(self, new: tuple[str, str]) -> None:
        """Keep the line's records, and note the version ``new`` (path of the images, catalogue's hash) that is coming.

        Raises:
            OSError: the folder cannot be written.
        """
        part = self.folder.path / _NEW
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for record in _records(self.folder):
            if record.is_file():
                shutil.copyfile(record, part / record.name)
        note = {
            "old": _version(self.params, self.folder.path.name),
            "new": list(new),
            "collected": None if self.collected is None else self.collected.name,
            "images": os.path.lexists(self.folder.images),
        }
        write_json_atomic(part / _NOTE, note)
        os.rename(part, self.folder.path / _KEPT)


@contextmanager
def replacing(params: Path, folder: LineFolder, new: tuple[str, str], collected: Path | None) -> Iterator[Replacement]:
    """Change the files of a line in the block, ``params`` last; if that is not reached, they are what they were.

    Raises:
        OSError: the folder cannot be written.
    """
    replacement = Replacement(params, folder, collected)
    try:
        replacement.begin(new)
        yield replacement
    except BaseException:
        # What cannot be settled now, for example on a full disk, is settled by the next command.
        with contextlib.suppress(UserError):
            settle(params, folder.path.name)
        raise
    settle(params, folder.path.name)


def settle(params: Path, name: str) -> None:
    """Finish or undo what a command on line ``name`` was doing when it ended; nothing to do is fine.

    To be called while no other command changes the lines of ``params``.

    Raises:
        UserError: the line's folder cannot be read or written; it can be tried again.
    """
    if not LINE_NAME.fullmatch(name):
        return
    folder = LineFolder.of(params.resolve().parent, name)
    kept = folder.path / _KEPT
    try:
        for rest in (folder.path / _NEW, folder.path / _DONE):
            if rest.is_dir():
                shutil.rmtree(rest)
        now = _version(params, name)
        if kept.is_dir():
            note = read_json_object(kept / _NOTE, f"move {kept} away; it holds what the line was before")
            if now != note.get("new") or now == note.get("old"):
                _undo(folder, kept, note)
            os.rename(kept, folder.path / _DONE)
        if folder.path.is_dir():
            publish(folder.catalog, str(now[1]) if now else "")
        shutil.rmtree(folder.path / _DONE, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder.path}: cannot be written: {error.strerror or error}") from None


def _undo(folder: LineFolder, kept: Path, note: dict[str, Any]) -> None:
    """Every step can be repeated: one that was done is recognised by what lies where."""
    if note.get("collected"):
        collected, old = folder.path / str(note["collected"]), kept / _IMAGES
        if not collected.exists() and folder.images.exists() and (os.path.lexists(old) or not note.get("images")):
            os.rename(folder.images, collected)
        if os.path.lexists(old):
            os.rename(old, folder.images)
        shutil.rmtree(collected, ignore_errors=True)
    for record in _records(folder):
        if (kept / record.name).is_file():
            write_bytes_atomic(record, (kept / record.name).read_bytes())
        else:
            record.unlink(missing_ok=True)


def _records(folder: LineFolder) -> tuple[Path, ...]:
    return (folder.imports, folder.quarantine, folder.pointer, folder.ignore)


def _version(params: Path, name: str) -> list[Any] | None:
    """Images and catalogue's hash of the line as ``params`` names them; None if it has no such line."""
    entry = load_params(params)["lines"].get(name)
    data = entry.get("data") if isinstance(entry, dict) else None
    return [data.get("path"), data.get("catalog_sha256")] if isinstance(data, dict) else None
