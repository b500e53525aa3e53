"""params.yaml: DVC follows a section only if it is there, so every layer names all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.accuracy.configurations import CONFIGURATIONS
from stlm_core.config import LINE_NAME, SECTIONS, line_names, load_line
from stlm_core.synthesis.families import FAMILIES


@pytest.fixture(scope="module")
def params(repository: Path) -> Path:
    return repository / "params.yaml"


def test_every_layer_names_every_section(params: Path) -> None:
    tree = yaml.safe_load(params.read_text())
    layers = {"defaults": tree["defaults"]}
    layers |= {f"profiles.{name}": layer for name, layer in tree["profiles"].items()}
    layers |= {f"lines.{name}": layer for name, layer in tree["lines"].items()}
    for name, layer in layers.items():
        expected = {*SECTIONS, "profile"} if name.startswith("lines.") else set(SECTIONS)
        assert set(layer) == expected, name
        assert all(isinstance(layer[section], dict) for section in SECTIONS), name


def test_the_profiles_of_the_decoder_draw_the_same_kinds_of_anomaly(params: Path) -> None:
    """All but the tenth (docs/decisions/0025). Each profile is whole in itself, so that one can be changed alone."""
    profiles = yaml.safe_load(params.read_text())["profiles"]
    kinds = [name for name in FAMILIES if name != "finish"]
    for name in ("fast", "balanced", "best"):
        assert profiles[name]["synthesize"]["families"] == kinds, name
    assert CONFIGURATIONS["and-finish"].settings == {"synthesize": {"families": [*kinds, "finish"]}}
    assert CONFIGURATIONS["small-defects"].settings == {"synthesize": {"families": kinds[1:]}}


def test_every_line_is_valid_under_every_profile(params: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load(params.read_text())
    assert line_names(params)
    for profile in tree["profiles"]:
        for line in tree["lines"]:
            assert LINE_NAME.fullmatch(line)
            tree["lines"][line]["profile"] = profile
            changed = tmp_path / "params.yaml"
            changed.write_text(yaml.safe_dump(tree))
            assert load_line(changed, line).profile == profile
