"""The loop on a small task: selection, curve, and exact continuation after a kill."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from stlm_core.errors import StlmError
from stlm_core.seeding import derive_seed
from stlm_core.training.checkpoint import CHECKPOINT, drop_checkpoint, load_checkpoint, save_checkpoint
from stlm_core.training.loop import CURVE, run_loop
from stlm_core.training_settings import TrainingConfig

CPU = torch.device("cpu")


class Regression:
    """A linear layer with batch normalisation and dropout: weights, buffers and the random state all matter."""

    def __init__(self, slow: float = 0.0) -> None:
        torch.manual_seed(1)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )
        self.optimiser = torch.optim.AdamW([{"params": self.module.parameters(), "lr": 0.01, "peak_lr": 0.01}])
        self.validations = 0
        self.slow = slow

    def train_mode(self) -> None:
        self.module.train()

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        if self.slow:
            import time

            time.sleep(self.slow)
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(derive_seed("x", step)))
        return {"total": (self.module(x) - x.sum(1, keepdim=True)).square().mean()}

    def validate(self) -> dict[str, float]:
        self.module.eval()
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            error = float((self.module(x) - x.sum(1, keepdim=True)).square().mean())
        self.validations += 1
        return {"selection": -error}


def settings(**changes) -> TrainingConfig:
    values = {"steps": 60, "validate_every": 20, "checkpoint_every": 7, "autocast": "off"}
    return TrainingConfig(**{**values, **changes})


def test_the_best_weights_are_kept_and_the_curve_written(tmp_path):
    task = Regression()
    outcome = run_loop(task, "toy", settings(), tmp_path, CPU)
    assert task.validations == 3
    assert outcome.best == task.validate()  # the module holds the weights of the best step
    rows = list(csv.DictReader((tmp_path / CURVE).open()))
    assert [int(float(row["step"])) for row in rows] == list(range(4, 61, 4))
    assert float(rows[-1]["train_total"]) < float(rows[0]["train_total"])
    assert [row["step"] for row in rows if row["validation_selection"]] == ["20", "40", "60"]


def test_a_run_killed_after_its_last_step_has_nothing_to_train_again(tmp_path):
    done = Regression()
    outcome = run_loop(done, "toy", settings(), tmp_path, CPU)  # and the process dies before it has saved the weights
    again = Regression()
    again.losses = lambda step: pytest.fail("a step was trained again")
    assert run_loop(again, "toy", settings(), tmp_path, CPU) == outcome
    for key, value in done.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[key]), key
    drop_checkpoint(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [CURVE]


def test_a_worse_end_does_not_replace_the_best_step(tmp_path):
    class Worsening(Regression):
        def validate(self) -> dict[str, float]:
            self.validations += 1
            return {"selection": -float(self.validations)}

    assert run_loop(Worsening(), "toy", settings(), tmp_path, CPU).best_step == 20


def test_the_later_of_two_nearly_equal_states_is_kept(tmp_path):
    class Level(Regression):
        def validate(self) -> dict[str, float]:
            self.validations += 1
            return {"selection": [0.90, 0.91, 0.895][self.validations - 1]}

    assert run_loop(Level(), "toy", settings(), tmp_path, CPU).best_step == 60


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    class Exploding(Regression):
        def losses(self, step: int) -> dict[str, torch.Tensor]:
            return {"total": super().losses(step)["total"] * (float("nan") if step == 5 else 1.0)}

    with pytest.raises(StlmError, match="no longer finite at step 5"):
        run_loop(Exploding(), "toy", settings(), tmp_path, CPU)


_KILLED = """
    import sys, torch
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_loop import CPU, Regression, settings
    from stlm_core.training.loop import run_loop
    print("started", flush=True)
    run_loop(Regression(slow=0.02), "toy", settings(steps=200), Path(sys.argv[1]), CPU)
"""


def test_a_run_killed_at_any_step_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed = Regression()
    (tmp_path / "whole").mkdir()
    run_loop(undisturbed, "toy", settings(steps=200), tmp_path / "whole", CPU)
    killed = tmp_path / "killed"
    killed.mkdir()
    script = textwrap.dedent(_KILLED.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen([sys.executable, "-c", script, str(killed)], stdout=subprocess.PIPE)
    while not (killed / CHECKPOINT).exists():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    reached = torch.load(killed / CHECKPOINT, weights_only=True)["state"]["step"]
    assert 0 < reached < 200
    resumed = Regression()
    run_loop(resumed, "toy", settings(steps=200), killed, CPU)
    for key, value in undisturbed.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[key]), key
    assert (killed / CURVE).read_bytes() == (tmp_path / "whole" / CURVE).read_bytes()


def test_a_damaged_checkpoint_starts_over(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    assert load_checkpoint(tmp_path) is None


def test_a_checkpoint_that_does_not_fit_on_the_disk_keeps_the_last_one(tmp_path):
    save_checkpoint(tmp_path, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the system then refuses larger files
    try:
        with pytest.raises(StlmError, match="the previous one is kept"):
            save_checkpoint(tmp_path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(tmp_path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]
