"""A complete small project: a small sample line, the real teacher at a small size, a few training steps."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from warm_process import STLM, run_warm

from stlm_core.config import SECTIONS
from stlm_core.data.sample_line import write_sample_line
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.steps.weights import fetch_weights

SMALL = {
    "image": {"size": 128},
    "validate": {"min_train_images": 10},
    "synthesize": {"variants": 2},
    "teacher": {"input_size": 32, "shard_views": 16},
    "distill": {"steps": 12, "batch_size": 2, "validate_every": 6, "checkpoint_every": 2},
    "fa": {"steps": 8, "batch_size": 2, "validate_every": 4, "checkpoint_every": 2},
    "export": {"parity_images": 5, "latency_runs": 3},
    "promote": {"min_image_auroc": 0.0},
}
Stlm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with open_tracking(root):
            return root / "mlflow.db"


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample line with 24 good training and 11 test images."""
    folder = tmp_path_factory.mktemp("small") / "images"
    write_sample_line(folder, seed=3, train_good=24, test_good=4, per_defect=1)
    return folder


@pytest.fixture
def small_project(tmp_path: Path, small_images: Path, weights_dir: Path) -> Path:
    """A project folder with ``params.yaml`` and one line ``small``; skipped where the teacher cannot be had."""
    _write_project(tmp_path, small_images, weights_dir)
    return tmp_path


@pytest.fixture(scope="session")
def small_outputs(tmp_path_factory: pytest.TempPathFactory, small_images: Path, weights_dir: Path) -> Path:
    """``outputs`` of a small project after the steps before the training."""
    folder = tmp_path_factory.mktemp("prepared")
    _write_project(folder, small_images, weights_dir)
    for step in ("validate", "synthesize", "cache-teacher"):
        done = run_warm("stlm", step, "--line", "small", cwd=folder, env=_environment(weights_dir))
        assert done.returncode == 0, done.stderr
    return folder / "outputs"


@pytest.fixture
def prepared(small_project: Path, small_outputs: Path) -> Path:
    """The small project with all steps before the training done."""
    shutil.copytree(small_outputs, small_project / "outputs")
    return small_project


def _write_project(folder: Path, images: Path, weights_dir: Path) -> None:
    try:
        fetch_weights("lite_medsam", weights_dir)
    except UserError as error:
        pytest.skip(f"the default teacher's weights cannot be had: {error}")
    shutil.copytree(images, folder / "images")
    line = {section: {} for section in SECTIONS} | {"profile": "fast", "data": {"path": "images", "license": "CC0-1.0"}}
    tree = {"defaults": SMALL, "profiles": {"fast": {}}, "lines": {"small": line}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture
def stlm(small_project: Path, weights_dir: Path) -> Stlm:
    """Runs ``stlm`` as a user would, in the project folder; one thread, so that numbers repeat exactly."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = run_warm("stlm", *arguments, cwd=small_project, env=_environment(weights_dir))
        if check and done.returncode:
            raise AssertionError(
                f"stlm {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    return run


@pytest.fixture
def spawn_stlm(small_project: Path, weights_dir: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts ``stlm`` in a process group of its own, to be killed by the test."""

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*STLM, *arguments],
            cwd=small_project,
            env=_environment(weights_dir),
            start_new_session=True,
        )

    return start


def _environment(weights_dir: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return kept | {"STLM_WEIGHTS": str(weights_dir.resolve()), "OMP_NUM_THREADS": "1"}
