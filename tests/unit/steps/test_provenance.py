"""Outputs of an earlier step are not taken for those of the present settings and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stlm_core.config import BANK_SECTIONS, DETECTOR_SECTIONS, STREAM_SECTIONS, LineConfig, line_from_sections
from stlm_core.errors import UserError
from stlm_core.steps.contract import MANIFEST, run_step
from stlm_core.steps.provenance import require_made_from, require_trained_as_now
from stlm_core.steps.workspace import Workspace

SECTIONS = ("evaluate",)


def line(**evaluate: object) -> LineConfig:
    return line_from_sections("caps", {"evaluate": evaluate}, Path("/nowhere"))


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    path = tmp_path / "detector.safetensors"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def folder(tmp_path: Path, detector: Path) -> Path:
    """Outputs of a step that read ``detector``."""
    inputs, made = {"detector": detector}, tmp_path / "evaluate"

    def work(partial: Path) -> str:
        (partial / "operating_point.json").write_text("{}")
        return "done"

    run_step("evaluate", line(), SECTIONS, inputs, made, work)
    return made


def test_outputs_of_the_present_files_and_settings_pass(folder: Path, detector: Path) -> None:
    require_made_from(folder, "evaluate", line(), SECTIONS, {"detector": detector})


def test_another_file_is_told_with_the_remedy(folder: Path, detector: Path) -> None:
    detector.write_bytes(b"two")
    with pytest.raises(UserError, match=r"made from another detector\.safetensors .* run `stlm evaluate --line caps`"):
        require_made_from(folder, "evaluate", line(), SECTIONS, {"detector": detector})


def test_other_settings_are_told_with_the_remedy(folder: Path, detector: Path) -> None:
    with pytest.raises(UserError, match=r"made with other settings .*\(evaluate\); run `stlm evaluate --line caps`"):
        require_made_from(folder, "evaluate", line(top_pixels=7), SECTIONS, {"detector": detector})


def test_a_manifest_of_other_files_says_nothing(folder: Path, detector: Path) -> None:
    (folder / "operating_point.json").write_text('{"of": "another day"}')
    detector.write_bytes(b"of the same day")
    require_made_from(folder, "evaluate", line(), SECTIONS, {"detector": detector})
    (folder / MANIFEST).unlink()
    require_made_from(folder, "evaluate", line(), SECTIONS, {"detector": detector})


class Trainings:
    """The steps before ``evaluate`` of a line; what they make depends on two seeds."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root, "caps")
        self.write("validate", "manifest.parquet", b"manifest")
        self.write("cache-teacher", "index.json", b"cache")
        self.synthesize()
        self.distill()
        self.train_fa()

    def write(self, step: str, name: str, content: bytes) -> None:
        self.workspace.folder(step).mkdir(parents=True, exist_ok=True)
        (self.workspace.folder(step) / name).write_bytes(content)

    def _run(
        self, step: str, config: LineConfig, sections: tuple[str, ...], inputs: dict[str, Path], *files: str
    ) -> None:
        def work(partial: Path) -> str:
            for name in files:
                (partial / name).write_text(f"{config.distill.seed} {config.data.seed}")
            return "done"

        run_step(step, config, sections, inputs, self.workspace.folder(step), work)

    def synthesize(self, config: LineConfig | None = None) -> None:
        manifest = {"manifest": self.workspace.need("validate", "manifest.parquet")}
        files = ("index.parquet", "pose.json", "views.npy")
        self._run("synthesize", config or settings(), BANK_SECTIONS, manifest, *files)

    def inputs(self) -> dict[str, Path]:
        return {
            "bank": self.workspace.need("synthesize", "index.parquet"),
            "pose": self.workspace.need("synthesize", "pose.json"),
            "cache": self.workspace.need("cache-teacher", "index.json"),
        }

    def distill(self, config: LineConfig | None = None) -> None:
        self._run("distill", config or settings(), STREAM_SECTIONS, self.inputs(), "streams.safetensors")

    def train_fa(self) -> None:
        inputs = {**self.inputs(), "streams": self.workspace.need("distill", "streams.safetensors")}
        self._run("train-fa", settings(), DETECTOR_SECTIONS, inputs, "detector.safetensors")


def settings(**sections: dict[str, object]) -> LineConfig:
    return line_from_sections("caps", {"data": {"path": "caps"}, **sections}, Path("/nowhere"))


def test_a_detector_of_the_present_settings_and_files_passes(tmp_path: Path) -> None:
    done = Trainings(tmp_path)
    require_trained_as_now(settings(), done.workspace)
    require_trained_as_now(settings(fa={"checkpoint_every": 7}, evaluate={"top_pixels": 7}), done.workspace)


def test_a_detector_of_other_settings_or_files_is_told_with_the_step_to_run(tmp_path: Path) -> None:
    done = Trainings(tmp_path)
    with pytest.raises(UserError, match=r"made with other settings .* run `stlm train-fa --line caps` again"):
        require_trained_as_now(settings(fa={"seed": 7}), done.workspace)
    other = settings(distill={"seed": 7})
    with pytest.raises(UserError, match=r"made with other settings .* run `stlm distill --line caps` again"):
        require_trained_as_now(other, done.workspace)
    done.distill(other)
    with pytest.raises(UserError, match=r"another streams\.safetensors .* run `stlm train-fa --line caps` again"):
        require_trained_as_now(other, done.workspace)
    done.distill()
    require_trained_as_now(settings(), done.workspace)

    done.write("validate", "manifest.parquet", b"other splits")
    with pytest.raises(UserError, match=r"another manifest\.parquet .* run `stlm synthesize --line caps` again"):
        require_trained_as_now(settings(), done.workspace)
    done.synthesize()
    require_trained_as_now(settings(), done.workspace)  # the bank came out the same
    done.synthesize(settings(data={"path": "caps", "seed": 7}))
    with pytest.raises(UserError, match=r"another index\.parquet .* run `stlm train-fa --line caps` again"):
        require_trained_as_now(settings(data={"path": "caps", "seed": 7}), done.workspace)


def test_of_a_detector_from_elsewhere_the_settings_are_compared(tmp_path: Path) -> None:
    elsewhere = Trainings(tmp_path / "elsewhere").workspace.folder("train-fa")
    here = Trainings(tmp_path / "here").workspace
    named = Workspace(here.root, "caps", {"train-fa": elsewhere})
    (here.folder("distill") / "streams.safetensors").write_bytes(b"of another day")
    require_trained_as_now(settings(distill={"seed": 7}), named)
    with pytest.raises(UserError, match="made with other settings"):
        require_trained_as_now(settings(fa={"seed": 7}), named)
