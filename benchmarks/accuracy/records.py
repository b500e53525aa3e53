"""One finished cell of the grid: a configuration on a line with a seed, and everything that was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stlm_core.errors import UserError
from stlm_core.files import read_json_object, write_json_atomic

_FOLDER = "records"


@dataclass(frozen=True)
class Record:
    """``settings``: what decides the cell, compared when a grid is continued. ``pseudo``: figures on held-back good
    images with pseudo anomalies; empty for what is never selected. ``test``: figures of the test split, fractions.
    ``seconds``: by step. ``facts``: revision, code, machine."""

    line: str
    configuration: str
    seed: int
    settings: Mapping[str, Any]
    pseudo: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The cell's name, which is also its line's name in its own ``params.yaml``."""
        return cell_name(self.line, self.configuration, self.seed)


def cell_name(line: str, configuration: str, seed: int) -> str:
    """For example ``bottle-0-default``."""
    return f"{line}-{seed}-{configuration}"


def read_record(results: Path, name: str) -> Record | None:
    """The finished cell of that name, if there is one.

    Raises:
        UserError: its file is damaged.
    """
    path = _path(results, name)
    if not path.exists():
        return None
    try:
        return Record(**read_json_object(path, "remove it and run the cell again"))
    except TypeError:
        raise UserError(f"{path}: not a record of this version; remove it and run the cell again") from None


def read_records(results: Path) -> list[Record]:
    """All finished cells, by name."""
    names = sorted(path.stem for path in (results / _FOLDER).glob("*.json"))
    return [record for name in names if (record := read_record(results, name)) is not None]


def write_record(results: Path, record: Record) -> None:
    """Keep a finished cell."""
    write_json_atomic(_path(results, record.name), asdict(record))


def same_settings(record: Record, settings: Mapping[str, Any]) -> bool:
    """Whether the cell was made with these settings."""
    return bool(record.settings == json.loads(json.dumps(settings)))  # tuples are lists in a file


def _path(results: Path, name: str) -> Path:
    return results / _FOLDER / f"{name}.json"
