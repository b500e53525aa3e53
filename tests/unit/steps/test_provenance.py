"""Outputs of an earlier step are not taken for those of the present settings and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stlm_core.config import LineConfig, line_from_sections
from stlm_core.errors import UserError
from stlm_core.steps.contract import MANIFEST, run_step
from stlm_core.steps.provenance import require_made_from

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
