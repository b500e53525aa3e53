"""The whole pipeline for real, on a small line: every door leads to the same detector, and kills lose nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from stlm_core.files import sha256_file
from stlm_core.training.checkpoint import CHECKPOINT

pytestmark = pytest.mark.slow
Stlm = Callable[..., subprocess.CompletedProcess[str]]


def test_images_go_in_and_a_registered_champion_comes_out(small_project: Path, stlm: Stlm) -> None:
    first = stlm("run", "--line", "small")
    outputs = small_project / "outputs" / "small"
    metrics = json.loads((outputs / "evaluate" / "metrics.json").read_text())
    assert {"image_auroc", "pixel_auroc", "aupro_30", "aupro_05", "recall_at_budget", "threshold"} <= set(metrics)
    assert json.loads((outputs / "export" / "parity.json").read_text())["passed"] is True
    assert [line.split(" ")[0] for line in first.stdout.splitlines()] == [
        "validate",
        "synthesize",
        "cache-teacher",
        "distill",
        "train-fa",
        "evaluate",
        "export",
        "register",
    ]

    again = stlm("run", "--line", "small")
    assert again.stdout.count("(up to date)") == 8

    # By force: whether the gate lets so short a training pass may change with the last digits of its weights.
    promoted = stlm("promote", "--line", "small", "--force", "--reason", "a test of the whole")
    assert "version 1 is champion" in promoted.stdout
    assert "small" in stlm("status").stdout
    summary = stlm("summary", "--line", "small").stdout
    assert "image AUROC" in summary
    assert f"{metrics['image_auroc']:.4f}" in summary
    assert "report.html" in summary

    # The shipped file says about the test images what the evaluation said.
    stlm("predict", str(outputs / "export" / "model.onnx"), "images/test", "--out", "predictions")
    evaluated = {row["path"]: row for row in _rows(outputs / "evaluate" / "images.csv")}
    predicted = _rows(small_project / "predictions" / "results.csv")
    assert len(predicted) == len(evaluated) == 11
    for row in predicted:
        name = Path(row["path"]).relative_to(small_project / "images").as_posix()
        assert float(row["score"]) == pytest.approx(float(evaluated[name]["score"]), abs=1e-3)


def test_training_killed_at_some_step_ends_with_the_undisturbed_weights(
    prepared: Path, stlm: Stlm, spawn_stlm: Callable[..., subprocess.Popen[bytes]]
) -> None:
    stlm("distill", "--line", "small", "--input", "distill=undisturbed")
    process = spawn_stlm("distill", "--line", "small")
    checkpoint = prepared / "outputs" / "small" / ".distill.partial" / CHECKPOINT
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.poll() is None, "distill ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (prepared / "outputs" / "small" / "distill").exists()
    stlm("distill", "--line", "small")
    for name in ("streams.safetensors", "curve.csv", "selection.json"):
        resumed = prepared / "outputs" / "small" / "distill" / name
        assert sha256_file(resumed) == sha256_file(prepared / "undisturbed" / name), name


def test_shards_merge_to_the_cache_that_one_run_makes(prepared: Path, stlm: Stlm) -> None:
    for shard in range(2):
        again = ("cache-teacher", "--line", "small", "--shard", f"{shard}/2", "--out", f"shard{shard}")
        stlm(*again)
        assert "(up to date)" in stlm(*again).stdout
        assert "(up to date)" not in stlm(*again, "--force").stdout
    merged = stlm(
        "cache-teacher", "--line", "small", "--input", "cache-teacher=merged", "--merge", "shard0", "--merge", "shard1"
    )
    assert "0 views computed" in merged.stdout
    whole = prepared / "outputs" / "small" / "cache-teacher" / "index.json"
    assert (prepared / "merged" / "index.json").read_bytes() == whole.read_bytes()


def test_a_flipped_bit_costs_only_its_own_view(prepared: Path, stlm: Stlm) -> None:
    cache = prepared / "outputs" / "small" / "cache-teacher"
    victim = sorted(cache.glob("*.bin"))[0]
    content = bytearray(victim.read_bytes())
    content[1000] ^= 1
    victim.write_bytes(bytes(content))
    assert "damaged; run `stlm cache-teacher` again" in stlm("distill", "--line", "small", check=False).stderr
    assert "1 views computed" in stlm("cache-teacher", "--line", "small").stdout
    assert "(up to date)" in stlm("cache-teacher", "--line", "small").stdout


def test_features_of_another_bank_are_refused(prepared: Path, stlm: Stlm) -> None:
    params = prepared / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    tree["lines"]["small"]["synthesize"] = {"seed": 5}
    params.write_text(yaml.safe_dump(tree))
    stlm("synthesize", "--line", "small")
    refused = stlm("distill", "--line", "small", check=False)
    assert refused.returncode == 2
    assert "features of another bank" in refused.stderr
    assert "run `stlm cache-teacher` again" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distill", "--line", "nope"), "no line `nope`"),
        (("distill", "--line", "small"), "run `stlm synthesize --line small` first"),
        (("cache-teacher", "--line", "small", "--shard", "2"), "--shard 2: must be I/N"),
        (("cache-teacher", "--line", "small", "--shard", "3/2", "--out", "x"), "the first number must be from 0 to 1"),
        (("train-fa", "--line", "small", "--input", "bake=x"), "--input bake=x: must be STEP=FOLDER"),
        (("summary", "--line", "small"), "run `stlm evaluate --line small` first"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(stlm: Stlm, arguments: tuple[str, ...], message: str) -> None:
    done = stlm(*arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
