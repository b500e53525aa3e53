"""Editing ``params.yaml`` in place: one line's entry changes, comments and everything else stay."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from stlm_core.config import SECTIONS, LineConfig, load_line
from stlm_core.errors import UserError, first_line
from stlm_core.files import exclusive_lock, write_bytes_atomic


@contextmanager
def editing(params: Path) -> Iterator[Path]:
    """Hold the project of ``params`` against other commands that change its lines; gives the project's folder.

    Raises:
        UserError: there is no such folder.
    """
    folder = params.resolve().parent
    if not folder.is_dir():
        raise UserError(f"{params}: no such file; run from the project folder or pass --params")
    notice = f"{folder}: another command is changing this project's lines; waiting for it"
    with exclusive_lock(folder, notice=notice):
        yield folder


def write_params(params: Path, text: str) -> None:
    """Replace the text of ``params``, as a whole; where that is a symbolic link, of the file that it leads to.

    The project is the folder of that file: a file in place of the link would make the link's folder the project.

    Raises:
        UserError: it cannot be written.
    """
    write_bytes_atomic(params.resolve(), text.encode())


def with_entry(
    params: Path,
    text: str,
    name: str,
    profile: str | None,
    data: Mapping[str, Any],
    validate: Mapping[str, Any] | None = None,
) -> str:
    """``text`` of ``params`` with the settings of line ``name`` changed, everything else as it was.

    A new line gets all sections. Settings of ``data`` and ``validate`` replace those there are, None removes one;
    ``profile`` None keeps the line's own.

    Raises:
        UserError: the file cannot be edited, only read.
    """
    round_trip = YAML(typ="rt")
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    tree = _tree(params, text, round_trip)
    lines = tree["lines"]
    if not lines:
        lines.fa.set_block_style()
    entry = lines.get(name)
    if entry is None:
        entry = lines[_as_text(name)] = CommentedMap(
            {"profile": "fast", **{section: CommentedMap() for section in SECTIONS}}
        )
        for section in SECTIONS:
            entry[section].fa.set_flow_style()
        entry["data"] = CommentedMap()
    if profile is not None:
        entry["profile"] = _as_text(profile)
    for section, changes in (("data", data), ("validate", validate or {})):
        if not changes:
            continue
        settings = entry.get(section)
        if settings is None:
            settings = entry[section] = CommentedMap()
        for key, value in changes.items():
            if value is None:
                settings.pop(key, None)
            else:
                settings[key] = _as_text(value) if isinstance(value, str) else value
    stream = io.StringIO()
    round_trip.dump(tree, stream)
    return stream.getvalue()


def _tree(params: Path, text: str, round_trip: YAML) -> CommentedMap:
    try:
        tree: CommentedMap = round_trip.load(text)
    except (YAMLError, ValueError, AttributeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        reason = first_line(Exception(getattr(error, "problem", None) or error))
        raise UserError(f"{params}: cannot be edited{line}: {reason}; change the line's entry by hand") from None
    return tree


def _as_text(value: str) -> str:
    """``value``, in quotes where it would be read as something else.

    The file is written as YAML 1.2 and read as YAML 1.1, which has more words for true and false and more kinds of
    numbers: ``no``, ``12:30``.
    """
    try:
        plain = all(yaml.safe_load(text) == {"a": value} for text in (f"a: {value}", f"{{a: {value}}}"))
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError):
        plain = False
    return value if plain else DoubleQuotedScalarString(value)


def without_entry(params: Path, text: str, name: str) -> str | None:
    """``text`` of ``params`` without the block of one line; None when it is not a block of its own.

    Cut out as text, because a comment above the next entry belongs to that one, and a YAML library would drop it
    with this one.

    Raises:
        UserError: the file cannot be edited, only read.
    """
    rows = text.splitlines(keepends=True)
    lines = _tree(params, text, YAML(typ="rt"))["lines"]
    start, indent = lines.lc.key(name)
    if not re.match(rf"\s*['\"]?{re.escape(name)}['\"]?\s*:", rows[start]):
        return None
    end = start + 1
    for number in range(start + 1, len(rows)):
        content = rows[number].strip()
        depth = len(rows[number]) - len(rows[number].lstrip())
        if content and not content.startswith("#"):
            if depth <= indent:
                break
            end = number + 1
    if len(lines) == 1:
        rows[start] = ""
        header = max(number for number in range(start) if rows[number].startswith("lines:"))
        rows[header] = rows[header].replace("lines:", "lines: {}", 1)
        start += 1
    return "".join(rows[:start] + rows[end:])


def checked(params: Path, text: str, name: str) -> LineConfig:
    """The configuration of line ``name``, read from ``text`` as it will be read from ``params``.

    Raises:
        UserError: a wrong setting or an unknown profile.
    """
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / params.name
        temporary.write_text(text, encoding="utf-8")
        try:
            config = load_line(temporary, name)
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(params))) from None
    return config.model_copy(update={"root": params.resolve().parent})


def entry_text(text: str, name: str) -> str:
    """The line's entry in ``text`` as YAML."""
    return yaml.safe_dump({name: yaml.safe_load(text)["lines"][name]}, sort_keys=False, allow_unicode=True)


def relative_to_project(path: Path, project: Path) -> str:
    """``path`` as stored in ``params.yaml``: relative, so that a checkout can move together with its data.

    Absolute where the two have nothing but the file system's root in common.
    """
    resolved = path.resolve()
    if resolved.parts[:2] != project.parts[:2]:
        return str(resolved)
    return Path(os.path.relpath(resolved, project)).as_posix()
