"""Training by several processes of this machine, one GPU each, under torch's own elastic launcher (as `torchrun`).

The step's process keeps the lock, the temporary folder and the manifest, and trains nothing itself. Whatever ends it
ends its workers: a signal that it can handle through the launcher, any other through the kernel, which the launcher
has told to interrupt a worker when its parent is gone.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.steps.workspace import Workspace
from stlm_core.training.distributed import ALONE, LostRank, Ranks, joined_ranks

# Trains in a folder and returns the step's summary; a function of a module, since workers import it by name.
Train = Callable[[LineConfig, Workspace, Path, Ranks], str]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LAST_LINES, _LINE_LENGTH = 20, 160
# A worker that lost another waits to be ended: the launcher blames whoever ends first, which should be the cause.
_GRACE = 60.0  # seconds


@dataclass(frozen=True)
class _Job:
    train: Train
    config: LineConfig
    workspace: Workspace
    folder: Path
    errors: Path  # folder for one file a failed worker


def count_processes(asked: int, section: str, batch_size: int) -> int:
    """How many processes train: ``asked``, or for 0 one a GPU; ``section`` holds the setting ``batch_size``.

    Raises:
        UserError: more processes than GPUs, or a batch that cannot be divided evenly among them.
    """
    gpus = torch.cuda.device_count()
    count = asked or max(1, gpus)
    if gpus and count > gpus:
        raise UserError(f"--processes {asked}: there are {gpus} GPUs, and a process needs one of its own")
    if batch_size % count:
        raise UserError(
            f"{section}.batch_size: {batch_size} images cannot be divided evenly among {count} processes; "
            f"set a multiple of {count}, or another number with --processes"
        )
    return count


def run_training(
    train: Train, step: str, config: LineConfig, workspace: Workspace, folder: Path, processes: int
) -> str:
    """``train`` in ``folder``, in this process or in ``processes`` of its own; the summary line of rank 0.

    Standard error of rank 0 is this process's; the others' is shown only when one fails.

    Raises:
        StlmError: a worker died; the others have been ended. What a worker raised is raised here.
    """
    if processes == 1:
        return train(config, workspace, folder, ALONE)
    with (
        _handlers_restored() as handled,
        _quiet_launcher(),
        tempfile.TemporaryDirectory(prefix=f"stlm-{step}-") as name,
    ):
        launch = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            local_addr="localhost",
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(name, redirects=dict.fromkeys(range(1, processes), Std.ALL)),
            signals_to_handle=",".join(handled),
            shutdown_timeout=5,
        )
        try:
            made: dict[int, str] = elastic_launch(launch, _work)(_Job(train, config, workspace, folder, Path(name)))
        except ChildFailedError as failed:
            raise _explained(*failed.get_first_failure(), processes, step, config.name, Path(name)) from None
    return made[0]


def _work(job: _Job) -> str:
    """What a worker does. Every failure but a signal ends as a file in ``job.errors``, or as lines in its log."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, also inside a collective: the parent has the last word
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        try:
            with joined_ranks() as ranks:
                return job.train(job.config, job.workspace, job.folder, ranks)
        except LostRank:
            time.sleep(_GRACE)
            raise
    except (StlmError, OSError) as error:
        (job.errors / f"{rank}.error").write_bytes(pickle.dumps(error))
    except Exception:
        traceback.print_exc()
    raise SystemExit(1)


def _explained(rank: int, failure: ProcessFailure, processes: int, step: str, line: str, logs: Path) -> Exception:
    """The error to raise for a worker that failed: its own, or that it died and its last lines."""
    try:
        error: Exception = pickle.loads((logs / f"{rank}.error").read_bytes())
        return error
    except FileNotFoundError:
        pass
    how = f"ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was killed by {signal.Signals(-failure.exitcode).name}"
    if failure.exitcode == -signal.SIGKILL:
        how += " (the system does that when memory runs out)"
    if rank == 0:
        last = "what it printed is above"
    else:
        text = "".join(file.read_text(errors="replace") for file in logs.glob(f"*/*/{rank}/stderr.log"))
        lines = [entry[:_LINE_LENGTH] for entry in text.rstrip().splitlines()[-_LAST_LINES:]]
        last = "\n".join(["its last lines:", *lines]) if lines else "it had printed nothing"
    return StlmError(
        f"{step} {line}: process {rank + 1} of {processes} {how}, and the others were ended; run the same command "
        f"again to continue from the last checkpoint; {last}"
    )


@contextmanager
def _handlers_restored() -> Iterator[list[str]]:
    """Undo what the launcher does to this process's signals, and let one that it caught do here what it does without.

    Where that is the system's default, the process ends with the exit code that shells give for it, but in Python's
    way: what the launcher allocated is freed. Gives the names of the signals that it may handle: not those that are
    ignored, under `nohup` for example.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = None
    try:
        yield [number.name for number, handler in before.items() if handler != signal.SIG_IGN]
    except SignalException as stopped:
        caught = stopped.sigval
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
    if caught is not None:
        if before[caught] != signal.SIG_DFL:
            signal.raise_signal(caught)
        raise SystemExit(128 + caught)


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Keep the launcher's own account of a failure off the terminal; :func:`_explained` has it in one sentence."""
    loggers = [logging.getLogger(name) for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn")]
    before = [logger.propagate for logger in loggers]
    handler = logging.NullHandler()
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
