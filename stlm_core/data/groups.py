"""Which physical part an image shows: from its file name, or from a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from stlm_core.config import LineConfig
from stlm_core.errors import UserError

GroupFinder = Callable[[str], str | None]
COLUMNS = ("path", "group")


def group_finder(config: LineConfig) -> GroupFinder:
    """A function from an image's path (posix, relative to the line's folder) to its group.

    The function returns "" when the line has no groups and None when it has, but not for this image.

    Raises:
        UserError: ``data.group_file`` cannot be read or is not a table of paths and groups.
    """
    pattern, table = config.data.group_pattern, config.data.group_file
    if table is not None:
        return _read_table(config.resolve(table)).get
    if pattern is None:
        return lambda path: ""
    expression = re.compile(pattern)

    def find(path: str) -> str | None:
        match = expression.search(PurePosixPath(path).name)
        return (match.group(1) or None) if match else None

    return find


def _read_table(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(f"{path}: the first row must be `path,group`")
            groups: dict[str, str] = {}
            for row in reader:
                name, group = row["path"], row["group"]
                if not name or not group or groups.get(name, group) != group:
                    raise UserError(f"{path}: row {reader.line_num}: a path and one group for it are needed")
                groups[name] = group
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from None
    return groups
