"""DVC, the only place that runs it: folders tracked, remotes set up, data pushed, pulled and compared.

Everything goes through ``python -m dvc`` with an argument list. Credentials of a bucket come from the environment or
the user's AWS profile; none is written to a file or shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from stlm_core.addresses import plain_address
from stlm_core.errors import StlmError, UserError
from stlm_core.integrations.versioning_failures import (
    cache_is_incomplete,
    git_ignores,
    not_transferred,
)
from stlm_core.integrations.versioning_probe import Remote, probe
from stlm_core.integrations.versioning_process import run_dvc

# Seconds. DVC's own number of jobs stays: benchmarks/data_transfer.py found nothing better.
_S3_OPTIONS = {"connect_timeout": "5", "read_timeout": "30"}
_MOVED = re.compile(r"(\d+) files? (?:pushed|fetched)")
_NO_FOLDER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]*:.*@", re.DOTALL)
_REMOTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^?#@\s]*)?")
# DVC takes a version whose list is on the remote for complete there, so pushing to the same place mends nothing.
_REPAIR = "the others are kept; from a machine that has this version, push it to another prefix or folder"
_RECOVER = "not in DVC's cache, so not pushed: get them with `stlm data pull`, or track the folder again with `dvc add`"


@dataclass(frozen=True)
class State:
    """How the data behind one ``.dvc`` file compare.

    ``workspace``: ``clean``, ``changed`` (edited since it was tracked) or ``missing`` (to be pulled).
    ``to_push``: files that the remote lacks; ``to_pull``: files that the local cache lacks; None: no remote asked.
    """

    workspace: Literal["clean", "changed", "missing"]
    to_push: int | None = None
    to_pull: int | None = None


def find_project(path: Path) -> Path | None:
    """The nearest folder above ``path``, or itself, that holds ``.dvc``; None if there is none."""
    return next((folder for folder in (path.resolve(), *path.resolve().parents) if (folder / ".dvc").is_dir()), None)


def pointer_of(project: Path, folder: Path) -> Path | None:
    """The ``.dvc`` file in ``project`` that tracks ``folder`` or a folder above it; None if nothing there does."""
    if find_project(folder) != project.resolve():  # a folder in another project is that one's
        return None
    for tracked in (folder.resolve(), *folder.resolve().parents):
        if tracked == project.resolve():
            return None
        pointer = tracked.with_name(f"{tracked.name}.dvc")
        if pointer.is_file():
            return pointer
    return None


def track(folder: Path) -> Path | None:
    """Put ``folder`` under DVC as it is now (again after a change); its files stay where they are.

    Returns:
        The ``.dvc`` file to commit, beside the folder; None when the folder is in no DVC project.

    Raises:
        UserError: DVC is not installed, the disk is full, git ignores the ``.dvc`` file, the folder belongs to another
            output, or another DVC command runs. The images are untouched and the command can be repeated.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    project = find_project(folder.parent)
    if project is None:
        return None
    name = folder.relative_to(project).as_posix()
    run_dvc(project, name, "add", "--", name)
    pointer = folder.with_name(f"{folder.name}.dvc")
    parent = _name(project, folder.parent)
    seen = json.loads(run_dvc(project, name, "list", "--dvc-only", "--json", "--", ".", parent))
    if folder.name not in {entry["path"] for entry in seen}:
        raise git_ignores(_name(project, pointer))
    return pointer


def set_remote(project: Path, url: str, endpoint: str | None, name: str) -> Remote:
    """Write a remote to ``.dvc/config`` and make it the default; an earlier one of that name is replaced.

    Downloads are verified (``verify = true``): without it DVC takes whatever bytes a store gives.

    Args:
        url: a folder, or ``s3://bucket`` with an optional prefix.
        endpoint: address of an S3 server other than Amazon's.

    Raises:
        UserError: an address that cannot be used or holds credentials; a folder that cannot be made.
    """
    if not _REMOTE_NAME.fullmatch(name):
        raise UserError(f"--name {name}: letters, digits, - and _ only")
    options = {"verify": "true"}
    if url.startswith("s3:"):
        if not _BUCKET.fullmatch(url):
            raise UserError(
                f"{plain_address(url)}: not an S3 address; it needs to be s3://bucket or s3://bucket/prefix"
            )
        options |= _S3_OPTIONS
        if endpoint is not None:
            options["endpointurl"] = _checked_endpoint(endpoint)
    elif _NO_FOLDER.match(url):
        raise UserError(f"{plain_address(url)}: must be a folder or s3://bucket/prefix")
    elif endpoint is not None:
        raise UserError(f"--endpoint {plain_address(endpoint)}: only an s3:// remote has one")
    else:
        url = _made_folder(Path(url))
    run_dvc(project, name, "remote", "add", "--quiet", "--force", name, url)
    for option, value in options.items():
        run_dvc(project, name, "remote", "modify", "--quiet", name, option, value)
    run_dvc(project, name, "remote", "default", "--quiet", name)
    return Remote(name, url, options)


def default_remote(project: Path) -> Remote:
    """The remote that ``dvc push`` would use.

    Raises:
        UserError: none is set up.
    """
    settings: dict[str, str] = {}
    for line in run_dvc(project, ".dvc/config", "config", "--list").splitlines():
        key, _, value = line.partition("=")
        settings[key] = value
    name = settings.get("core.remote", "")
    url = settings.get(f"remote.{name}.url", "")
    if not url:
        raise UserError("no remote is set up; run `stlm data remote URL` with a folder or s3://bucket/prefix")
    if "://" not in url:
        url = str((project / ".dvc" / url).resolve())
    prefix = f"remote.{name}."
    options = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    return Remote(name, url, options)


def push(project: Path, remote: Remote, pointers: Sequence[Path], jobs: int | None = None) -> int:
    """Send what the remote lacks of the data behind ``pointers`` (none: of all that DVC tracks).

    Returns:
        How many files were sent; interrupted, a second call sends only the others.

    Raises:
        UserError: the remote refuses or cannot be reached; data missing in the local cache.
    """
    return _transfer(project, remote, "push", pointers, jobs)


def pull(project: Path, remote: Remote, pointers: Sequence[Path], jobs: int | None = None) -> int:
    """Fetch what the local cache lacks, check its hashes and put it into the workspace; see :func:`push`.

    Raises:
        UserError: also for files that are missing or damaged on the remote (the rest stays in the cache, and the
            workspace as it is), and when the workspace holds changes that would be lost.
    """
    fetched = _transfer(project, remote, "fetch", pointers, jobs)
    # DVC's own pull would go on to empty the folder of a version that cannot be had, and its fetch may end with 0.
    if absent := _absent(project, pointers, "fetch"):
        others = "" if pointers else "; nothing here was changed, other lines can be pulled with --line"
        raise UserError(f"{remote}: {absent}{others}")
    run_dvc(project, str(remote), "checkout", "--", *(_name(project, each) for each in pointers))
    return fetched


def state(project: Path, pointer: Path, remote: Remote | None) -> State:
    """Compare the workspace, the cache and ``remote`` (None: not asked); nothing is moved.

    Raises:
        UserError: the remote refuses or cannot be reached.
    """
    target = _name(project, pointer)
    changed = json.loads(run_dvc(project, target, "status", "--json", "--", target))
    workspace: Literal["clean", "changed", "missing"] = "changed" if changed else "clean"
    if not pointer.with_suffix("").exists():
        workspace = "missing"
    if remote is None:
        return State(workspace)
    probe(remote)
    cache = _cache(project)
    listing = _listing(cache, pointer)
    if listing is None:
        return State(workspace, 0, int(_out(pointer).get("nfiles", 1)))
    compared = json.loads(
        run_dvc(project, str(remote), "status", "--cloud", "--remote", remote.name, "--json", "--", target)
    )
    return State(workspace, sum(kind == "new" for kind in compared.values()), len(_missing_in(cache, listing)))


def _transfer(
    project: Path, remote: Remote, action: Literal["push", "fetch"], pointers: Sequence[Path], jobs: int | None
) -> int:
    probe(remote)
    arguments = [action, "--remote", remote.name, *(["--jobs", str(jobs)] if jobs is not None else []), "--"]
    report: list[str] = []
    try:
        output = run_dvc(project, str(remote), *arguments, *(_name(project, each) for each in pointers), report=report)
    except UserError:
        raise
    except StlmError:
        if action == "push":
            raise
        lost = not_transferred(report)
        absent = f"missing there, by md5: {', '.join(lost[:3])} ({len(lost)} in all); {_REPAIR}" if lost else None
        if (absent := absent or _absent(project, pointers, action)) is None:
            raise
        raise UserError(f"{remote}: {absent}") from None
    if action == "push" and cache_is_incomplete(report) and (absent := _absent(project, pointers, action)):
        raise UserError(f"{remote}: {absent}")
    match = _MOVED.search(output)
    return int(match[1]) if match else 0


def _absent(project: Path, pointers: Sequence[Path], action: Literal["push", "fetch"]) -> str | None:
    """What the cache lacks of the first of the pointers (none: of those under ``data``) of which it lacks anything."""
    cache, advice = _cache(project), _RECOVER if action == "push" else _REPAIR
    for pointer in pointers or sorted((project / "data").rglob("*.dvc")):
        listing, name = _listing(cache, pointer), _name(project, pointer).removesuffix(".dvc")
        if listing is None and action == "push" and pointer.with_suffix("").exists():
            return f"{name}: the list of its {_out(pointer).get('nfiles', 1)} files is missing; {advice}"
        if listing is None:
            return f"{name}: this version is neither there nor here; push it from the machine that has it"
        if missing := _missing_in(cache, listing):
            count = f"{len(missing)} of {len(listing)} files"
            return f"{name}: {count} are missing or damaged (the first: {missing[0]}); {advice}"
    return None


def _missing_in(cache: Path, listing: dict[str, str]) -> list[str]:
    return [path for path, md5 in sorted(listing.items()) if not (cache / md5[:2] / md5[2:]).is_file()]


def _listing(cache: Path, pointer: Path) -> dict[str, str] | None:
    """Path within the tracked folder -> md5, of what ``pointer`` names; None when the cache lacks the list itself."""
    out = _out(pointer)
    md5 = str(out["md5"])
    if not md5.endswith(".dir"):
        return {str(out["path"]): md5}
    try:
        entries = json.loads((cache / md5[:2] / md5[2:]).read_text(encoding="utf-8"))
        return {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _out(pointer: Path) -> dict[str, Any]:
    """The one entry of a ``.dvc`` file, with ``md5`` and ``path``."""
    try:
        out = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]
        return {**out, "md5": out["md5"], "path": out["path"]}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        raise UserError(f"{pointer}: not a DVC file; get it back from git") from None


def _cache(project: Path) -> Path:
    return Path(run_dvc(project, ".dvc/config", "cache", "dir").strip()) / "files" / "md5"


def _name(project: Path, pointer: Path) -> str:
    return pointer.resolve().relative_to(project).as_posix()


def _made_folder(folder: Path) -> str:
    """Absolute path of a remote in a folder, which is made when its parent is there."""
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}; mount it or make it") from None
    return str(folder)


def _checked_endpoint(endpoint: str) -> str:
    if "@" in endpoint:  # anywhere, because a secret may hold a slash
        raise UserError("--endpoint: holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"--endpoint {plain_address(endpoint)}: must be http://host:port or https://host:port")
    return endpoint
