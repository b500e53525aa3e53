"""Workers really started: what they compute together, and how their failures arrive."""

from __future__ import annotations

import errno
import logging
import signal
import time
from pathlib import Path

import pytest
import torch
from parallel_workers import fail, normalise_alone_and_in_reduced_precision, one_step

from stlm_core.config import LineConfig, load_line
from stlm_core.errors import StlmError, UserError
from stlm_core.steps.parallel_training import count_processes, run_training
from stlm_core.steps.workspace import Workspace
from stlm_core.training.distributed import ALONE

WORKSPACE = Workspace(Path(), "sample")


@pytest.fixture
def line(repository: Path) -> LineConfig:
    return load_line(repository / "params.yaml", "sample")


def test_two_processes_compute_what_one_does_on_the_whole_batch(line: LineConfig, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    work = normalise_alone_and_in_reduced_precision
    assert run_training(work, "distill", line, WORKSPACE, tmp_path, 2) == "rank 0 of sample"
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, expected in one_step(ALONE).items():
        if name in ("input gradient", "in eval mode"):  # these are a rank's own
            torch.testing.assert_close(torch.cat([first[name], second[name]]), expected, rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(first[name], second[name]), name
    for found in (first, second):
        assert found["told"] == {"by": 0}
        assert found["dtypes"] == ["torch.bfloat16", "torch.bfloat16", "torch.float32"]
        assert found["error"].startswith("the step differs between the processes: [0, 1]")
    assert signal.getsignal(signal.SIGTERM) is before
    assert logging.getLogger("torch.distributed.elastic").propagate


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("mistake", UserError, "images: there are none"),
        ("disk", OSError, "No space left on device"),
        ("bug", StlmError, "process 2 of 2 ended with exit code 1, .*ZeroDivisionError: of the test"),
        ("kill", StlmError, "process 2 of 2 was killed by SIGKILL .*; its last lines:\na last word$"),
    ],
)
def test_the_failure_of_one_ends_all_and_is_told_once(
    line: LineConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str], how: str, kind: type[Exception], message: str
) -> None:
    folder = tmp_path / how
    folder.mkdir()
    began = time.monotonic()
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        run_training(fail, "distill", line, WORKSPACE, folder, 2)
    assert type(caught.value) is kind
    assert time.monotonic() - began < 30  # rank 0 is ended at once, not when it gives up waiting
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC
    assert capfd.readouterr().err == ""


def test_a_batch_is_divided_evenly_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert count_processes(0, "distill", 3) == 1
    assert count_processes(2, "distill", 8) == 2
    with pytest.raises(UserError, match=r"^distill\.batch_size: 3 images cannot be divided evenly among 2 processes"):
        count_processes(2, "distill", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count_processes(0, "fa", 8) == 4
    assert count_processes(1, "fa", 8) == 1
    with pytest.raises(UserError, match=r"^--processes 8: there are 4 GPUs"):
        count_processes(8, "fa", 8)
