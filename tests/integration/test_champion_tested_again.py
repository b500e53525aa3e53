"""A champion of other test images, judged on the challenger's: its registered file runs on the project's images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence_data import evidence
from PIL import Image
from registry_project import make_project, verdicts, write_export
from tiny_onnx import tiny_onnx

from stlm_core.config import LineConfig
from stlm_core.data.manifest import Manifest, build_manifest
from stlm_core.errors import UserError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.export.facts import digest_of_test_split
from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import Registry
from stlm_core.steps.judgement import EVIDENCE_ARTIFACT
from stlm_core.steps.promote import Promotion, promote
from stlm_core.steps.register import register
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration
SIDE = 8
FOUND = 16  # of 20 defects, by the champion; the others are too dark for it


@pytest.fixture
def line(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LineConfig, Workspace, Manifest]:
    """A line with images, and a champion that was tested on others."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    config, workspace = make_project(tmp_path)
    _draw(config.resolve(config.data.path))
    manifest = build_manifest(config)
    path = workspace.folder("validate") / "manifest.parquet"
    path.parent.mkdir(parents=True)
    manifest.write(path)
    write_export(workspace, revision="r1")
    return config, workspace, manifest


@pytest.fixture
def tracking(line: tuple[LineConfig, Workspace, Manifest]) -> Iterator[Tracking]:
    with open_tracking(line[0].root) as opened:
        yield opened


def _draw(folder: Path) -> None:
    """Grey parts, no two alike; the score of the tiny detector is the brightest pixel."""
    for kind, count in (("train/good", 30), ("test/good", 20), ("test/dent", 20)):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng([number, len(kind), kind == "test/dent"]).integers(5, 40, (SIDE, SIDE, 3))
            if kind == "test/dent":
                mask = np.zeros((SIDE, SIDE), np.uint8)
                mask[2:4, 2:4] = 255
                pixels[mask > 0] = 250 if number < FOUND else 100
                (folder / "ground_truth/dent").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"ground_truth/dent/{number:03}_mask.png")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number:03}.png")


def _of_these_images(manifest: Manifest, found: int) -> Evidence:
    """A challenger's evidence on the project's test images, which finds the first ``found`` defects."""
    rows = sorted(manifest.test(), key=lambda row: (row.label, row.path))
    made = evidence([0.1] * 20 + [0.9] * found + [0.3] * (20 - found), [row.defect_type for row in rows])
    return replace(
        made, paths=np.array([row.path for row in rows]), sha256=np.array([row.sha256 for row in rows], dtype=np.str_)
    )


def _challenge(line: tuple[LineConfig, Workspace, Manifest], found: int) -> Promotion:
    """Register a challenger that was tested on the project's images, and judge it."""
    config, workspace, manifest = line
    write_export(workspace, revision="r2")
    content = tiny_onnx(code_version="r2", test_sha256=digest_of_test_split(manifest), data_license="CC0-1.0")
    (workspace.folder("export") / "model.onnx").write_bytes(content)
    proof = {"passed": True, "onnx_sha256": sha256_bytes(content)}
    (workspace.folder("export") / "parity.json").write_text(json.dumps(proof))
    _of_these_images(manifest, found).save(workspace.folder("evaluate") / "evidence.npz")
    register(config, workspace)
    return promote(config)


def _champion(line: tuple[LineConfig, Workspace, Manifest], known: Evidence | None = None) -> None:
    config, workspace, _ = line
    if known is not None:
        known.save(workspace.folder("evaluate") / "evidence.npz")
    register(config, workspace)
    assert promote(config).outcome == "promoted"


@pytest.mark.parametrize(("found", "outcome"), [(20, "promoted"), (FOUND, "promoted"), (4, "kept")])
def test_the_champions_file_is_tested_on_the_images_at_hand(
    line: tuple[LineConfig, Workspace, Manifest], found: int, outcome: str
) -> None:
    _champion(line)
    result = _challenge(line, found)
    assert result.outcome == outcome, result.reasons
    recall = f"recall at the budget {found / 20:.4f} against {FOUND / 20:.4f} of champion 1"
    assert result.decision is not None
    assert any(recall in check.sentence for check in result.decision.checks)
    assert (
        "champion 1 was tested again, on this version's 40 test images; whether it was made from some of them is not "
        "known"
    ) in result.reasons


def test_images_that_the_champion_was_made_from_do_not_count(line: tuple[LineConfig, Workspace, Manifest]) -> None:
    manifest = line[2]
    test = [row.sha256 for row in manifest.test() if row.label == 0]
    _champion(line, replace(verdicts(0.7), trained_on=np.array([*test[:8], "f" * 64])))
    result = _challenge(line, 20)
    assert any(
        "40 test images; 8 of them are left out, as the champion was made from" in each for each in result.reasons
    )
    assert "32 of 40 test images were among the champion's, too: only these are compared" in result.reasons
    assert result.outcome == "promoted"


def test_other_images_than_the_challengers_are_of_no_use(line: tuple[LineConfig, Workspace, Manifest]) -> None:
    _config, workspace, manifest = line
    _champion(line)
    fewer = Manifest(manifest.root, tuple(row for row in manifest.rows if row != manifest.test()[0]))
    fewer.write(workspace.folder("validate") / "manifest.parquet")
    result = _challenge(line, 20)
    assert result.outcome == "needs-human"
    assert result.reasons[0].startswith("only 0 good and 0 defective test images have been seen by both versions")


def test_a_champion_whose_files_are_damaged_does_not_keep_its_successor_out(
    line: tuple[LineConfig, Workspace, Manifest], tracking: Tracking
) -> None:
    _champion(line)
    registered = Registry(tracking, "tiny").version(1)
    assert registered is not None
    folder = Path(tracking.client.get_run(registered.run_id).info.artifact_uri.removeprefix("file://"))
    (folder / EVIDENCE_ARTIFACT).write_bytes(b"PK")
    result = _challenge(line, 20)
    assert result.outcome == "promoted"
    assert any(each.startswith(f"{EVIDENCE_ARTIFACT} of stlm-tiny version 1: not the") for each in result.reasons)


def test_a_champion_whose_model_is_damaged_asks_for_a_person(
    line: tuple[LineConfig, Workspace, Manifest],
) -> None:
    config, _, _ = line
    _champion(line)
    for path in config.root.rglob("model.onnx"):
        if "outputs" not in path.parts:
            path.write_bytes(b"damaged")
    result = _challenge(line, 20)
    assert result.outcome == "needs-human"
    told = "champion 1 cannot be tested again: model.onnx of stlm-tiny version 1: its sha256 is"
    assert any(each.startswith(told) for each in result.reasons)
    assert promote(config, force=True, reason="the old file is broken").outcome == "promoted"


def test_a_test_image_that_has_changed_is_named(line: tuple[LineConfig, Workspace, Manifest]) -> None:
    manifest = line[2]
    _champion(line)
    shutil.copy(manifest.image_path(manifest.train()[0]), manifest.image_path(manifest.test()[0]))
    with pytest.raises(UserError, match="has changed since the manifest was made; run `stlm validate` again"):
        _challenge(line, 20)


def test_a_mask_that_has_changed_is_named(line: tuple[LineConfig, Workspace, Manifest]) -> None:
    manifest = line[2]
    _champion(line)
    path = next(mask for row in manifest.test() if (mask := manifest.mask_path(row)) is not None)
    with Image.open(path) as mask:
        turned = mask.transpose(Image.Transpose.ROTATE_180)
    turned.save(path)
    with pytest.raises(UserError, match=f"{path}: has changed since the manifest was made; run `stlm validate` again"):
        _challenge(line, 20)
