"""The default architecture through every step: the teacher is the plain stream, clean views alone are cached."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from stlm_core.errors import UserError
from stlm_core.models.detector import count_parameters, load_detector
from stlm_core.settings import SynthesizeConfig
from stlm_core.steps.weights import fetch_weights
from stlm_core.synthesis.bank import Bank, read_index
from stlm_core.training.balance import memory_balance
from stlm_core.training.fresh import FreshViews
from stlm_core.training.validation import PseudoValidation

pytestmark = pytest.mark.slow
Stlm = Callable[..., subprocess.CompletedProcess[str]]
LIVE = {
    "teacher": {"name": "efficientnet_lite0", "input_size": None, "shard_views": 16},
    "model": {"plain_stream": "teacher", "init": "lite_medsam"},
    "fa": {"joint_finetune": False},
}


@pytest.fixture
def live_project(small_project: Path, small_outputs: Path, weights_dir: Path) -> Path:
    """The small line with the teacher as its plain stream, validated."""
    try:
        fetch_weights("efficientnet_lite0", weights_dir)
    except UserError as error:
        pytest.skip(f"the teacher's weights cannot be had: {error}")
    change(small_project, LIVE)
    shutil.copytree(small_outputs / "small" / "validate", small_project / "outputs" / "small" / "validate")
    return small_project


def change(project: Path, settings: dict[str, dict[str, object]]) -> None:
    params = project / "params.yaml"
    tree = yaml.safe_load(params.read_text())
    for section, values in settings.items():
        tree["lines"]["small"][section] = tree["lines"]["small"].get(section, {}) | values
    params.write_text(yaml.safe_dump(tree))


def test_images_go_in_and_a_proven_file_of_half_the_size_comes_out(live_project: Path, stlm: Stlm) -> None:
    stlm("run", "--line", "small")
    outputs = live_project / "outputs" / "small"
    parity = json.loads((outputs / "export" / "parity.json").read_text())
    assert parity["passed"] is True
    detector = load_detector(outputs / "train-fa" / "detector.safetensors")
    assert detector.facts.plain_stream == "teacher"
    assert count_parameters(detector) < 8.5e6
    assert float(detector.streams.get_buffer("deviation_0").std()) > 0  # the line's own statistics
    assert (outputs / "export" / "model.onnx").stat().st_size < 40e6
    index = read_index(outputs / "synthesize" / "index.parquet")
    keys = json.loads((outputs / "cache-teacher" / "index.json").read_text())["keys"]
    assert len(keys) == len(index)
    assert len(set(keys)) == int((index["variant"] == 0).sum())  # pseudo-anomalous views are never computed
    assert "One stream is the frozen teacher itself" in (outputs / "export" / "model_card.md").read_text()


def test_a_decoder_with_a_memory_learns_from_fresh_views_and_its_file_is_proven(live_project: Path, stlm: Stlm) -> None:
    families = ["patch", "paste", "scratch", "stain"]
    synthesis = {"fresh": True, "light": 0.1, "families": families, "rotation": "small"}
    structure = {"aggregation": "decoder", "denoising_stream": False, "memory": 200}
    change(live_project, {"synthesize": synthesis, "model": LIVE["model"] | structure, "fa": {"dice_weight": 0.5}})
    stlm("run", "--line", "small")
    outputs = live_project / "outputs" / "small"
    assert json.loads((outputs / "export" / "parity.json").read_text())["passed"] is True
    detector = load_detector(outputs / "train-fa" / "detector.safetensors")
    vectors = detector.streams.memory.vectors
    assert vectors.shape[0] == 200
    distilled = load_file(outputs / "distill" / "streams.safetensors")["memory.vectors"]
    spare = int((distilled[1:] == distilled[0]).all(1).sum())
    assert spare > 10
    # `train-fa` has filled the spare rows from the validation images, and nothing else.
    assert torch.equal(vectors[:-spare], distilled[:-spare])
    assert not (vectors[-spare:] == distilled[0]).all(1).any()
    # Until then these images were to judge: with the memory that has not seen them the recorded figures come out again.
    memory, bank = detector.streams.memory, Bank.open(outputs / "synthesize")
    share, shift, completed = float(memory.share), float(memory.map_shift), vectors.clone()
    memory.vectors.copy_(distilled)
    recorded = json.loads((outputs / "train-fa" / "selection.json").read_text())["best"]
    assert PseudoValidation(bank).figures(detector.cpu(), torch.device("cpu")) == pytest.approx(recorded, abs=1e-4)
    views = FreshViews(bank.folder, SynthesizeConfig(**synthesis))
    assert memory_balance(detector, bank, 0, torch.device("cpu"), views) == pytest.approx((share, shift), abs=1e-4)
    memory.vectors.copy_(completed)
    assert memory_balance(detector, bank, 0, torch.device("cpu"), views) != pytest.approx((share, shift), abs=1e-4)
    assert float(detector.streams.memory.deviation) > 0
    assert count_parameters(detector) < 1.7e6
    index = read_index(outputs / "synthesize" / "index.parquet")
    assert set(index.loc[index["variant"] > 0, "split"]) == {"validation"}
    assert (outputs / "distill" / "curve.csv").read_text() == "step,train_total\n"
    card = (outputs / "export" / "model_card.md").read_text()
    added = load_file(outputs / "evaluate" / "remembered.safetensors")["vectors"]
    assert 0 < len(added) <= 50
    assert f"{200 + len(added)} features of good parts are remembered" in card
    assert "turned by up to 5 degrees" in card
    report = (outputs / "evaluate" / "report.html").read_text()
    assert "The highest scores of held-back good images" in report
    again = stlm("run", "--line", "small")
    assert "(up to date)" in again.stdout + again.stderr


def test_fresh_views_need_a_teacher_that_sees_them(live_project: Path, stlm: Stlm) -> None:
    change(live_project, {"synthesize": {"fresh": True}, "teacher": {"name": "lite_medsam", "input_size": 32}})
    change(live_project, {"model": {"plain_stream": "student", "init": "teacher"}})
    for step in ("synthesize", "cache-teacher"):
        stlm(step, "--line", "small")
    failed = stlm("distill", "--line", "small", check=False)
    assert failed.returncode == 2
    assert "synthesize.fresh: needs model.plain_stream: teacher" in failed.stderr


def test_the_whole_detector_may_be_fine_tuned_jointly(live_project: Path, stlm: Stlm) -> None:
    change(live_project, {"fa": {"joint_finetune": True}})
    for step in ("synthesize", "cache-teacher", "distill", "train-fa"):
        stlm(step, "--line", "small")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": {"name": "lite_medsam"}}, "model.plain_stream: `lite_medsam` cannot be the plain stream itself"),
        ({"teacher": {"input_size": 64}}, "teacher.input_size: 64, but as the plain stream the teacher sees images of"),
        ({"model": {"init": "teacher"}}, "plain_stream: teacher needs stem: conv3x3, and init: lite_medsam"),
        ({"model": {"stem": "conv1x1"}}, "plain_stream: teacher needs stem: conv3x3"),
    ],
)
def test_what_cannot_be_a_plain_stream_is_said_at_once(
    live_project: Path, small_outputs: Path, stlm: Stlm, settings: dict[str, dict[str, object]], message: str
) -> None:
    shutil.copytree(small_outputs / "small" / "synthesize", live_project / "outputs" / "small" / "synthesize")
    change(live_project, settings)
    done = stlm("cache-teacher", "--line", "small", check=False)
    assert done.returncode == 2
    assert message in done.stderr
