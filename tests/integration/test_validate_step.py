"""Step validate, on real files: what it writes, when it reruns, and how it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.manifest import Manifest
from stlm_core.errors import UserError
from stlm_core.steps.validate import validate
from stlm_core.steps.workspace import Workspace

Setup = Callable[..., tuple[LineConfig, Workspace]]


def noise(path: Path, seed: int, mode: str = "RGB", size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for index in range(22):
        noise(root / "train" / "good" / f"{index:03d}.png", index)
    noise(root / "test" / "good" / "000.png", 100)
    noise(root / "test" / "dent" / "000.png", 101)
    noise(root / "ground_truth" / "dent" / "000_mask.png", 102, mode="L")
    return root


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    def make(folder: Path, rules: dict[str, Any] | None = None, **data: Any) -> tuple[LineConfig, Workspace]:
        line = {"data": {"path": str(folder), **data}, "validate": rules or {}}
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"cpu": {}}, "lines": {"line": line}}))
        return load_line(params, "line"), Workspace(tmp_path / "outputs", "line")

    return make


def test_outputs_of_a_valid_line(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    result = validate(config, workspace)
    assert result.summary == "16 train, 2 validation, 4 calibration, 2 test images of line line are valid"
    manifest = Manifest.read(result.folder / "manifest.parquet", images)
    assert len(manifest.rows) == 24
    report = json.loads((result.folder / "validation.json").read_text())
    assert report["success"] is True
    assert report["images"] == {"train": 16, "validation": 2, "calibration": 4, "test": 2}
    assert report["defect_types"] == {"dent": 1}
    assert (result.folder / "data_docs" / "index.html").is_file()
    listed = json.loads((result.folder / "manifest.json").read_text())["outputs"]
    assert {"manifest.parquet", "validation.json", "data_docs/index.html"} <= set(listed)


def test_runs_again_only_when_images_or_rules_change(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    first = validate(config, workspace)
    stored = (first.folder / "manifest.parquet").read_bytes()
    assert validate(config, workspace).reused
    forced = validate(config, workspace, force=True)
    assert not forced.reused
    assert (forced.folder / "manifest.parquet").read_bytes() == stored
    noise(images / "train" / "good" / "000.png", 999)
    assert not validate(config, workspace).reused
    config, workspace = setup(images, {"min_side": 20})
    assert not validate(config, workspace).reused


def test_a_failing_line_names_files_and_leaves_its_report(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    valid = validate(config, workspace)
    (images / "train" / "good" / "003.png").write_bytes(b"broken")
    noise(images / "ground_truth" / "dent" / "000_mask.png", 1, mode="L", size=8)
    failed = valid.folder.parent / "validate-failed"
    with pytest.raises(UserError) as refused:
        validate(config, workspace)
    message = str(refused.value)
    assert refused.value.exit_code == 2
    assert "train/good/003.png (not an image in a known format" in message
    assert "test/dent/000.png (ground_truth/dent/000_mask.png: the mask is 8 x 8 pixels" in message
    assert str(failed / "data_docs" / "index.html") in message
    assert "\n" not in message
    report = json.loads((failed / "validation.json").read_text())
    assert report["success"] is False
    assert [rule["rule"] for rule in report["rules"] if not rule["success"]] == ["readable", "masks"]
    assert (failed / "data_docs" / "index.html").is_file()
    assert not (failed / "manifest.parquet").exists()
    assert (valid.folder / "manifest.parquet").is_file()  # the last valid one stays


def test_the_failed_report_goes_when_the_line_is_repaired(images: Path, setup: Setup) -> None:
    broken = images / "train" / "good" / "003.png"
    broken.write_bytes(b"broken")
    config, workspace = setup(images)
    with pytest.raises(UserError):
        validate(config, workspace)
    noise(broken, 3)
    result = validate(config, workspace)
    assert not (result.folder.parent / "validate-failed").exists()


def test_a_good_only_folder_is_valid(images: Path, setup: Setup) -> None:
    config, workspace = setup(images / "train" / "good", format="folder")
    assert "0 test" in validate(config, workspace).summary


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_files_without_permission_are_reported_together(images: Path, setup: Setup) -> None:
    for name in ("001.png", "002.png"):
        (images / "train" / "good" / name).chmod(0)
    config, workspace = setup(images)
    with pytest.raises(UserError, match=r"001\.png \(cannot be read.*002\.png \(cannot be read"):
        validate(config, workspace)


def test_missing_folder(tmp_path: Path, setup: Setup) -> None:
    config, workspace = setup(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        validate(config, workspace)


@pytest.mark.parametrize("folder", ["mvtec_ad/bottle", "magnetic_tile"])
def test_real_lines_are_valid(datasets_root: Path, setup: Setup, folder: str) -> None:
    if not (datasets_root / folder).is_dir():
        pytest.skip(f"{folder} not found in {datasets_root}")
    config, workspace = setup(datasets_root / folder)
    assert "are valid" in validate(config, workspace).summary
