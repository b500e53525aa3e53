"""A DVC project of its own for one pull, where there is neither git nor the project that the data come from."""

from __future__ import annotations

import shutil
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.integrations.versioning import pull, set_remote
from stlm_core.integrations.versioning_probe import patiently
from stlm_core.integrations.versioning_process import run_dvc

_STATE = ".dvc"
# Links to the cache: the images are read once and not changed, so they need the disk only once.
_CONFIG = """\
[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = "reflink,hardlink,copy"
"""


def open_scratch(folder: Path) -> Path:
    """An empty DVC project in ``folder``, without git; of an earlier one the cache is kept, so that a pull continues.

    Raises:
        UserError: ``folder`` holds something else, or cannot be written.
    """
    state = folder / _STATE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not state.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder}: holds other files; give an empty or a new folder for scratch")
        for entry in folder.iterdir():
            if entry.name != _STATE:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        state.mkdir(exist_ok=True)
        (state / "config").write_text(_CONFIG)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    folder = folder.resolve()
    run_dvc(folder, str(folder), "config", "core.site_cache_dir", str(folder / _STATE / "site"))
    return folder


def pull_patiently(project: Path, url: str, pointer: Path, jobs: int | None = None) -> int:
    """Pull what ``pointer`` names from the folder or bucket ``url``; how many files were fetched.

    A bucket's endpoint is that of the environment. A store that does not answer is tried again.

    Raises:
        UserError: see :func:`stlm_core.integrations.versioning.pull`; an ``url`` that is no place for data.
    """
    if not url.startswith("s3:") and not Path(url).is_dir():
        raise UserError(f"{url}: no such folder; the images were pushed there, mount it under this path")
    remote = set_remote(project, url, None, "storage")
    return patiently(lambda: pull(project, remote, [pointer], jobs))
