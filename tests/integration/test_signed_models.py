"""Models that are signed when they are registered, and what a changed one is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_project import make_project, write_export
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_file
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, Registry, Version
from stlm_core.integrity import SIGNING_KEY, VERIFY_KEY, check_version, sign_model
from stlm_core.server.champion import prepare
from stlm_core.server.sources import FileSource
from stlm_core.steps.promote import promote
from stlm_core.steps.register import register
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration

Project = tuple[LineConfig, Workspace]


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("MLFLOW_TRACKING_URI", SIGNING_KEY, VERIFY_KEY):
        monkeypatch.delenv(name, raising=False)
    made = make_project(tmp_path / "project")
    shutil.copy(empty_database, made[0].root / "mlflow.db")
    return made


@pytest.fixture
def tracking(project: Project) -> Iterator[Tracking]:
    with open_tracking(project[0].root) as opened:
        yield opened


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Made by the command; the private and the public one."""
    made = CliRunner().invoke(app, ["keys", "make", "--out", str(tmp_path / "keys")])
    assert made.exit_code == 0, made.output
    private, public = (Path(line.split(": ")[0]) for line in made.stdout.splitlines())
    assert (private.name, public.name) == ("signing.pem", "verify.pem")
    return private, public


def _challenger(tracking: Tracking) -> Version:
    version = Registry(tracking, "tiny").at(CHALLENGER)
    assert version is not None
    return version


def _model_folder(project: Project) -> Path:
    (file,) = (project[0].root / "mlartifacts").rglob("model.onnx")
    return file.parent


def test_a_registered_model_is_signed_and_the_signature_lies_beside_it(
    project: Project, tracking: Tracking, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    write_export(project[1], revision="r1")
    register(*project)
    version, folder = _challenger(tracking), _model_folder(project)
    beside = folder / "model.onnx.sig"
    assert beside.read_text() == version.tags["onnx_signature"] + "\n"
    assert json.loads((folder / "hashes.json").read_text())["model.onnx.sig"] == sha256_file(beside)

    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    content = (folder / "model.onnx").read_bytes()
    check_version(version.tags, content, "tiny")
    with pytest.raises(StlmError, match="the file was changed or damaged"):
        check_version(version.tags, content[:-1], "tiny")
    run = tracking.client.get_run(version.run_id)
    logged = json.dumps([run.data.params, run.data.tags, dict(version.tags)])
    assert str(keys[0]) not in logged
    assert "PRIVATE" not in logged


def test_the_folder_alone_is_enough_for_the_inspection_server(
    project: Project, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    write_export(project[1], revision="r1")
    register(*project)
    folder = _model_folder(project)
    offer = FileSource(folder / "model.onnx", "tiny").offer("tiny")
    assert offer is not None
    assert prepare(offer.candidate, offer.content(), public_key=keys[1], threads=1).session.line == "tiny"
    (folder / "model.onnx.sig").unlink()
    unsigned = FileSource(folder / "model.onnx", "tiny").offer("tiny")
    assert unsigned is not None
    with pytest.raises(StlmError, match="is not signed"):
        prepare(unsigned.candidate, unsigned.content(), public_key=keys[1], threads=1)


def test_what_was_registered_before_there_was_a_key_is_signed_by_the_next_run(
    project: Project, tracking: Tracking, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(project[1], revision="r1")
    register(*project)
    unsigned = _challenger(tracking)
    assert "onnx_signature" not in unsigned.tags
    assert not (_model_folder(project) / "model.onnx.sig").exists()
    assert register(*project).reused

    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    assert not register(*project).reused
    signed = _challenger(tracking)
    assert signed.number == unsigned.number
    assert {**signed.tags, "onnx_signature": ""} == {**unsigned.tags, "onnx_signature": ""}
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    check_version(signed.tags, (_model_folder(project) / "model.onnx").read_bytes(), "tiny")
    assert register(*project).reused


def test_only_what_the_key_has_signed_is_promoted(
    project: Project, tracking: Tracking, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = project
    write_export(workspace, revision="r1")
    register(config, workspace)
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    refused = promote(config)
    assert refused.outcome == "kept"
    assert any("is not signed, and STLM_VERIFY_KEY asks for signed models" in reason for reason in refused.reasons)

    digest = _challenger(tracking).tags["onnx_sha256"]
    number = _challenger(tracking).number
    foreign = {"onnx_signature": sign_model(digest, "screw", keys[0])}
    Registry(tracking, "tiny").tag(number, foreign)
    assert any("does not hold for the key verify.pem" in reason for reason in promote(config).reasons)

    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    register(config, workspace)
    assert promote(config).outcome == "promoted"


def test_a_key_that_is_none_stops_before_anything_is_registered(
    project: Project, tracking: Tracking, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(keys[1]))
    write_export(project[1], revision="r1")
    with pytest.raises(UserError, match=r"verify\.pem: not an unencrypted Ed25519 private key"):
        register(*project)
    assert not Registry(tracking, "tiny").exists()


def test_keys_are_made_once(keys: tuple[Path, Path]) -> None:
    again = CliRunner().invoke(app, ["keys", "make", "--out", str(keys[0].parent)])
    assert again.exit_code != 0
    assert isinstance(again.exception, UserError)
    assert "signing.pem: is there already" in str(again.exception)
