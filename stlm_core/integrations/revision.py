"""Which commit of the code and which revision of the data a run belongs to, where that can be told."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

_SECONDS = 10


def git_revision(root: Path) -> str:
    """The commit checked out in ``root``, with ``-dirty`` when tracked files differ from it; "" if there is none.

    ``STLM_GIT_REVISION`` takes its place where there is no checkout, in a container for example.
    """
    if given := os.environ.get("STLM_GIT_REVISION", "").strip():
        return given
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return ""
    return f"{commit}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def dvc_revision(data: Path) -> str:
    """DVC's hash of a data folder that it tracks (``<folder>.dvc`` beside it); "" if it does not."""
    pointer = data.parent / f"{data.name}.dvc"
    try:
        outs = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
        return str(outs[0].get("md5") or outs[0].get("hash") or "")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return ""


def _git(root: Path, *arguments: str) -> str:
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
        return ""
    return done.stdout.strip()
