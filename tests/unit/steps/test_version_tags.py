"""Tags of a registered version that come from the steps' files and from the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_run import RunContent
from stlm_core.steps.version_tags import IMAGE_DIGEST, version_tags

DIGEST = "sha256:" + "ab12" * 16


def _tags(folder: Path, validation: Any = None, **metrics: float) -> dict[str, str]:
    content = RunContent(
        experiment="stlm-tiny",
        run_name="tiny",
        params={},
        metrics=metrics,
        curves={},
        artifacts=(),
        dataset_name="tiny",
        dataset_sha256="0" * 64,
        dataset_source="data/tiny",
        tags={"teacher": "lite_medsam"},
        model=b"model",
    )
    inputs = {"parity": folder / "parity.json", "validation": folder / "validation.json"}
    inputs["parity"].write_text(json.dumps({"passed": True, "onnx_sha256": content.onnx_sha256}))
    inputs["validation"].write_text(json.dumps(validation if validation is not None else {"success": True}))
    return version_tags(content, inputs)


def test_the_false_reject_rate_is_a_tag_when_it_was_measured(tmp_path: Path) -> None:
    assert _tags(tmp_path, false_reject_rate=0.0125)["false_reject_rate"] == "0.0125"
    assert "false_reject_rate" not in _tags(tmp_path)


def test_drift_is_the_largest_distance_of_any_statistic(tmp_path: Path) -> None:
    measured = [{"statistic": "brightness", "distance": 0.25}, {"statistic": "contrast", "distance": 1.5}]
    assert _tags(tmp_path, {"drift": measured})["drift"] == "1.5"
    assert "drift" not in _tags(tmp_path, {"drift": []})
    assert "drift" not in _tags(tmp_path)


@pytest.mark.parametrize("drift", [3, ["brightness"], [{"statistic": "brightness"}], [{"distance": "far"}]])
def test_a_damaged_validation_report_is_named(tmp_path: Path, drift: Any) -> None:
    with pytest.raises(UserError, match=r"validation\.json: `drift` is not a list of statistics"):
        _tags(tmp_path, {"drift": drift})


@pytest.mark.parametrize("digest", [DIGEST, f"registry.example.com/stlm-serve@{DIGEST}"])
def test_the_digest_of_the_image_is_a_tag_when_the_environment_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    monkeypatch.delenv(IMAGE_DIGEST, raising=False)
    assert "image_digest" not in _tags(tmp_path)
    monkeypatch.setenv(IMAGE_DIGEST, digest)
    assert _tags(tmp_path)["image_digest"] == digest


@pytest.mark.parametrize("digest", ["stlm-serve:latest", "sha256:ab", DIGEST.upper(), f" {DIGEST}"])
def test_what_is_no_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    monkeypatch.setenv(IMAGE_DIGEST, digest)
    with pytest.raises(UserError, match=r"STLM_IMAGE_DIGEST: .* is no digest of an image"):
        _tags(tmp_path)
