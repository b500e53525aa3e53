"""Commands in processes of their own that need not import PyTorch, pandas and DVC first.

A server process imports them once and is forked for every command. The command sees its own folder, environment and
standard streams, and ends as it would when a user had typed it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

IMPORTED = (
    "stlm_core.cli.main",
    "torch",
    "pandas",
    "scipy.ndimage",
    "cv2",
    "onnxruntime",
    "great_expectations",
    "dvc.cli",
    "dvc.repo",
    "dvc.commands.repro",
    "scmrepo.git",
    "networkx",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",  # every optimiser takes it
    "onnxscript",
    "stlm_core.steps.pipeline",
    "stlm_core.steps.register",
    "stlm_core.steps.evaluate",
    "stlm_core.steps.export",
)
# Read when a package is imported, so they hold for every command.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "true",
}
STLM = (sys.executable, "-c", "from stlm_core.cli import main; main()")
"""Starts a command in a process of its own from nothing, for tests that kill it or need its pipes."""
_context = multiprocessing.get_context("forkserver")


def run_warm(
    program: str, *arguments: str, cwd: Path, env: Mapping[str, str], timeout: float = 500
) -> subprocess.CompletedProcess[str]:
    """Run ``stlm`` or ``dvc`` with ``arguments``; what it returned and printed.

    Raises:
        subprocess.TimeoutExpired: it was killed after ``timeout`` seconds.
    """
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        process = _context.Process(target=_command, args=(program, arguments, str(cwd), dict(env), *map(str, said)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([program, *arguments], timeout)
        texts = [path.read_text() if path.exists() else "" for path in said]
        return subprocess.CompletedProcess([program, *arguments], process.exitcode, *texts)


def _start_server() -> None:
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        _context.set_forkserver_preload([*IMPORTED])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _command(
    program: str, arguments: Sequence[str], folder: str, environment: dict[str, str], out: str, err: str
) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    code = 1
    try:
        code = _main(program, arguments)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(program: str, arguments: Sequence[str]) -> int:
    try:
        if program == "dvc":
            from dvc.cli import main as dvc

            return int(dvc(list(arguments)))
        from stlm_core.cli import main as stlm

        stlm()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
