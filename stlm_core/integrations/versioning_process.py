"""DVC as a process: its output, its progress, and an end to it when the server is gone."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from stlm_core.integrations.versioning_failures import errors_of, failure, is_connection_failure
from stlm_core.progress import progress

# After so many files that met no server, the rest would each wait for it in turn.
_HOPELESS = 8
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PERCENT = re.compile(r"(\d+)%\|[^|]*\|(?:Pushing|Fetching)")


def run_dvc(project: Path, subject: str, *arguments: str, report: list[str] | None = None) -> str:
    """Run DVC in ``project``; its standard output. ``report`` collects its standard error, progress left out.

    Raises:
        StlmError: DVC failed, or reported an error and ended with 0.
    """
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    # s3fs repeats what is worth it; botocore's own pauses would be spent on every file that meets no server.
    environment.setdefault("AWS_MAX_ATTEMPTS", "1")
    said = [] if report is None else report
    moves = report is not None
    if moves:
        environment["DVC_IGNORE_ISATTY"] = "true"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dvc", *arguments],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
        try:
            _follow(process, said, arguments[0] if moves else None)
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
        output.seek(0)
        written = output.read().decode(errors="replace")
    if code or errors_of(said):
        raise failure(said, subject)
    return written


def _follow(process: subprocess.Popen[bytes], said: list[str], label: str | None) -> None:
    """Collect what DVC says, show its progress under ``label``, and end it when the server is gone."""
    assert process.stderr is not None
    if label is None:
        said.extend(process.stderr.read().decode(errors="replace").splitlines())
        return
    met_no_server = 0
    with progress(f"{label} %", 100) as shown:
        for line in io.TextIOWrapper(process.stderr, errors="replace", newline=None):
            plain = _ANSI.sub("", line).strip()
            if match := _PERCENT.search(plain):
                shown.advance(max(0, int(match[1]) - shown.done))
            elif plain and "|" not in plain.partition("ERROR: ")[0]:
                said.append(plain)
                met_no_server += "ERROR: " in plain and is_connection_failure(plain)
            if met_no_server == _HOPELESS:
                process.terminate()
