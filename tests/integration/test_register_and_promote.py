"""Registration, promotion and rollback against a real MLflow on SQLite."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying_client import Killed, die_at_write, known_to_be_dead
from evidence_data import evidence
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from registry_project import CURVE_STEPS, make_project, write_export
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import LineConfig
from stlm_core.data.drift import reference_path
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrations import mlflow_run
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, registry_lock
from stlm_core.steps.promote import promote, reject, rollback
from stlm_core.steps.register import register
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LineConfig, Workspace]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return make_project(tmp_path)


@pytest.fixture
def tracking(project: tuple[LineConfig, Workspace]) -> Iterator[Tracking]:
    with open_tracking(project[0].root) as opened:
        yield opened


def _record(workspace: Workspace) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((workspace.folder("register") / "registration.json").read_text())
    return value


def _register(project: tuple[LineConfig, Workspace], revision: str, **metrics: Any) -> int:
    write_export(project[1], revision=revision, **metrics)
    register(*project)
    return int(_record(project[1])["version"])


def _challenge(project: tuple[LineConfig, Workspace], **metrics: Any) -> None:
    """A champion, version 1, and a challenger, version 2, with these figures."""
    _register(project, "r1")
    promote(project[0])
    _register(project, "r2", **metrics)


def _aliases(config: LineConfig) -> dict[str, int]:
    with open_tracking(config.root) as opened:
        return Registry(opened, config.name).aliases()


def test_a_registration_holds_everything(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, workspace = project
    digest = write_export(workspace, revision="r1")
    result = register(config, workspace)
    assert "stlm-tiny version 1 registered, challenger (sqlite mlflow.db)" in result.summary
    record = _record(workspace)
    assert record["version"] == 1
    assert record["model_uri"] == "models:/stlm-tiny/1"
    assert str(config.root) not in json.dumps(record)

    run = tracking.client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["data.path"] == "data/tiny"
    assert run.data.params["fa.optimiser.lr"] == "0.0005"
    assert run.data.params["teacher.weights"] == "https://example.com/weights.pth"
    assert not any("secret" in value or str(config.root) in value for value in run.data.params.values())
    assert run.data.metrics["image_auroc"] == 0.95
    assert run.data.metrics["latency_p95_ms"] == 13.25
    curve = tracking.client.get_metric_history(record["run_id"], "distill/loss")
    assert [(point.step, point.value) for point in curve][:2] == [(1, 1.0), (2, 0.5)]
    assert len(curve) == CURVE_STEPS - 1
    assert [point.step for point in tracking.client.get_metric_history(record["run_id"], "fa/loss")] == [10, 30]
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "tiny"
    assert dataset.dataset.digest == "0" * 36
    assert json.loads(dataset.dataset.profile)["sha256"] == "0" * 64
    files = {entry.path for entry in tracking.client.list_artifacts(record["run_id"])}
    assert {"report.html", "figures", "export", "validation"} <= files
    exported = {entry.path for entry in tracking.client.list_artifacts(record["run_id"], "export")}
    assert {"export/model_card.md", "export/model_card.html"} <= exported

    registry = Registry(tracking, "tiny")
    version = registry.at(CHALLENGER)
    assert version is not None
    assert version.tags["onnx_sha256"] == digest
    assert version.tags["dataset_sha256"] == "0" * 64
    assert version.tags["code_version"] == "r1"
    assert version.tags["image_auroc"] == "0.95"
    assert version.tags["parity_passed"] == "true"
    described = tracking.client.get_model_version("stlm-tiny", str(version.number)).description
    assert described == "# Card of r1\n"


def test_the_registered_model_is_the_proven_file_and_answers(
    project: tuple[LineConfig, Workspace], tracking: Tracking, tmp_path: Path
) -> None:
    import mlflow

    digest = write_export(project[1], revision="r1")
    register(*project)
    folder = Path(mlflow.artifacts.download_artifacts("models:/stlm-tiny@challenger", dst_path=str(tmp_path / "copy")))
    assert [path.name for path in folder.glob("*.onnx*")] == ["model.onnx"]
    assert not list(folder.glob("*.data"))
    assert sha256_bytes((folder / "model.onnx").read_bytes()) == digest
    model = mlflow.pyfunc.load_model(str(folder))
    answer = model.predict({"image": np.full((2, 6, 5, 3), 255, np.uint8)})
    assert answer["score"].tolist() == [1.0, 1.0]
    assert answer["is_anomalous"].tolist() == [True, True]


def test_the_same_export_is_the_same_version(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project
    assert _register(project, "r1") == 1
    again = register(config, workspace)
    assert again.reused
    forced = register(config, workspace, force=True)
    assert not forced.reused
    assert "version 1 was registered already" in forced.summary
    assert _register(project, "r2") == 2
    assert _aliases(config) == {CHALLENGER: 2}
    assert _register(project, "r1") == 1, "an older export offered again is its own version"
    assert _aliases(config) == {CHALLENGER: 1}


@pytest.mark.parametrize(
    ("experiment", "folder"),
    [
        ("caps", "caps"),
        ("teams/vision", "teams/vision"),
        ("/teams/vision", "teams/vision"),
        ("../../vision", "vision"),
        ("/", ""),
    ],
)
def test_the_files_of_an_experiment_stay_in_the_project(tracking: Tracking, experiment: str, folder: str) -> None:
    made = tracking.client.get_experiment(mlflow_run.experiment_of(tracking, experiment))
    assert made.name == experiment
    assert tracking.artifact_root is not None
    assert made.artifact_location == (tracking.artifact_root / folder).as_uri()


def test_a_version_that_vanished_from_the_server_is_registered_again(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, workspace = project
    assert _register(project, "r1") == 1
    tracking.client.delete_registered_model("stlm-tiny")
    result = register(config, workspace)
    assert not result.reused
    assert Registry(tracking, "tiny").at(CHALLENGER) is not None


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_writes_a_registration_is_completed(
    project: tuple[LineConfig, Workspace], tracking: Tracking, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    known_to_be_dead(monkeypatch)
    config, workspace = project
    registry = Registry(tracking, "tiny")
    completed = 0
    for writes in range(1, 100):
        digest = write_export(workspace, revision=f"r{writes}")
        with pytest.MonkeyPatch.context() as patch:
            die_at_write(patch, "register", writes, after=after)
            try:
                register(config, workspace)
                completed = writes
            except Killed:
                pass
        register(config, workspace)
        version = registry.at(CHALLENGER)
        assert version is not None
        assert version.tags["onnx_sha256"] == digest, f"write {writes}"
        assert version.number == writes, "exactly one version an export"
        run = tracking.client.get_run(version.run_id)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["fa/loss"] == 0.25
        assert run.data.metrics["parity_max_abs_map"] == 2e-7
        if completed:
            break
    assert completed > 15, "every write was a place to die"
    runs = tracking.client.search_runs([tracking.client.get_experiment_by_name("stlm-tiny").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
    assert all(run.data.tags[mlflow_run.SUPERSEDED_TAG] for run in runs if run.info.status == "KILLED")


def test_the_first_champion_is_gated_and_promoted(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, _ = project
    _register(project, "r1")
    plan = promote(config, dry_run=True)
    assert (plan.outcome, plan.dry_run) == ("promoted", True)
    assert _aliases(config) == {CHALLENGER: 1}
    done = promote(config, by="quality engineer")
    assert (done.outcome, done.champion, done.previous) == ("promoted", 1, None)
    assert _aliases(config) == {CHAMPION: 1}
    version = Registry(tracking, "tiny").at(CHAMPION)
    assert version is not None
    assert version.tags["promoted_by"] == "quality engineer"
    assert "image AUROC 0.9500 is at least the floor 0.8000" in version.tags["promotion_reason"]
    assert version.tags["replaces"] == ""
    assert version.tags["promoted_at"].endswith("+00:00")
    again = promote(config)
    assert (again.outcome, again.champion) == ("already", 1)


def test_the_champions_training_statistics_are_kept_for_the_validation(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    reference = reference_path(config)
    _register(project, "r1")
    promote(config, dry_run=True)
    assert not reference.exists()
    promote(config)
    assert json.loads(reference.read_text()) == {"of": "r1"}
    reference.unlink()
    promote(config)  # nothing is waiting, and what is missing is made good
    assert json.loads(reference.read_text()) == {"of": "r1"}
    _register(project, "r2")
    promote(config)
    assert json.loads(reference.read_text()) == {"of": "r2"}
    rollback(config)
    assert json.loads(reference.read_text()) == {"of": "r1"}


def test_no_statistics_are_kept_of_a_champion_that_has_none(
    project: tuple[LineConfig, Workspace], tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = project
    _challenge(project)
    monkeypatch.setattr("stlm_core.steps.promotion_records.STATISTICS_ARTIFACT", "validation/of_an_older_version.json")
    promote(config)
    assert not reference_path(config).exists()


def test_a_reference_that_cannot_be_written_does_not_undo_the_promotion(
    project: tuple[LineConfig, Workspace], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = project
    _register(project, "r1")
    (config.root / "data").write_text("in the way")
    assert promote(config).outcome == "promoted"
    assert "reference.json: cannot be written" in capsys.readouterr().err
    assert _aliases(config) == {CHAMPION: 1}


def test_a_store_of_files_that_fails_undoes_no_decision(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = project
    for revision in ("r1", "r2"):
        _register(project, revision)
        promote(config)
    _register(project, "r3")

    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("API request to http://me:p@ss@host/artifacts failed with 503")

    fetch = MlflowClient.list_artifacts
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        patch.setattr(
            MlflowClient,
            "list_artifacts",
            lambda client, run, path=None: refuse() if path == "validation" else fetch(client, run, path),
        )
        assert promote(config).outcome == "promoted"
        told = capsys.readouterr().err
        assert "warning: the decision could not be put among the run's files" in told
        assert "validation/statistics.json of MLflow run" in told
        assert "drift is measured against the model before" in told
        assert "p@ss" not in told
        assert rollback(config).champion == 2
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}


def test_a_champion_whose_files_are_lost_does_not_keep_its_successor_out(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, tracking: Tracking
) -> None:
    config, _ = project
    _challenge(project)
    champion = Registry(tracking, "tiny").at(CHAMPION)
    assert champion is not None
    fetch = MlflowClient.download_artifacts

    def lost(client: MlflowClient, run_id: str, path: str, destination: str | None = None) -> str:
        if run_id == champion.run_id:
            raise MlflowException("The following failures occurred while downloading: 404")
        return fetch(client, run_id, path, destination)

    monkeypatch.setattr(MlflowClient, "download_artifacts", lost)
    result = promote(config)
    assert result.outcome == "promoted"  # by the figures, on the same test images
    assert result.decision is not None
    assert any("cannot be fetched" in warning and "not used" in warning for warning in result.decision.warnings)


def test_a_rejected_version_does_not_come_back_from_another_checkout(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, workspace = project
    _challenge(project)
    reject(config, reason="finds fewer dents")
    shutil.rmtree(workspace.folder("register"))
    result = register(config, workspace)
    assert "version 2 was registered already and rejected: finds fewer dents" in result.summary
    assert _record(workspace)["alias"] == ""
    assert _aliases(config) == {CHAMPION: 1}
    assert "version 2 was registered already, challenger" in register(config, workspace, force=True).summary
    assert _aliases(config) == {CHAMPION: 1, CHALLENGER: 2}
    again = Registry(tracking, "tiny").version(2)
    assert again is not None
    assert "rejected_at" not in again.tags


def test_a_mere_rerun_proposes_nothing_again(project: tuple[LineConfig, Workspace], tmp_path: Path) -> None:
    """The step runs again when the validation's report has changed; meanwhile another checkout has gone on."""
    config, workspace = project
    _register(project, "r1")
    promote(config)
    folder = workspace.folder("register")
    shutil.copytree(folder, tmp_path / "of r1")
    _register(project, "r2")
    promote(config)
    write_export(workspace, revision="r1")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "of r1", folder)
    (workspace.folder("validate") / "validation.json").write_text('{"success": true, "later": true}')
    result = register(config, workspace)
    assert not result.reused
    assert "version 1 was registered already; it was proposed before" in result.summary
    assert _record(workspace)["alias"] == ""
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}
    assert "challenger" in register(config, workspace, force=True).summary
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1, CHALLENGER: 1}


def test_a_withdrawn_version_does_not_come_back_by_itself(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project
    _challenge(project)
    promote(config)
    rollback(config, reason="too many rejects")
    shutil.rmtree(workspace.folder("register"))
    result = register(config, workspace)
    assert "version 2 was registered already and withdrawn: too many rejects" in result.summary
    assert _aliases(config) == {CHAMPION: 1}


def test_a_reason_is_kept_with_what_it_promoted(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, _ = project
    _register(project, "r1")
    assert promote(config, reason="agreed with quality, ticket 4711").outcome == "promoted"
    version = Registry(tracking, "tiny").at(CHAMPION)
    assert version is not None
    assert version.tags["promotion_reason"].startswith("agreed with quality, ticket 4711")


def test_what_is_proposed_anew_has_no_verdict_yet(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, workspace = project
    _challenge(project, recall_at_budget=0.2)
    assert promote(config).outcome == "kept"
    register(config, workspace, force=True)
    version = Registry(tracking, "tiny").at(CHALLENGER)
    assert version is not None
    assert not {"kept_at", "kept_reason"} & set(version.tags)


def test_a_worse_challenger_is_kept_back_with_its_reasons(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    _challenge(project, recall_at_budget=0.2)
    result = promote(config)
    assert (result.outcome, result.champion, result.challenger) == ("kept", 1, 2)
    assert result.reasons[0].startswith("recall at the budget 0.2000 against 0.7000 of champion 1: worse by 0.5000")
    registry = Registry(tracking, "tiny")
    judged = registry.version(2)
    assert judged is not None
    (kept,) = tracking.client.list_artifacts(judged.run_id, "promotion")
    decided = registry.run_json(judged.run_id, kept.path)
    assert decided is not None
    assert (decided["outcome"], decided["rules"]["outcome"]) == ("kept", "keep")
    assert decided["reasons"] == list(result.reasons)
    assert _aliases(config) == {CHAMPION: 1, CHALLENGER: 2}
    version = Registry(tracking, "tiny").version(2)
    assert version is not None
    assert "worse by 0.5000" in version.tags["kept_reason"]
    with pytest.raises(UserError, match="--force needs --reason"):
        promote(config, force=True)
    forced = promote(config, force=True, reason="new camera")
    assert (forced.outcome, forced.champion, forced.previous) == ("promoted", 2, 1)
    assert forced.reasons[0] == "forced: new camera"
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}


def test_what_the_rules_cannot_judge_waits_for_a_person_who_says_yes_or_no(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    registry = Registry(tracking, "tiny")
    _challenge(project, recall_at_budget=0.65)  # one defect of twenty less
    result = promote(config)
    assert (result.outcome, result.champion, result.challenger) == ("needs-human", 1, 2)
    assert "too uncertain for the margin 0.0300" in result.reasons[0]
    waiting = registry.version(2)
    assert waiting is not None
    assert {"needs_human_at", "needs_human_reason"} <= set(waiting.tags)
    assert _aliases(config) == {CHAMPION: 1, CHALLENGER: 2}
    with pytest.raises(UserError, match="--reason: say why"):
        reject(config, reason=" ")
    assert reject(config, reason="finds fewer dents", by="quality engineer") == 2
    rejected = registry.version(2)
    assert rejected is not None
    assert rejected.tags["rejected_reason"] == "finds fewer dents"
    assert _aliases(config) == {CHAMPION: 1}
    assert promote(config).outcome == "already"
    with pytest.raises(UserError, match="no challenger"):
        reject(config, reason="again")
    assert register(config, project[1]).reused  # once rejected, the same file does not come back by itself
    assert promote(config).outcome == "already"
    register(config, project[1], force=True)
    assert promote(config, force=True, reason="looked at all of them").outcome == "promoted"
    promoted = registry.version(2)
    assert promoted is not None
    assert not {"needs_human_at", "rejected_at", "kept_at"} & set(promoted.tags)


def test_a_champion_of_other_test_images_waits_for_a_person_or_for_the_images(
    project: tuple[LineConfig, Workspace],
) -> None:
    config, workspace = project
    _register(project, "r1")
    promote(config)
    write_export(workspace, revision="r2")
    others = [f"other {index}.png" for index in range(40)]
    found = evidence([0.1] * 20 + [0.9] * 20, ["good"] * 20 + ["dent"] * 20, names=others)
    found.save(workspace.folder("evaluate") / "evidence.npz")
    register(config, workspace)
    result = promote(config)
    assert result.outcome == "needs-human"
    assert result.reasons[0].startswith("only 0 good and 0 defective test images have been seen by both versions")


def test_a_failed_or_missing_proof_is_never_promoted(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, _ = project
    _register(project, "r1", parity=False)
    assert "the parity proof failed" in promote(config).reasons
    _register(project, "r2")
    version = Registry(tracking, "tiny").version(2)
    assert version is not None
    proof = (
        Path(tracking.client.get_run(version.run_id).info.artifact_uri.removeprefix("file://")) / "export/parity.json"
    )
    proof.write_text(json.dumps({"passed": True, "onnx_sha256": "0" * 64}))
    assert "there is no parity proof of exactly this file" in promote(config).reasons
    proof.unlink()
    assert "there is no parity proof of exactly this file" in promote(config).reasons


def test_rollback_walks_back_and_the_gate_remembers(project: tuple[LineConfig, Workspace], tracking: Tracking) -> None:
    config, workspace = project
    for revision in ("r1", "r2", "r3"):
        _register(project, revision)
        promote(config)
    assert _aliases(config) == {CHAMPION: 3, PREVIOUS: 2}
    assert rollback(config, dry_run=True).champion == 2
    assert _aliases(config) == {CHAMPION: 3, PREVIOUS: 2}
    first = rollback(config, reason="too many rejects", by="shift lead")
    assert (first.champion, first.withdrawn, first.previous) == (2, 3, 1)
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}
    second = rollback(config)
    assert (second.champion, second.withdrawn, second.previous) == (1, 2, None)
    assert _aliases(config) == {CHAMPION: 1}
    with pytest.raises(UserError, match="champion version 1 has no previous one"):
        rollback(config)
    register(config, workspace, force=True)
    refused = promote(config)
    assert refused.outcome == "kept"
    assert any("version 3 was rolled back before" in reason and "shift lead" in reason for reason in refused.reasons)
    promote(config, force=True, reason="fixed the light")
    version = Registry(tracking, "tiny").at(CHAMPION)
    assert version is not None
    assert version.number == 3
    assert "rollback_reason" not in version.tags
    assert _aliases(config) == {CHAMPION: 3, PREVIOUS: 1}


def test_rollback_does_not_go_round_in_a_circle(project: tuple[LineConfig, Workspace]) -> None:
    config, _ = project
    for revision in ("r1", "r2", "r1"):  # the settings are reverted: the same file as at first
        _register(project, revision)
        promote(config)
    assert _aliases(config) == {CHAMPION: 1, PREVIOUS: 2}
    back = rollback(config)
    assert (back.champion, back.withdrawn, back.previous) == (2, 1, None)
    assert _aliases(config) == {CHAMPION: 2}
    with pytest.raises(UserError, match="or only such as were withdrawn"):
        rollback(config)


def _lose_the_champion(config: LineConfig) -> None:
    """Somebody deletes its version on the server; MLflow drops the alias with it."""
    with open_tracking(config.root) as opened:
        opened.client.delete_model_version("stlm-tiny", str(Registry(opened, "tiny").aliases()[CHAMPION]))


def _promote_each(project: tuple[LineConfig, Workspace], *revisions: str) -> None:
    for revision in revisions:
        _register(project, revision)
        assert promote(project[0]).outcome == "promoted"


def test_rollback_brings_the_previous_version_back_when_the_champion_was_deleted(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    _promote_each(project, "r1", "r2", "r3")
    _lose_the_champion(config)
    assert _aliases(config) == {PREVIOUS: 2}
    for dry_run in (True, False):
        with pytest.raises(
            UserError, match=r"`stlm register` first, or `stlm rollback --line tiny` to .* version 2 back"
        ):
            promote(config, dry_run=dry_run)
    plan = rollback(config, dry_run=True)
    assert (plan.champion, plan.withdrawn, plan.previous) == (2, None, 1)
    assert _aliases(config) == {PREVIOUS: 2}
    done = CliRunner().invoke(app, ["rollback", "--line", "tiny", "--params", str(config.root / "params.yaml")])
    assert done.output == "rollback tiny: version 2 is champion again, nothing was in service\n"
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}
    assert json.loads(reference_path(config).read_text()) == {"of": "r2"}
    back = Registry(tracking, "tiny").at(CHAMPION)
    assert back is not None
    assert "rolled_back_at" not in back.tags
    assert rollback(config).champion == 1


def test_rollback_brings_no_withdrawn_version_back_when_the_champion_was_deleted(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    _promote_each(project, "r1", "r2")
    Registry(tracking, "tiny").tag(1, {"rolled_back_at": "2026-01-01T00:00:00+00:00"})
    _lose_the_champion(config)
    with pytest.raises(UserError, match="nothing is in service, and there is no previous one to go back to, or only"):
        rollback(config)
    with pytest.raises(UserError, match=r"run `stlm register` first$"):
        promote(config)
    assert _aliases(config) == {PREVIOUS: 1}


def test_a_promotion_after_the_champion_was_deleted_keeps_the_way_back(
    project: tuple[LineConfig, Workspace], tracking: Tracking
) -> None:
    config, _ = project
    _promote_each(project, "r1", "r2")
    _lose_the_champion(config)
    _register(project, "r3")
    assert promote(config, dry_run=True).previous == 1
    assert promote(config).previous == 1
    version = Registry(tracking, "tiny").at(CHAMPION)
    assert version is not None
    assert version.tags["replaces"] == "1"
    assert _aliases(config) == {CHAMPION: version.number, PREVIOUS: 1}
    assert rollback(config).champion == 1


def test_the_previous_version_promoted_after_the_champion_was_deleted_does_not_replace_itself(
    project: tuple[LineConfig, Workspace],
) -> None:
    config, _ = project
    _promote_each(project, "r1", "r2", "r3")
    _lose_the_champion(config)
    assert _register(project, "r2") == 2
    assert _aliases(config) == {CHALLENGER: 2, PREVIOUS: 2}
    assert promote(config).previous == 1
    assert _aliases(config) == {CHAMPION: 2, PREVIOUS: 1}


def test_the_champion_registered_again_does_not_challenge_itself(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project
    _register(project, "r1")
    promote(config)
    result = register(config, workspace, force=True)
    assert "was registered already, champion" in result.summary
    assert _aliases(config) == {CHAMPION: 1}


def _promote_killed(config: LineConfig, command: str, writes: int, *, after: bool) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        die_at_write(patch, "promote", writes, after=after)
        try:
            (promote if command == "promote" else rollback)(config)
        except Killed:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_writes_a_promotion_is_completed(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    known_to_be_dead(monkeypatch)
    config, _ = project
    champion = _register(project, "r0")
    promote(config)
    gaps = 0
    for writes in range(1, 30):
        challenger = _register(project, f"r{writes}")
        killed = _promote_killed(config, "promote", writes, after=after)
        between = _aliases(config)
        assert between[CHAMPION] in (champion, challenger)
        promote(config)
        assert _aliases(config) == {CHAMPION: challenger, PREVIOUS: champion}, f"write {writes}"
        champion = challenger
        gaps += killed
        if not killed:
            break
    assert gaps >= 6


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_writes_a_rollback_is_completed(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    known_to_be_dead(monkeypatch)
    config, _ = project
    _register(project, "a")
    promote(config)
    gaps = 0
    for writes in range(1, 30):
        before = _aliases(config)[CHAMPION]
        newest = _register(project, f"r{writes}")
        assert promote(config).outcome == "promoted"
        killed = _promote_killed(config, "rollback", writes, after=after)
        if _aliases(config)[CHAMPION] == newest:
            rollback(config)
        promote(config)
        aliases = _aliases(config)
        assert aliases[CHAMPION] == before, f"write {writes}"
        assert aliases.get(PREVIOUS) != before
        gaps += killed
        if not killed:
            break
    assert gaps >= 4


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_writes_a_rollback_without_a_champion_is_completed(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    known_to_be_dead(monkeypatch)
    config, _ = project
    _promote_each(project, "a")
    gaps = 0
    for writes in range(1, 30):
        back = _aliases(config)[CHAMPION]
        _promote_each(project, f"b{writes}")
        _lose_the_champion(config)
        killed = _promote_killed(config, "rollback", writes, after=after)
        if CHAMPION not in _aliases(config):
            rollback(config)
        promote(config)
        aliases = _aliases(config)
        assert aliases[CHAMPION] == back, f"write {writes}"
        assert aliases.get(PREVIOUS) != back
        gaps += killed
        if not killed:
            break
    assert gaps >= 3


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["a new version", "the previous version"])
def test_killed_between_any_two_writes_a_promotion_without_a_champion_is_completed(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch, after: bool, again: bool
) -> None:
    known_to_be_dead(monkeypatch)
    config, _ = project
    gaps = 0
    for writes in range(1, 30):
        _promote_each(project, *(f"{name}{writes}" for name in "abc"))
        previous = _aliases(config)[PREVIOUS]
        _lose_the_champion(config)
        challenger = _register(project, f"b{writes}" if again else f"d{writes}")
        killed = _promote_killed(config, "promote", writes, after=after)
        promote(config)
        before = previous - 1 if again else previous
        assert _aliases(config) == {CHAMPION: challenger, PREVIOUS: before}, f"write {writes}"
        gaps += killed
        if not killed:
            break
    assert gaps >= 6


def test_two_commands_on_one_line_at_once(project: tuple[LineConfig, Workspace]) -> None:
    config, _ = project
    _register(project, "r1")
    with registry_lock(config.root, "tiny"):
        with pytest.raises(UserError, match="another register, promote or rollback is running"):
            promote(config)
        with registry_lock(config.root, "other"):
            pass
    assert promote(config).outcome == "promoted"


def test_nothing_registered_is_a_clear_error(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project
    with pytest.raises(UserError, match=r"line tiny: no challenger in sqlite mlflow\.db; run `stlm register` first$"):
        promote(config)
    with pytest.raises(UserError, match="nothing is in service"):
        rollback(config)
    with pytest.raises(UserError, match="run `stlm export --line tiny` first"):
        register(config, workspace)


def test_a_damaged_curve_is_named(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project
    write_export(workspace, revision="r1")
    curve = workspace.folder("distill") / "curve.csv"
    curve.write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(UserError, match=r"curve\.csv: line 2: no whole number in a column `step`"):
        register(config, workspace)
    curve.write_text("step,loss\n1,0.5\n")
    register(config, workspace)
    assert _aliases(config) == {CHALLENGER: 1}


def test_the_environment_is_left_as_it_was(
    project: tuple[LineConfig, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with open_tracking(project[0].root):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert mlflow.get_tracking_uri() == f"sqlite:///{project[0].root / 'mlflow.db'}"
    assert dict(os.environ) == before


def test_the_commands_tell_what_they_did_and_end_with_its_code(project: tuple[LineConfig, Workspace]) -> None:
    config, workspace = project

    def stlm(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments, "--params", str(config.root / "params.yaml")])
        return done.exit_code, done.output

    outputs = ("--outputs", str(config.root / "outputs"))
    write_export(workspace, revision="r1")
    assert stlm("register", "--line", "tiny", *outputs)[1].startswith("register tiny: stlm-tiny version 1 registered")
    assert "version 1 would be champion" in stlm("promote", "--line", "tiny", "--dry-run")[1]
    code, text = stlm("promote", "--line", "tiny")
    assert (code, text.splitlines()[0]) == (0, "promote tiny: version 1 is champion")
    assert "  - image AUROC 0.9500 is at least the floor 0.8000" in text
    assert stlm("promote", "--line", "tiny") == (0, "promote tiny: version 1 is champion already\n")
    write_export(workspace, revision="r2", recall_at_budget=0.65)
    stlm("register", "--line", "tiny", *outputs)
    code, text = stlm("promote", "--line", "tiny")
    assert code == 4
    assert text.startswith(
        "promote tiny: version 2 waits for a person, champion 1 stays\n  - recall at the budget 0.65"
    )
    assert 'yes: `stlm promote --line tiny --force --reason "..."`; no: `stlm reject' in text
    write_export(workspace, revision="r3", recall_at_budget=0.1)
    stlm("register", "--line", "tiny", *outputs)
    code, text = stlm("promote", "--line", "tiny")
    assert code == 3
    assert text.startswith("promote tiny: version 3 is kept back, champion 1 stays\n  - recall at the budget 0.1000")
    assert stlm("reject", "--line", "tiny", "--reason", "no") == (0, "reject tiny: version 3 waits no longer\n")
    write_export(workspace, revision="r4", image_auroc=0.5)
    stlm("register", "--line", "tiny", *outputs)
    code, text = stlm("promote", "--line", "tiny", "--force", "--reason", "agreed with quality")
    assert (code, text.splitlines()[0]) == (0, "promote tiny: version 4 is champion, replacing version 1")
    text = stlm("status")[1]
    assert "champion" in text
    assert "0.5000" in text
    code, text = stlm("rollback", "--line", "tiny", "--reason", "scratches missed")
    assert (code, text) == (0, "rollback tiny: version 1 is champion again, version 4 withdrawn\n")
