"""Which commit of the code and which revision of the data a run belongs to, where that can be told."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.files import sha256_file

_SECONDS = 10
_TABLE_DIGITS = 12


def git_revision(root: Path) -> str:
    """The commit checked out in ``root``, with ``-dirty`` when tracked files differ from it; "" if there is none.

    "" as well if git cannot tell whether they differ, in time: a commit that may not be what ran would mislead.
    ``STLM_GIT_REVISION`` takes its place where there is no checkout, in a container for example.
    """
    if given := os.environ.get("STLM_GIT_REVISION", "").strip():
        return given
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return ""
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if changes is None:
        return ""
    return f"{commit}-dirty" if changes else commit


def dvc_revision(data: Path) -> str:
    """DVC's hash of a data folder that it tracks (``<folder>.dvc`` beside it); "" if it does not."""
    pointer = data.parent / f"{data.name}.dvc"
    try:
        outs = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
        return str(outs[0].get("md5") or outs[0].get("hash") or "")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return ""


def data_revision(config: LineConfig) -> str:
    """The name of the version of a line's data: what DVC tracks, and the table that says what the images are.

    DVC's hash of the images' folder (or of the tracked one that holds it) without ``.dir``, and after a dash the first
    digits of the sha256 of the catalogue, or without one of ``data.group_file``. "" if DVC does not track the images or
    the table is missing.
    """
    images, data = config.resolve(config.data.path), config.data
    inside = (folder for folder in (images, *images.parents) if config.root in folder.parents)
    digest = next(filter(None, map(dvc_revision, inside)), "").removesuffix(".dir")
    table = data.catalog or data.group_file
    if not digest or table is None:
        return digest
    try:
        known = data.catalog_sha256 if data.catalog else None
        return f"{digest}-{(known or sha256_file(config.resolve(table)))[:_TABLE_DIGITS]}"
    except UserError:
        return ""


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
