"""The contract every step keeps: whole or absent, fingerprinted, repeatable, resumable."""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stlm_core
from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.files import exclusive_lock, read_json_object, sha256_bytes, sha256_file, sha256_tree, write_json_atomic

MANIFEST = "manifest.json"
_FINGERPRINT = ".fingerprint"
_SOURCE_SUFFIXES = {".py", ".j2"}
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


@dataclass(frozen=True)
class StepResult:
    """What a step made. ``summary`` is one line for the terminal; ``reused`` means nothing had to be done."""

    folder: Path
    summary: str
    reused: bool


@functools.cache
def code_version() -> str:
    """Package version and a digest of its source, for example ``0.1.0+3f2a9c41d0b7``."""
    package = Path(stlm_core.__file__).parent
    sources = sorted(file for file in package.rglob("*") if file.suffix in _SOURCE_SUFFIXES)
    listed = "".join(f"{file.relative_to(package).as_posix()} {sha256_file(file)}\n" for file in sources)
    digest = sha256_bytes(listed.encode())
    return f"{stlm_core.__version__}+{digest[:12]}"


def run_step(
    step: str,
    config: LineConfig,
    sections: tuple[str, ...],
    inputs: Mapping[str, Path | str],
    folder: Path,
    work: Callable[[Path], str],
    *,
    resumable: bool = False,
    force: bool = False,
    still_good: Callable[[Path], bool] | None = None,
) -> StepResult:
    """Run ``work`` in a temporary sibling of ``folder`` and rename it when whole.

    ``inputs``: files and folders, for one whose files were hashed already (a large line's images) that digest, and
    what else tells two runs apart (which shard it is) as text.

    ``work`` gets the temporary folder and returns the summary line. Its outputs are described in
    ``manifest.json``: sha256 of inputs and outputs, hash of the config ``sections``, code version, seconds,
    peak memory in MiB (of the largest process, where it starts others). When ``folder`` already holds outputs of
    exactly the same inputs, config and code, unchanged since, nothing runs unless ``force``; where comparing all bytes
    would take too long, ``still_good`` tells whether they are unchanged. A killed step leaves ``folder`` as it was;
    with ``resumable`` its temporary folder is handed to the next run if inputs, config and code are unchanged, else it
    is cleared; one that is whole and only could not be renamed is renamed. With ``force`` only a run that was forced,
    too, is continued: the same command again.

    Raises:
        UserError: an input is missing, the disk is full, ``folder`` cannot be written, or another run of this step
            holds it.
    """
    fingerprint = {
        "step": step,
        "line": config.name,
        "config": config.section_hash(*sections),
        "code": code_version(),
        "inputs": {name: given if isinstance(given, str) else sha256_tree(given) for name, given in inputs.items()},
    }
    partial = folder.parent / f".{folder.name}.partial"
    busy = f"{folder.parent}: another `stlm {step}` is writing here; wait for it to end"
    with _writing(step, folder, partial):
        if (summary := _reusable(folder, fingerprint, still_good, force)) is not None:
            return StepResult(folder, summary, reused=True)
        with exclusive_lock(folder.parent / f".{folder.name}.lock", busy):
            _end_replacement(partial, folder)
            # Again: another run may have ended since, or the line above have ended one.
            if (summary := _reusable(folder, fingerprint, still_good, force)) is not None:
                return StepResult(folder, summary, reused=True)
            began = time.monotonic()
            _prepare(partial, fingerprint, resumable=resumable, forced=force)
            summary = _finished(partial, fingerprint, still_good)
            if summary is None:
                summary = work(partial)
                _describe(partial, fingerprint, summary, time.monotonic() - began)
            _replace_folder(partial, folder)
    return StepResult(folder, summary, reused=False)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The ``manifest.json`` of a finished step.

    Raises:
        UserError: the step has not finished, or its manifest is not JSON.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: missing; the step that makes this folder has not finished")
    return read_json_object(path, "remove the folder and run the step again")


def peak_memory_mib(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident memory of this process so far, or of the largest of its ended ``RUSAGE_CHILDREN``; MiB."""
    peak = resource.getrusage(who).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


@contextmanager
def _writing(step: str, folder: Path, partial: Path) -> Iterator[None]:
    """Tell what keeps ``folder`` from being written; other errors of the operating system pass.

    Raises:
        UserError: the disk is full, or ``folder``, ``partial`` or a folder above them cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            what = _FULL[error.errno]
            raise UserError(f"{partial}: {what}; free some space and run `stlm {step}` again") from None
        if not isinstance(error.filename, str):
            raise
        path = Path(error.filename)
        if folder.is_relative_to(path) or any(
            path.is_relative_to(each) for each in (folder, _old(folder), _gone(folder), partial)
        ):
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        raise


def _describe(partial: Path, fingerprint: Mapping[str, Any], summary: str, seconds: float) -> None:
    """Write the ``manifest.json`` of finished outputs."""
    files = [file for file in sorted(partial.rglob("*")) if file.is_file() and file.name != _FINGERPRINT]
    write_json_atomic(
        partial / MANIFEST,
        {
            **fingerprint,
            "summary": summary,
            "seconds": round(seconds, 3),
            "peak_memory_mib": max(peak_memory_mib(), peak_memory_mib(resource.RUSAGE_CHILDREN)),
            "outputs": {
                file.relative_to(partial).as_posix(): {"sha256": sha256_file(file), "bytes": file.stat().st_size}
                for file in files
            },
        },
    )


def _reusable(
    folder: Path, fingerprint: Mapping[str, Any], still_good: Callable[[Path], bool] | None, force: bool
) -> str | None:
    """What to say where nothing has to be done, else None."""
    if force or (summary := _finished(folder, fingerprint, still_good)) is None:
        return None
    if (mark := folder / _FINGERPRINT).exists():  # of a run that was killed as it took it away
        mark.unlink(missing_ok=True)
    return f"{summary} (up to date)"


def _finished(folder: Path, fingerprint: Mapping[str, Any], still_good: Callable[[Path], bool] | None) -> str | None:
    """The summary of the outputs in ``folder``, if they are of this fingerprint and as they were made."""
    try:
        manifest = read_manifest(folder)
    except StlmError:
        return None
    if any(manifest.get(key) != value for key, value in fingerprint.items()):
        return None
    files = {folder / name: facts for name, facts in manifest.get("outputs", {}).items()}
    if not all(file.is_file() and file.stat().st_size == facts["bytes"] for file, facts in files.items()):
        return None
    if still_good is not None:
        unchanged = still_good(folder)
    else:
        unchanged = all(sha256_file(file) == facts["sha256"] for file, facts in files.items())
    return str(manifest["summary"]) if unchanged else None


def _prepare(partial: Path, fingerprint: Mapping[str, Any], *, resumable: bool, forced: bool) -> None:
    mark = partial / _FINGERPRINT
    texts = {given: json.dumps({**fingerprint, "forced": given}, sort_keys=True) for given in (True, False)}
    if partial.exists():
        continued = (texts[True],) if forced else tuple(texts.values())
        if resumable and mark.is_file() and mark.read_text() in continued:
            return
        shutil.rmtree(partial)
    partial.mkdir()
    mark.write_text(texts[forced])


def _replace_folder(partial: Path, folder: Path) -> None:
    if folder.exists():
        _discard(_old(folder), folder)
        os.rename(folder, _old(folder))
    os.rename(partial, folder)
    # Not before: until here the mark lets the next run go on with what could not be renamed.
    (folder / _FINGERPRINT).unlink(missing_ok=True)
    _discard(_old(folder), folder)


def _end_replacement(partial: Path, folder: Path) -> None:
    """Go on with a replacement that was cut off between its two renames; undo it where the new outputs are gone."""
    old = _old(folder)
    if folder.exists() or not old.exists():
        return
    if (partial / MANIFEST).exists():  # written last
        _replace_folder(partial, folder)
    else:
        os.rename(old, folder)


def _discard(old: Path, folder: Path) -> None:
    """Remove ``old`` under another name, so that nobody takes what is left of it for outputs."""
    gone = _gone(folder)
    if gone.exists():
        shutil.rmtree(gone)
    if old.exists():
        os.rename(old, gone)
        shutil.rmtree(gone)


def _old(folder: Path) -> Path:
    """Where the outputs of an earlier run are while new ones take their place."""
    return folder.parent / f".{folder.name}.old"


def _gone(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.gone"
