"""Pretrained weights: the cache folder of this project, and what fills it."""

from __future__ import annotations

import os
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.weights.catalog import lookup
from stlm_core.weights.download import RangeOpener
from stlm_core.weights.fetch import Fetched, fetch
from stlm_core.weights.store import CachedFile, fetch_command, inspect


def weights_folder(root: Path) -> Path:
    """The cache folder: environment variable ``STLM_WEIGHTS``, else ``.stlm/weights`` under ``root``, which is the
    folder of ``params.yaml``."""
    given = os.environ.get("STLM_WEIGHTS")
    return Path(given).expanduser() if given else root / ".stlm" / "weights"


def fetch_weights(name: str, folder: Path, source: str | None = None, sha256: str | None = None) -> Fetched:
    """Fetch a catalogue entry into ``folder``; see :func:`stlm_core.weights.fetch.fetch`."""
    return fetch(lookup(name), folder, source, sha256=sha256, open_s3=_open_s3)


def list_weights(folder: Path) -> list[CachedFile]:
    """Every catalogue entry with its state in ``folder``."""
    return inspect(folder)


def verify_weights(folder: Path, name: str | None = None) -> list[CachedFile]:
    """The whole files among all present ones, or the one called ``name``.

    Raises:
        UserError: a file is corrupt, or ``name`` is missing; the message has the command that repairs it.
    """
    found = inspect(folder, None if name is None else lookup(name).name)
    for file in found:
        if file.status == "corrupt" or (file.status == "missing" and name is not None):
            raise UserError(f"{file.path}: {file.status}; run `{fetch_command(file.entry)}`")
    return [file for file in found if file.status == "present"]


def _open_s3(address: str, timeout: float) -> RangeOpener:
    from stlm_core.integrations.s3 import s3_opener  # boto3 is slow to import and rarely needed

    return s3_opener(address, timeout)
