"""DVC's experiments, metrics and plots on the real dvc.yaml and a small line that is really trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm_process import run_warm

from stlm_core.config import SECTIONS

pytestmark = pytest.mark.slow
Dvc = Callable[..., str]


@pytest.fixture
def dvc(small_project: Path, weights_dir: Path, repository: Path) -> Dvc:
    """Runs DVC in a git clone with the small line, whose evaluation is reproduced and committed."""
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(repository / name, small_project / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "stlm_core", small_project / "stlm_core", ignore=ignored)
    params = small_project / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    for layer in (tree["defaults"], tree["profiles"]["fast"]):
        layer |= {section: layer.get(section, {}) for section in SECTIONS}
    params.write_text(yaml.safe_dump(tree))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "STLM_WEIGHTS": str(weights_dir.resolve()),
        "DVC_NO_ANALYTICS": "true",
        "DVC_SITE_CACHE_DIR": str(small_project.parent / "site"),
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=small_project, env=environment, check=True)

    def run_dvc(*arguments: str) -> str:
        done = run_warm("dvc", *arguments, cwd=small_project, env=environment)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    git("init", "--quiet")
    run_dvc("init", "--quiet")
    run_dvc("repro", "evaluate@small")
    git("add", ".")
    git("commit", "--quiet", "--message", "baseline")
    return run_dvc


def test_an_experiment_is_run_compared_and_plotted(dvc: Dvc, small_project: Path) -> None:
    evaluation = "outputs/small/evaluate"
    metrics = f"{evaluation}/metrics.json"
    assert json.loads(dvc("metrics", "diff", "--json")) == {}

    setting = "lines.small.evaluate.false_reject_budget"
    said = dvc("exp", "run", "--set-param", f"+{setting}=0.3", "evaluate@small")  # +: a key that the file lacks
    assert "Running stage 'evaluate@small'" in said
    assert "Running stage 'train-fa@small'" not in said
    assert json.loads((small_project / metrics).read_text())["false_reject_budget"] == 0.3

    changed: dict[str, Any] = json.loads(dvc("metrics", "diff", "--json"))
    assert changed[metrics]["false_reject_budget"] == {"old": 0.05, "new": 0.3, "diff": 0.25}
    assert json.loads(dvc("params", "diff", "--json"))["params.yaml"][setting]["new"] == 0.3
    assert "0.3" in dvc("exp", "show", "--csv")

    plots = json.loads(dvc("plots", "diff", "HEAD", "--json"))["data"]
    titles = {"roc": "Images, ROC of small", "pixel_roc": "Pixels, ROC of small", "pro": "Defects, PRO of small"}
    assert {name: _title(plots[f"{evaluation}/curves/{name}.csv"]) for name in titles} == titles
    for drawn in plots.values():
        values = drawn[0]["content"]["data"]["values"]
        assert {point["rev"] for point in values} == {"HEAD", "workspace"}
        axes = [drawn[0]["content"]["encoding"][axis]["title"] for axis in "xy"]
        assert all("(share)" in axis or "share of" in axis for axis in axes)

    dvc("plots", "show", "--out", "plots")
    assert "Images, ROC of small" in (small_project / "plots" / "index.html").read_text()


def _title(drawn: list[dict[str, Any]]) -> str:
    return drawn[0]["content"]["title"]["text"]
