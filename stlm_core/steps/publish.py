"""``stlm data publish``: a line's version, from a workstation to where a cluster finds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stlm_core.addresses import plain_address
from stlm_core.config import LineConfig, load_line
from stlm_core.data.catalog import catalog_bytes, open_catalog
from stlm_core.data.catalog_check import check_catalog
from stlm_core.errors import UserError
from stlm_core.integrations import versioning
from stlm_core.integrations.revision import git_revision
from stlm_core.integrations.shelf import Shelf
from stlm_core.steps.line_versions import (
    LineVersion,
    latest_name,
    latest_revision,
    read_version,
    revision_of,
    version_name,
)
from stlm_core.steps.packed_images import is_safe
from stlm_core.steps.versioning import line_pointer, open_project


@dataclass(frozen=True)
class Published:
    """``url``: address of the version. ``uploaded``: whether anything about it was new. ``pushed``: files that the
    DVC remote did not have."""

    line: str
    revision: str
    url: str
    uploaded: bool
    pushed: int
    remote: str


def publish_line(params: Path, line: str, url: str | None = None, jobs: int | None = None) -> Published:
    """Send the line's images to the DVC remote, then the files that name this version to ``url``.

    ``latest`` is written when all else is there, so a killed publication leaves the version before in force and can be
    repeated. Publishing an earlier version again makes it the latest.

    Args:
        url: a folder or ``s3://bucket/prefix``; None for ``STLM_DATA_URL``.

    Raises:
        UserError: the images are not tracked, were changed since, are not here or lie outside the project; they are
            not those of the catalogue; or a store cannot be reached.
    """
    config = load_line(params, line)
    _check_paths(config)
    project = open_project(params)
    pointer = line_pointer(project, params, line)
    remote = versioning.default_remote(project)
    shelf = Shelf(url, remote.options)
    _check_workspace(config, project, pointer)
    version = _version(config, pointer, remote.url)
    pushed = versioning.push(project, remote, [pointer], jobs)
    uploaded = _upload(shelf, version, config.root)
    address = shelf.at(version_name(line, version.revision))
    return Published(line, version.revision, address, uploaded, pushed, str(remote))


def _upload(shelf: Shelf, version: LineVersion, root: Path) -> bool:
    """Write what differs; whether anything did."""
    name = version_name(version.line, version.revision)
    try:
        known = read_version(shelf, version.line, version.revision)
    except UserError:
        known = None  # damaged
    same = known is not None and known.described() == version.described()
    if not same:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        shelf.write(name, version.to_bytes(published_at=now, git_revision=git_revision(root)))
    if latest_revision(shelf, version.line) == version.revision:
        return not same
    shelf.write(latest_name(version.line), f"{version.revision}\n".encode())
    return True


def _version(config: LineConfig, pointer: Path, remote: str) -> LineVersion:
    name = pointer.relative_to(config.root).as_posix()
    try:
        files = {name: pointer.read_bytes()}
        if config.data.catalog is not None:
            files[config.data.catalog] = catalog_bytes(config) or b""
        elif config.data.group_file is not None:
            files[config.data.group_file] = config.resolve(config.data.group_file).read_bytes()
        revision = revision_of(config.data, name, files)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{error}; track the images with `dvc add {name.removesuffix('.dvc')}`") from None
    told = plain_address(remote) if "://" in remote else remote  # the path of a folder guards no secret
    return LineVersion(config.name, revision, config.data, told, name, files)


def _check_paths(config: LineConfig) -> None:
    """In a cluster there is nothing but the project's own files."""
    data = config.data
    for setting, path in (("path", data.path), ("catalog", data.catalog), ("group_file", data.group_file)):
        if path is None or (setting == "group_file" and data.catalog is not None):
            continue
        inside = config.resolve(path).is_relative_to(config.root) and is_safe(path)
        if not inside:
            remedy = "import the images with `stlm lines add --copy`" if setting == "path" else "copy the file there"
            raise UserError(
                f"lines.{config.name}.data.{setting}: {path}: a cluster only gets what lies in the project's folder, "
                f"by a path relative to it; {remedy}"
            )


def _check_workspace(config: LineConfig, project: Path, pointer: Path) -> None:
    path = config.data.path
    if not pointer.is_relative_to(config.root):
        raise UserError(f"{pointer}: tracks more than the project; track the line's images with `dvc add {path}`")
    tracked = pointer.relative_to(config.root).as_posix().removesuffix(".dvc")
    found = versioning.state(project, pointer, None).workspace
    if found == "missing":
        raise UserError(f"{path}: the images are not here; run `stlm data pull --line {config.name}` first")
    if found == "changed":
        raise UserError(
            f"{path}: changed since it was tracked; keep the changes with `dvc add {tracked}`, or drop them with "
            f"`dvc checkout {tracked}.dvc`, then publish"
        )
    if (catalog := open_catalog(config)) is not None:
        check_catalog(catalog, config.resolve(path), config.name)
