"""Copies between real registries on SQLite: complete, checked, made once, and completed after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying_client import Killed, die_at_write, known_to_be_dead
from mlflow_server import mlflow_server
from registry_project import CURVE_STEPS, make_project, write_export
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_file
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, Registry, Version
from stlm_core.integrity import SIGNING_KEY, VERIFY_KEY, make_keys
from stlm_core.steps.promote import promote, reject, rollback
from stlm_core.steps.register import register
from stlm_core.steps.registry_copy import copy_version
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration
Project = tuple[LineConfig, Workspace]


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Staging: version 1 of the line is in service there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "staging").mkdir()
    shutil.copy(empty_database, tmp_path / "staging" / "mlflow.db")
    made = make_project(tmp_path / "staging")
    new_version(made, "r1")
    promote(made[0], by="staging's engineer")
    return made


@pytest.fixture
def production(tmp_path: Path, empty_database: Path) -> str:
    """Address of an empty registry."""
    (tmp_path / "production").mkdir()
    shutil.copy(empty_database, tmp_path / "production" / "production.db")
    return f"sqlite:///{tmp_path / 'production' / 'production.db'}"


def new_version(project: Project, revision: str, **metrics: float) -> None:
    write_export(project[1], revision=revision, **metrics)
    register(*project)


def files_of(tracking: Tracking, version: Version, folder: Path) -> dict[str, str]:
    """sha256 of every file of the version's run and model, fetched the way any user of MLflow would."""
    import mlflow

    for part in ("run", "model"):
        (folder / part).mkdir(parents=True)
    tracking.client.download_artifacts(version.run_id, "", str(folder / "run"))
    uri = f"models:/stlm-tiny/{version.number}"
    mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder / "model"))
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "registered_model_meta"]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def only_version(tracking: Tracking) -> Version:
    (version,) = Registry(tracking, "tiny").tagged({})
    return version


def everything_in(config: LineConfig, address: str | None) -> dict[str, Any]:
    """Aliases, and every version's and run's tags."""
    with open_tracking(config.root, address) as tracking:
        registry = Registry(tracking, config.name)
        ids = [each.experiment_id for each in tracking.client.search_experiments()]
        runs = tracking.client.search_runs(ids)
        return {
            "aliases": registry.aliases(),
            "versions": {each.number: dict(each.tags) for each in registry.tagged({})},
            "runs": {run.info.run_id: (run.info.status, run.data.tags) for run in runs},
        }


def stored_file(config: LineConfig, name: str) -> Path:
    (path,) = (config.root / "mlartifacts").rglob(name)
    return path


def test_a_copy_is_the_whole_version(project: Project, production: str, tmp_path: Path) -> None:
    config, _ = project
    before = everything_in(config, None)
    result = copy_version(config, target=production, by="release engineer")
    assert (result.outcome, result.source_version, result.target_version) == ("copied", 1, 1)
    assert (result.source, result.target, result.alias) == ("sqlite mlflow.db", "sqlite production.db", CHALLENGER)
    assert everything_in(config, None) == before, "nothing is written to the source"

    with open_tracking(config.root) as tracking:
        source = only_version(tracking)
        wanted = files_of(tracking, source, tmp_path / "from")
        original = tracking.client.get_run(source.run_id)
        described = tracking.client.get_model_version("stlm-tiny", "1").description
    with open_tracking(config.root, production) as tracking:
        client, copied = tracking.client, only_version(tracking)
        found = files_of(tracking, copied, tmp_path / "to")
        extra = set(found) - set(wanted)
        assert {name: found[name] for name in wanted} == wanted
        assert extra == {f"run/copied/from-{source.run_id}.json"}
        record = json.loads((tmp_path / "to" / extra.pop()).read_text())
        assert record["sha256"] == wanted
        assert record["copied_by"] == "release engineer"

        run = client.get_run(copied.run_id)
        assert run.info.status == "FINISHED"
        assert (run.info.start_time, run.info.end_time) == (original.info.start_time, original.info.end_time)
        assert (run.info.run_name, run.data.params) == (original.info.run_name, original.data.params)
        assert run.data.metrics == original.data.metrics
        assert len(client.get_metric_history(copied.run_id, "distill/loss")) == CURVE_STEPS - 1
        (dataset,) = run.inputs.dataset_inputs
        assert dataset.dataset.digest == "0" * 36
        assert client.get_model_version("stlm-tiny", "1").description == described
    told = {
        "copied_from": "sqlite mlflow.db",
        "copied_version": "1",
        "copied_run_id": source.run_id,
        "copied_by": "release engineer",
    }
    assert told.items() <= copied.tags.items()
    facts = {name: value for name, value in source.tags.items() if not name.startswith(("promot", "replaces"))}
    assert facts.items() <= copied.tags.items()
    assert not [name for name in copied.tags if name.startswith(("promot", "replaces"))], "not decided here yet"


def test_the_copy_answers_and_can_be_promoted(
    project: Project, production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    config, _ = project
    copy_version(config, target=production)
    with open_tracking(config.root, production):
        model = mlflow.pyfunc.load_model("models:/stlm-tiny@challenger")
        assert model.predict({"image": np.full((1, 6, 5, 3), 255, np.uint8)})["score"].tolist() == [1.0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", production)
    assert promote(config).outcome == "promoted"
    assert everything_in(config, production)["aliases"] == {CHAMPION: 1}


def test_a_file_is_copied_once_and_what_was_decided_there_stays(project: Project, production: str) -> None:
    config, _ = project
    copy_version(config, target=production)
    before = everything_in(config, production)
    again = copy_version(config, target=production)
    assert (again.outcome, again.alias) == ("already", CHALLENGER)
    assert everything_in(config, production) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", production)
        promote(config)
    assert copy_version(config, target=production).alias == CHAMPION
    new_version(project, "r2")
    promote(config)
    assert copy_version(config, target=production).target_version == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", production)
        reject(config, reason="not during the audit")
    assert copy_version(config, target=production).alias == "", "a person has said no"
    assert everything_in(config, production)["aliases"] == {CHAMPION: 1}


def test_a_version_goes_on_to_a_third_registry_and_back_it_is_known(project: Project, production: str) -> None:
    config, _ = project
    copy_version(config, target=production)
    third = f"sqlite:///{config.root.parent}/third.db"
    onward = copy_version(config, source=production, target=third, alias=CHALLENGER)
    assert (onward.outcome, onward.source) == ("copied", "sqlite production.db")
    back = copy_version(config, source=third, alias=CHALLENGER)
    assert (back.outcome, back.target_version, back.alias) == ("already", 1, CHAMPION)


def test_that_a_version_was_rolled_back_goes_with_it(
    project: Project, production: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = project
    new_version(project, "r2")
    promote(config)
    rollback(config, reason="scratches missed")
    assert copy_version(config, target=production, number=2).outcome == "copied"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", production)
    result = promote(config)
    assert result.outcome == "kept"
    assert any("rolled back" in reason for reason in result.reasons)


@pytest.mark.parametrize("name", ["model.onnx", "MLmodel", "report.html", "evidence.npz"])
def test_a_file_that_was_changed_in_the_source_is_refused(project: Project, production: str, name: str) -> None:
    config, _ = project
    for path in (config.root / "mlartifacts").rglob(name):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(StlmError, match=r"stlm-tiny version 1 in sqlite mlflow\.db") as told:
        copy_version(config, target=production)
    assert name in str(told.value)
    assert str(config.root) not in str(told.value)
    assert everything_in(config, production) == {"aliases": {}, "versions": {}, "runs": {}}


@pytest.mark.parametrize("name", ["model.onnx", "report.html"])
def test_a_file_that_is_gone_from_the_source_is_named(project: Project, production: str, name: str) -> None:
    config, _ = project
    stored_file(config, name).unlink()
    with pytest.raises(StlmError, match=r"version 1 in sqlite mlflow\.db"):
        copy_version(config, target=production)
    assert everything_in(config, production)["versions"] == {}


def test_a_list_of_files_that_was_cut_is_refused(project: Project, production: str) -> None:
    config, _ = project
    for path in (config.root / "mlartifacts").rglob("hashes.json"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StlmError, match=r"model file hashes\.json is damaged"):
        copy_version(config, target=production)


def test_a_file_that_was_put_beside_the_model_is_refused(project: Project, production: str) -> None:
    config, _ = project
    (stored_file(config, "model.onnx").parent / "extra.py").write_text("print('gotcha')")
    with pytest.raises(StlmError, match=r"model file extra\.py is none of those that were registered"):
        copy_version(config, target=production)


def test_where_a_key_is_set_only_signed_models_are_copied(
    project: Project, production: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = project
    private, public = make_keys(tmp_path / "keys")
    monkeypatch.setenv(VERIFY_KEY, str(public))
    with pytest.raises(StlmError, match="not signed"):
        copy_version(config, target=production)
    monkeypatch.setenv(SIGNING_KEY, str(private))
    register(*project)
    assert copy_version(config, target=production).outcome == "copied"
    assert everything_in(config, production)["versions"][1]["onnx_signature"]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_writes_a_copy_is_completed(
    project: Project, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    config, _ = project
    digest = everything_in(config, None)["versions"][1]["onnx_sha256"]
    known_to_be_dead(monkeypatch)
    for writes in range(1, 100):
        root = tmp_path / f"target-{writes}"
        root.mkdir()
        shutil.copy(empty_database, root / "mlflow.db")
        target = f"sqlite:///{root / 'mlflow.db'}"
        with pytest.MonkeyPatch.context() as patch:
            left = die_at_write(patch, "registry_copy", writes, after=after)
            with contextlib.suppress(Killed):
                copy_version(config, target=target)
        repaired = copy_version(config, target=target)
        assert (repaired.target_version, repaired.alias) == (1, CHALLENGER), f"write {writes}"
        found = everything_in(config, target)
        assert [tags["onnx_sha256"] for tags in found["versions"].values()] == [digest], "one version a file"
        ended = [status for status, _ in found["runs"].values()]
        assert ended.count("FINISHED") == 1, f"write {writes}"
        assert set(ended) <= {"FINISHED", "KILLED"}
        with open_tracking(config.root, target) as tracking:
            kept = only_version(tracking)
            assert tracking.client.get_run(kept.run_id).info.status == "FINISHED"
            assert "stlm.model_id" in tracking.client.get_run(kept.run_id).data.tags
        shutil.rmtree(root)
        if left[0] > 0:
            break
    assert writes > 12, "every write was a place to die"


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
from dying_client import die_at_write
from stlm_core.config import load_line
from stlm_core.steps.registry_copy import copy_version

die = lambda: os.kill(os.getpid(), signal.SIGKILL)
with pytest.MonkeyPatch.context() as patch:
    die_at_write(patch, "registry_copy", int(sys.argv[3]), die=die)
    copy_version(load_line(Path(sys.argv[1]), "tiny"), target=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("writes", [8, 19])
def test_a_killed_process_holds_nobody_up(project: Project, production: str, writes: int) -> None:
    """With SIGKILL for real, in the middle of the upload and at the end, where the registry is locked."""
    config, _ = project
    command = [sys.executable, "-c", KILLED, str(config.root / "params.yaml"), production, str(writes)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    result = copy_version(config, target=production)
    assert (result.target_version, result.alias) == (1, CHALLENGER)


def test_mistakes_are_named(project: Project, production: str, tmp_path: Path) -> None:
    config, _ = project
    with pytest.raises(UserError, match="same registry; give --from or --to"):
        copy_version(config)
    with pytest.raises(UserError, match="same registry"):
        copy_version(config, target=f"sqlite:///{config.root / 'mlflow.db'}")
    with pytest.raises(UserError, match=r"line tiny: no `champion` in sqlite production\.db"):
        copy_version(config, source=production)
    with pytest.raises(UserError, match=r"line tiny: no version 7 in sqlite mlflow\.db"):
        copy_version(config, target=production, number=7)
    with pytest.raises(UserError, match="there is no database"):
        copy_version(config, source=f"sqlite:///{tmp_path / 'absent.db'}")
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 does not answer") as told:
        copy_version(config, target="http://robot:hidden@127.0.0.1:9")
    assert "hidden" not in str(told.value)


@pytest.mark.slow
def test_into_a_server_and_out_of_it(project: Project, production: str, tmp_path: Path) -> None:
    config, _ = project
    params = ["--line", "tiny", "--params", str(config.root / "params.yaml")]
    with mlflow_server(tmp_path / "server") as address:
        # The server asks for no password, and must not see it in what it keeps.
        secret = address.replace("://", "://robot:hidden@")
        done = CliRunner().invoke(app, ["copy", *params, "--by", "ci"], env={"STLM_COPY_TO": secret})
        told = f"copy tiny: version 1 of sqlite mlflow.db copied as version 1 of {address}, challenger\n"
        assert (done.exit_code, done.output) == (0, told)
        again = CliRunner().invoke(app, ["copy", *params, "--to", address])
        assert "is there already as version 1" in again.output
        found = everything_in(config, address)
        assert "hidden" not in json.dumps(found)
        out = copy_version(config, source=secret, target=production, alias=CHALLENGER)
        assert (out.outcome, out.source) == ("copied", address)
        assert "hidden" not in json.dumps(everything_in(config, production))
        with open_tracking(config.root, production) as tracking:
            through = files_of(tracking, only_version(tracking), tmp_path / "through")
    with open_tracking(config.root) as tracking:
        assert files_of(tracking, only_version(tracking), tmp_path / "from").items() <= through.items()
    content = "".join(path.read_text() for path in (tmp_path / "through").rglob("from-*.json"))
    assert "hidden" not in content
