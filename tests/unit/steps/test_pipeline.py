"""Steps are found by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stlm_core.config import load_line
from stlm_core.errors import UserError
from stlm_core.steps.pipeline import run_one
from stlm_core.steps.workspace import Workspace


def test_a_step_is_run_by_its_name_and_nothing_else_is(tmp_path: Path) -> None:
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"a": {"data": {"path": "images"}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    config, workspace = load_line(tmp_path / "params.yaml", "a"), Workspace(tmp_path / "outputs", "a")
    with pytest.raises(UserError, match="run `stlm synthesize --line a` first"):
        run_one("train-fa", config, workspace)
    with pytest.raises(ValueError, match="unknown step 'workspace'"):
        run_one("workspace", config, workspace)
