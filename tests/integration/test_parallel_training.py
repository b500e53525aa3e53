"""Two processes train what one trains, whatever becomes of them on the way.

With plain SGD the weights of one and two processes differ by rounding, as those of one and two threads do. Adam's first
steps have the size of the learning rate however small the gradient, so there rounding decides the direction of some
steps: on the line of this test its weights differ by up to 1e-3 (relative, L2) between one and two threads too.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from warm_process import STLM

from stlm_core.config import SECTIONS, LineConfig, load_line
from stlm_core.errors import UserError
from stlm_core.files import read_json_object
from stlm_core.steps.pipeline import run_one
from stlm_core.steps.weights import fetch_weights
from stlm_core.steps.workspace import Workspace
from stlm_core.training.checkpoint import CHECKPOINT

pytestmark = pytest.mark.slow
SGD = {"name": "sgd", "lr": 0.01}
TRAINING = {"batch_size": 2, "steps": 8, "validate_every": 4, "checkpoint_every": 2, "autocast": "off"}
DEFAULTS = {
    "image": {"size": 128},
    "validate": {"min_train_images": 10},
    "synthesize": {"variants": 2},
    "teacher": {"input_size": 32, "shard_views": 16},
    "distill": TRAINING,
    "fa": TRAINING,
}
LINES: dict[str, dict[str, dict[str, object]]] = {
    "adam": {},
    "sgd": {"distill": {"optimiser": SGD}, "fa": {"optimiser": SGD, "stream_lr": 0.01}},
    "staged": {"fa": {"optimiser": SGD, "joint_finetune": False}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, small_images: Path, weights_dir: Path) -> Path:
    """A project whose lines share their images, bank and teacher features, and the streams of line ``adam``."""
    try:
        fetch_weights("lite_medsam", weights_dir)
    except UserError as error:
        pytest.skip(f"the default teacher's weights cannot be had: {error}")
    root = tmp_path_factory.mktemp("parallel")
    (root / "images").symlink_to(small_images)
    line = {section: {} for section in SECTIONS} | {"profile": "fast", "data": {"path": "images", "license": "CC0-1.0"}}
    lines = {name: line | changes for name, changes in LINES.items()}
    (root / "params.yaml").write_text(yaml.safe_dump({"defaults": DEFAULTS, "profiles": {"fast": {}}, "lines": lines}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STLM_WEIGHTS", str(weights_dir.resolve()))
        for step in ("validate", "synthesize", "cache-teacher", "distill"):
            run_one(step, *opened(root, "adam"))
        yield root


def opened(root: Path, line: str, **folders: str) -> tuple[LineConfig, Workspace]:
    """The line, with the data of line ``adam`` and ``folders`` below the project."""
    data = {step: root / "outputs" / "adam" / step for step in ("synthesize", "cache-teacher", "distill")}
    overrides = data | {step.replace("_", "-"): root / folder for step, folder in folders.items()}
    return load_line(root / "params.yaml", line), Workspace(root / "outputs", line, overrides)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "curve.csv").open(newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def assert_same_training(ours: Path, theirs: Path, curve: float, weights: float, ranks: float = 1e-3) -> None:
    """Losses agree to ``curve`` (relative), weights to ``weights`` (relative, L2), and the same step was selected.

    Validation figures are ranks of scores, which jump when rounding swaps two of them: they agree to ``ranks``.
    """
    apart = 0.0
    for our, their in zip(rows(ours), rows(theirs), strict=True):
        for name in their:
            far = ranks if name.startswith("validation_") else 1e-3
            assert our[name] == pytest.approx(their[name], rel=curve, abs=far), name
        for name in their:
            if name.startswith("train_"):
                apart = max(apart, abs(our[name] / their[name] - 1))
    chosen = [read_json_object(folder / "selection.json", "") for folder in (ours, theirs)]
    assert chosen[0]["best_step"] == chosen[1]["best_step"]
    ours_state, theirs_state = (load_file(next(folder.glob("*.safetensors"))) for folder in (ours, theirs))
    assert ours_state.keys() == theirs_state.keys()
    floating = [name for name, value in ours_state.items() if value.is_floating_point()]
    assert all(torch.equal(ours_state[name], theirs_state[name]) for name in ours_state.keys() - set(floating))
    first, second = (
        torch.cat([state[name].double().flatten() for name in floating]) for state in (ours_state, theirs_state)
    )
    difference = float((first - second).norm() / second.norm())
    print(f"{ours.name}: losses differ by up to {apart:.1e}, weights by {difference:.1e}")
    assert apart < curve
    assert difference < weights


@pytest.mark.parametrize(
    ("step", "line", "curve", "weights"),
    [
        ("distill", "sgd", 1e-5, 1e-6),
        ("train-fa", "sgd", 1e-5, 1e-6),
        ("train-fa", "staged", 1e-5, 1e-6),
    ],
)
def test_two_processes_train_what_one_trains(project: Path, step: str, line: str, curve: float, weights: float) -> None:
    folders = {}
    for processes in (1, 2):
        folders[processes] = project / f"{step}-{line}-{processes}"
        key = step.replace("-", "_")
        config, workspace = opened(project, line, **{key: folders[processes].name})
        run_one(step, config, workspace, processes=processes)
    assert_same_training(folders[2], folders[1], curve, weights)


def test_a_training_that_is_stopped_and_loses_a_worker_continues_with_any_number(project: Path) -> None:
    partial, folder = project / ".stopped.partial", project / "stopped"

    with started(project) as stopped:
        workers = wait_for_workers(stopped, partial, after=0)
        stopped.terminate()
        assert stopped.wait(timeout=30) == 128 + signal.SIGTERM
        assert_gone(workers)

    with started(project) as killed:
        workers = wait_for_workers(killed, partial, after=(partial / CHECKPOINT).stat().st_mtime)
        os.kill(workers[1], signal.SIGKILL)
        _, errors = killed.communicate(timeout=30)
        assert killed.returncode == 1
        assert "error: distill adam: process 2 of 2 was killed by SIGKILL" in errors  # after lines of progress, if slow
        assert "run the same command again to continue from the last checkpoint" in errors
        assert_gone(workers)
    assert not folder.exists()
    so_far = torch.load(partial / CHECKPOINT, weights_only=True)["state"]["curve"]

    run_one("distill", *opened(project, "adam", distill="stopped"), processes=1)
    continued = rows(folder)
    assert len(so_far) >= 4
    assert json.dumps(continued[: len(so_far)]) == json.dumps(
        [{name: float(f"{value:.8g}") for name, value in row.items()} for row in so_far]
    )
    one_pair = 1 / 8 + 1e-3  # of the good and the anomalous validation images: Adam's rounding may swap it
    assert_same_training(folder, project / "outputs" / "adam" / "distill", curve=1e-3, weights=1e-3, ranks=one_pair)


def started(project: Path) -> subprocess.Popen[str]:
    """``stlm distill`` of line ``adam`` into ``stopped``, by two processes."""
    inputs = [f"--input={step}={project / 'outputs' / 'adam' / step}" for step in ("synthesize", "cache-teacher")]
    command = ["distill", "--line", "adam", "--processes", "2", *inputs, "--input", "distill=stopped"]
    return subprocess.Popen([*STLM, *command], cwd=project, stderr=subprocess.PIPE, text=True)


def wait_for_workers(process: subprocess.Popen[str], partial: Path, after: float) -> list[int]:
    """The workers' process ids, by rank, when there is a checkpoint newer than ``after``."""
    deadline = time.monotonic() + 120
    while not (partial / CHECKPOINT).exists() or (partial / CHECKPOINT).stat().st_mtime <= after:
        assert process.poll() is None, "training ended before its checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    return workers


def assert_gone(workers: list[int]) -> None:
    """No worker runs any more; one that nobody has waited for yet counts as gone."""
    for worker in workers:
        status = Path(f"/proc/{worker}/status")
        assert not status.exists() or "State:\tZ" in status.read_text()
