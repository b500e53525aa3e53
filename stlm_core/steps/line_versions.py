"""A published version of a line's data: the small files from which its images can be had elsewhere.

``lines/<line>/<revision>.tar`` holds ``version.json`` and, by their paths in the project, DVC's pointer to the images
and the line's catalogue or table of groups. ``lines/<line>/latest`` names the newest revision; it is written last.
Only what a reader needs is imported here, no DVC.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml
from pydantic import ValidationError

from stlm_core.config import LINE_NAME
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrations.shelf import Shelf
from stlm_core.settings import DataConfig
from stlm_core.steps.packed_images import is_safe

LATEST = "latest"
DESCRIPTION = "version.json"
_FORMAT = 1
_REVISION = re.compile(r"[0-9a-f]{32}(?:-[0-9a-f]{12})?")
_FOLDER_HASH = re.compile(r"[0-9a-f]{32}\.dir")
_NOTES = {"desc", "meta"}  # of a pointer, without effect
_POINTER_KEYS = {"md5", "size", "nfiles", "hash", "path", "type", "labels"} | _NOTES
_LARGEST = 256 << 20  # bytes; a catalogue of 100,000 images has 20 MB
_MOST_FILES = 4


@dataclass(frozen=True)
class LineVersion:
    """``data``: the line's settings of that name, all of them. ``pointer``: path of the ``.dvc`` file in the project;
    ``remote``: a folder or ``s3://bucket/prefix`` that holds the images. ``files``: path in the project -> content."""

    line: str
    revision: str
    data: DataConfig
    remote: str
    pointer: str
    files: Mapping[str, bytes] = field(repr=False)

    def described(self) -> dict[str, Any]:
        """What ``version.json`` says of the version itself; two that say the same are the same."""
        return {
            "format": _FORMAT,
            "line": self.line,
            "revision": self.revision,
            "data": self.data.model_dump(mode="json"),
            "remote": self.remote,
            "pointer": self.pointer,
            "files": {name: sha256_bytes(content) for name, content in sorted(self.files.items())},
        }

    def to_bytes(self, **notes: str) -> bytes:
        """The tar, with ``notes`` in ``version.json`` besides."""
        description = json.dumps({**self.described(), **notes}, indent=2).encode()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, content in {DESCRIPTION: description, **self.files}.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        return stream.getvalue()


def find_version(line: str, revision: str = LATEST, url: str | None = None) -> LineVersion:
    """A published version of ``line``; ``url``: None for ``STLM_DATA_URL``.

    Raises:
        UserError: it is not published there, or what is there is damaged.
    """
    shelf = Shelf(url)
    if not LINE_NAME.fullmatch(line):
        raise UserError(f"--line {line!r}: not the name of a line")
    if revision == LATEST and (revision := latest_revision(shelf, line)) == "":
        raise UserError(
            f"{shelf.url}: no version of line {line} is published; run `stlm data publish --line {line}` in its project"
        )
    found = read_version(shelf, line, revision)
    if found is None:
        raise UserError(f"{shelf.at(version_name(line, revision))}: no such version; publish it from its project")
    return found


def latest_revision(shelf: Shelf, line: str) -> str:
    """The revision that was published last; "" if none was."""
    content = shelf.read(latest_name(line), 1 << 10)
    return "" if content is None else content.decode(errors="replace").strip()


def read_version(shelf: Shelf, line: str, revision: str) -> LineVersion | None:
    """The version, checked to be what it is called; None if it is not there.

    Raises:
        UserError: a revision that is none, or a damaged file.
    """
    if not _REVISION.fullmatch(revision):
        raise UserError(f"line {line}: {revision[:80]!r} is not a revision; give `{LATEST}` or what publishing printed")
    name = version_name(line, revision)
    content = shelf.read(name, _LARGEST)
    if content is None:
        return None
    try:
        found = _parse(content)
        if (found.line, found.revision) != (line, revision):
            raise ValueError("another version")
    except (tarfile.TarError, ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shelf.at(name)}: damaged, {reason}; publish the version again from its project") from None
    return found


def version_name(line: str, revision: str) -> str:
    """Where the version lies."""
    return f"lines/{line}/{revision}.tar"


def latest_name(line: str) -> str:
    """Where the newest revision is named."""
    return f"lines/{line}/{LATEST}"


def folder_hash(pointer: str, content: bytes) -> str:
    """DVC's hash, with ``.dir``, of the folder that a pointer of this path and content tracks.

    Raises:
        ValueError: a pointer to something else than the folder beside it, or one with options.
    """
    outs = _mapping(content).get("outs")
    out = outs[0] if isinstance(outs, list) and len(outs) == 1 and isinstance(outs[0], dict) else {}
    digest = str(out.get("md5"))
    if (
        set(_mapping(content)) - _NOTES != {"outs"}
        or not set(out) <= _POINTER_KEYS
        or not _FOLDER_HASH.fullmatch(digest)
    ):
        raise ValueError(f"{pointer} is not what `dvc add` writes for a folder")
    if out.get("path") != PurePosixPath(pointer).stem or out.get("hash") != "md5":
        raise ValueError(f"{pointer} is not what `dvc add` writes for the folder beside it")
    return digest


def revision_of(data: DataConfig, pointer: str, files: Mapping[str, bytes]) -> str:
    """The revision's name; the same as :func:`stlm_core.integrations.revision.data_revision` tells in the project.

    Raises:
        LookupError, ValueError: a file is missing, or the pointer is not usable.
    """
    table = data.catalog or data.group_file
    digest = folder_hash(pointer, files[pointer]).removesuffix(".dir")
    return digest if table is None else f"{digest}-{sha256_bytes(files[table])[:12]}"


def _parse(content: bytes) -> LineVersion:
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if stream is None or not is_safe(member.name) or len(files) == _MOST_FILES:
                raise ValueError(f"{member.name!r} does not belong there")
            files[member.name] = stream.read()
    described = json.loads(files.pop(DESCRIPTION))
    data = DataConfig.model_validate(described["data"])
    found = LineVersion(
        described["line"], described["revision"], data, described["remote"], described["pointer"], files
    )
    if found.described() != {name: described[name] for name in found.described()}:
        raise ValueError("its files are not those it was published with")
    if {found.pointer, *filter(None, (data.catalog or data.group_file,))} != set(files):
        raise ValueError("a file is missing or too many")
    if not is_safe(data.path) or not PurePosixPath(data.path).is_relative_to(found.pointer.removesuffix(".dvc")):
        raise ValueError("its images are not what its pointer tracks")
    if found.revision != revision_of(data, found.pointer, files):
        raise ValueError("its files are those of another version")
    return found


def _mapping(content: bytes) -> dict[str, Any]:
    try:
        value = yaml.safe_load(content)
    except yaml.YAMLError:
        value = None
    return value if isinstance(value, dict) else {}
