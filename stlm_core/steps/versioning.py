"""Versions of the lines' data: to a remote, back from it, and how the two compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stlm_core.config import line_names, load_line
from stlm_core.errors import UserError
from stlm_core.integrations import versioning
from stlm_core.integrations.versioning import State


@dataclass(frozen=True)
class LineState:
    """One line's data: ``path`` as in params.yaml; ``state`` None when DVC does not track it."""

    line: str
    path: str
    state: State | None


@dataclass(frozen=True)
class Moved:
    """What a transfer did: ``files`` moved (0: all were there already), and the remote's name and address."""

    files: int
    remote: str


def set_remote(params: Path, url: str, endpoint: str | None = None, name: str = "storage") -> str:
    """Make a folder or ``s3://bucket/prefix`` the project's default remote; its name and address.

    Raises:
        UserError: no DVC project, or an address that cannot be used; see ``integrations.versioning.set_remote``.
    """
    return str(versioning.set_remote(open_project(params), url, endpoint, name))


def push_data(params: Path, line: str | None = None, jobs: int | None = None) -> Moved:
    """Send the data of ``line``, or all that DVC tracks (pipeline outputs too), to the default remote.

    Raises:
        UserError: an unknown or untracked line, or the remote fails; running it again continues.
    """
    project = open_project(params)
    pointers = [line_pointer(project, params, line)] if line else []
    remote = versioning.default_remote(project)
    return Moved(versioning.push(project, remote, pointers, jobs), str(remote))


def pull_data(params: Path, line: str | None = None, jobs: int | None = None) -> Moved:
    """Fetch and verify the data of ``line``, or all that DVC tracks; see :func:`push_data`.

    The workspace changes only when all of the version could be had.
    """
    project = open_project(params)
    pointers = [line_pointer(project, params, line)] if line else []
    remote = versioning.default_remote(project)
    return Moved(versioning.pull(project, remote, pointers, jobs), str(remote))


def data_state(params: Path, line: str | None = None, remote: bool = True) -> list[LineState]:
    """Every line's data (or one line's) in the workspace and, with ``remote``, compared with the default remote.

    Raises:
        UserError: an unknown line; with ``remote``: none is set up, or it fails.
    """
    project = open_project(params)
    target = versioning.default_remote(project) if remote else None
    states = []
    for name in [line] if line else line_names(params):
        data = load_line(params, name)
        pointer = versioning.pointer_of(project, data.resolve(data.data.path))
        state = versioning.state(project, pointer, target) if pointer else None
        states.append(LineState(name, data.data.path, state))
    return states


def line_pointer(project: Path, params: Path, line: str) -> Path:
    """The ``.dvc`` file that tracks the line's images.

    Raises:
        UserError: none does, or they lie outside ``project``.
    """
    config = load_line(params, line)
    path = config.data.path
    folder = config.resolve(path)
    if versioning.find_project(folder) != project:
        raise UserError(
            f"{path}: the data of line `{line}` lie outside this DVC project, so it keeps no versions of them"
        )
    pointer = versioning.pointer_of(project, folder)
    if pointer is None:
        raise UserError(f"{path}: the data of line `{line}` are not tracked by DVC; run `dvc add {path}` first")
    return pointer


def open_project(params: Path) -> Path:
    """The DVC project that ``params`` belongs to.

    Raises:
        UserError: there is none.
    """
    folder = params.resolve().parent
    project = versioning.find_project(folder)
    if project is None:
        raise UserError(f"{folder}: not a DVC project; run `dvc init` there")
    return project
