"""Step validate, on real files: what it writes, when it reruns, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.drift import TrainingStatistics, reference_path
from stlm_core.data.manifest import Manifest
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.steps.validate import validate
from stlm_core.steps.workspace import Workspace

Setup = Callable[..., tuple[LineConfig, Workspace]]


def noise(path: Path, seed: int, mode: str = "RGB", size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def mark(path: Path, rows: slice) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((40, 40), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(path)


def settle(folder: Path) -> None:
    """Wait until files are old enough for their size and time to be trusted."""
    newest = max(file.stat().st_ctime for file in folder.rglob("*") if file.is_file())
    time.sleep(max(0.0, newest + 2.1 - time.time()))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for index in range(22):
        noise(root / "train" / "good" / f"{index:03d}.png", index)
    noise(root / "test" / "good" / "000.png", 100)
    noise(root / "test" / "dent" / "000.png", 101)
    mark(root / "ground_truth" / "dent" / "000_mask.png", slice(4, 12))
    return root


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    def make(folder: Path, rules: dict[str, Any] | None = None, **data: Any) -> tuple[LineConfig, Workspace]:
        line = {"data": {"path": str(folder), **data}, "validate": rules or {}}
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}))
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
    assert {
        "manifest.parquet",
        "validation.json",
        "quarantine.csv",
        "statistics.json",
        "data_docs/index.html",
        "gx/great_expectations.yml",
        "gx/checkpoint_result.json",
    } <= set(listed)
    assert (result.folder / "quarantine.csv").read_text() == "path,rule,reason,sha256\n"
    assert TrainingStatistics.read(result.folder / "statistics.json").images == 22


def test_the_same_images_and_settings_give_the_same_bytes(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    names = ("manifest.parquet", "validation.json", "quarantine.csv", "statistics.json")
    first = [(validate(config, workspace, force=True).folder / name).read_bytes() for name in names]
    assert [(validate(config, workspace, force=True).folder / name).read_bytes() for name in names] == first


def test_nothing_is_imported_or_read_when_all_is_up_to_date(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    settle(images)
    validate(config, workspace)
    code = """
import sys
from pathlib import Path
from stlm_core.config import load_line
from stlm_core.data import facts
from stlm_core.steps.validate import validate
from stlm_core.steps.workspace import Workspace
def read(*_): raise AssertionError("a file was read")
facts.read_content = facts.probe_content = facts.probe_mask = facts.mask_sha256 = read
params, outputs = map(Path, sys.argv[1:])
result = validate(load_line(params, "line"), Workspace(outputs, "line"))
assert result.reused
assert not {"great_expectations", "pandas", "jinja2"} & set(sys.modules), sorted(sys.modules)
"""
    arguments = [str(config.root / "params.yaml"), str(workspace.root)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


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


def test_unusable_files_go_into_quarantine(images: Path, setup: Setup) -> None:
    good = images / "train" / "good"
    broken, blank = good / "003.png", good / "004.png"
    broken.write_bytes(b"broken")
    Image.new("RGB", (40, 40), (9, 9, 9)).save(blank)
    before = {file: file.read_bytes() for file in images.rglob("*.png")}
    config, workspace = setup(images, {"unusable": "quarantine", "max_quarantined": 0.1})
    result = validate(config, workspace)
    assert result.summary.endswith("images of line line are valid, 2 in quarantine, 1 warning")
    rows = (result.folder / "quarantine.csv").read_text().splitlines()
    assert rows[0] == "path,rule,reason,sha256"
    assert rows[1].startswith('train/good/003.png,readable,"not an image in a known format')
    assert rows[2] == f"train/good/004.png,blank,contrast 0.0000,{sha256_file(blank)}"
    paths = {row.path for row in Manifest.read(result.folder / "manifest.parquet", images).rows}
    assert len(paths) == 22
    assert not paths & {"train/good/003.png", "train/good/004.png"}
    report = json.loads((result.folder / "validation.json").read_text())
    assert report["quarantined"] == 2
    assert sum(report["images"].values()) == 22
    assert {file: file.read_bytes() for file in images.rglob("*.png")} == before


def test_too_many_in_quarantine_fail(images: Path, setup: Setup) -> None:
    for name in ("001.png", "002.png"):
        (images / "train" / "good" / name).write_bytes(b"broken")
    config, workspace = setup(images, {"unusable": "quarantine", "max_quarantined": 0.05})
    with pytest.raises(UserError, match=r"At most 5\.0% .* in quarantine: no, 2 of 24 images \(8\.3%\)"):
        validate(config, workspace)
    failed = workspace.folder("validate").with_name("validate-failed")
    assert (failed / "quarantine.csv").read_text().count("readable") == 2


def test_counts_are_those_after_quarantine(images: Path, setup: Setup) -> None:
    for index in range(3):
        (images / "train" / "good" / f"{index:03d}.png").write_bytes(b"broken")
    config, workspace = setup(images, {"unusable": "quarantine", "max_quarantined": 0.5})
    with pytest.raises(UserError, match="at least 20 good training images: no, there are 19"):
        validate(config, workspace)


def test_drift_from_the_champion_is_a_warning_each_time(
    images: Path, setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = setup(images)
    reference = reference_path(config)
    reference.parent.mkdir(parents=True)
    reference.write_bytes((validate(config, workspace).folder / "statistics.json").read_bytes())
    capsys.readouterr()
    result = validate(config, workspace)
    assert not result.reused  # now there is something to compare with
    assert capsys.readouterr().err.count("warning:") == 0
    for file in (images / "train" / "good").iterdir():
        Image.open(file).point(lambda value: value // 2).save(file)
    warning = "warning: The good images have the brightness that the champion was trained on"
    for reused in (False, True):
        result = validate(config, workspace)
        assert result.reused is reused
        assert warning in capsys.readouterr().err
    assert "warnings" in result.summary
    report = json.loads((result.folder / "validation.json").read_text())
    assert [drift["statistic"] for drift in report["drift"]][:2] == ["brightness", "contrast"]
    config, workspace = setup(images, {"drift": "fail"})
    with pytest.raises(UserError, match=r"brightness 0\.249 instead of 0\.5"):
        validate(config, workspace)
    config, workspace = setup(images, {"drift": "off"})
    assert "warning" not in validate(config, workspace).summary


def test_a_damaged_reference_is_named(images: Path, setup: Setup) -> None:
    config, workspace = setup(images)
    reference_path(config).parent.mkdir(parents=True)
    reference_path(config).write_text("{}")
    with pytest.raises(UserError, match=r"reference\.json: not the training statistics of a model"):
        validate(config, workspace)


def test_a_photograph_saved_again_across_the_border(images: Path, setup: Setup) -> None:
    with Image.open(images / "train" / "good" / "005.png") as image:
        image.resize((80, 80), Image.Resampling.NEAREST).save(images / "test" / "good" / "again.png")
    config, workspace = setup(images)
    assert validate(config, workspace).summary.endswith("are valid, 1 warning")
    config, workspace = setup(images, {"near_duplicates": "fail"})
    with pytest.raises(UserError, match=r"again\.png \(looks the same as train/good/005\.png"):
        validate(config, workspace)


def test_an_inverted_mask_is_noticed(images: Path, setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    mark(images / "ground_truth" / "dent" / "000_mask.png", slice(3, 40))
    config, workspace = setup(images)
    assert validate(config, workspace).summary.endswith("are valid, 1 warning")
    assert "92.5% of the image is marked; is it inverted?" in capsys.readouterr().err


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
