"""Is it time to train, and how did it end: against a real MLflow on SQLite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from published import make_version, put
from registry_project import make_project, write_export
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_outcome import PIPELINE_TAG
from stlm_core.integrations.mlflow_registry import CHALLENGER, CHAMPION, Registry
from stlm_core.steps.contract import code_version
from stlm_core.steps.freshness import Freshness, check_freshness
from stlm_core.steps.outcome import RecordedOutcome, RunOutcome, record_outcome, shortened, without_credentials
from stlm_core.steps.promote import promote, reject, rollback
from stlm_core.steps.register import register
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration
Project = tuple[LineConfig, Workspace]
OLD, NEW = "a" * 32, "b" * 32


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A line whose images are published as the version ``OLD``, and nothing trained."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("STLM_DATA_URL", str(tmp_path / "shelf"))
    config, workspace = make_project(tmp_path)
    put(tmp_path / "shelf", make_version("tiny", config.data, OLD))
    return config, workspace


def trained(project: Project, *, data: str = OLD, code: str | None = None, into_service: bool = True) -> int:
    """Register a model made from the project's settings; the version's number."""
    config, workspace = project
    write_export(workspace, revision=code or code_version())
    register(config, workspace, data_revision=data)
    if into_service:
        assert promote(config).outcome == "promoted"
    return int(json.loads((workspace.folder("register") / "registration.json").read_text())["version"])


def changed(config: LineConfig, section: str, **values: Any) -> LineConfig:
    name = f"{section}_" if section in ("validate", "register") else section
    return config.model_copy(update={name: getattr(config, name).model_copy(update=values)})


def test_the_first_run_is_due(project: Project) -> None:
    config, _ = project
    found = check_freshness(config)
    assert (found.stale, found.reason, found.champion) == (True, "no version was ever registered", "")
    assert (found.data_revision, found.code_version) == (OLD, code_version())
    assert found.data == config.data.model_dump(mode="json")


def test_nothing_changed(project: Project) -> None:
    config, _ = project
    assert trained(project) == 1
    found = check_freshness(config)
    assert (found.stale, found.champion) == (False, "1")
    assert found.reason == "version 1, the champion, came from the same images, settings and code"
    forced = check_freshness(config, force=True)
    assert (forced.stale, forced.reason, forced.champion) == (True, "asked for", "1")


@pytest.mark.parametrize("section", ["register", "promote", "resources", "schedule"])
def test_what_no_model_depends_on_does_not_count(project: Project, section: str) -> None:
    config, _ = project
    trained(project)
    values = {
        "register": {"experiment": "other"},
        "promote": {"max_size_mb": 3.0},
        "resources": {"shards": 4},
        "schedule": {"cron": "0 3 * * *"},
    }
    assert not check_freshness(changed(config, section, **values[section])).stale


@pytest.mark.parametrize("section", sorted({*SECTIONS} - {"data", "register", "promote", "resources", "schedule"}))
def test_every_other_section_counts(project: Project, section: str) -> None:
    config, _ = project
    trained(project)
    name = "validate_" if section == "validate" else section
    numbers = {key: value for key, value in getattr(config, name).model_dump().items() if type(value) in (int, bool)}
    key, value = next(iter(numbers.items()))
    new = (not value) if isinstance(value, bool) else value + 1
    found = check_freshness(changed(config, section, **{key: new}))
    assert found.stale
    assert found.reason == f"the settings changed: {section}.{key} {value} -> {new}"


def test_settings_of_how_the_work_is_done_do_not_count(project: Project) -> None:
    config, _ = project
    trained(project)
    assert not check_freshness(changed(config, "fa", checkpoint_every=7)).stale
    assert not check_freshness(changed(config, "evaluate", report_images=1)).stale
    both = changed(changed(config, "fa", checkpoint_every=7), "fa", checkpoint_every=7, seed=5)
    assert check_freshness(both).reason == "the settings changed: fa.seed 0 -> 5"


def test_the_reason_names_everything_that_changed(project: Project, tmp_path: Path) -> None:
    config, _ = project
    trained(project, code="0.0.1+old")
    put(tmp_path / "shelf", make_version("tiny", config.data.model_copy(update={"seed": 7}), NEW))
    found = check_freshness(changed(config, "fa", steps=7, seed=1, batch_size=9, l1_weight=2.0, focal_gamma=1.0))
    assert found.stale
    assert found.reason == (
        "the images changed: aaaaaaaaaaaa -> bbbbbbbbbbbb; the settings changed: data.seed 0 -> 7, "
        "fa.batch_size 4 -> 9, fa.focal_gamma 4.0 -> 1.0, fa.l1_weight 1.0 -> 2.0, fa.seed 0 -> 1 and 1 more; "
        f"the code changed: 0.0.1+old -> {code_version()}"
    )
    assert found.data["seed"] == 7
    assert "hush" not in found.reason


def test_an_earlier_revision_can_be_asked_for(project: Project, tmp_path: Path) -> None:
    config, _ = project
    trained(project)
    put(tmp_path / "shelf", make_version("tiny", config.data, NEW))
    assert check_freshness(config).data_revision == NEW
    assert check_freshness(config).stale
    assert not check_freshness(config, revision=OLD).stale
    with pytest.raises(UserError, match="no such version"):
        check_freshness(config, revision="c" * 32)


def test_a_new_catalogue_is_told_as_new_images(project: Project, tmp_path: Path) -> None:
    config, _ = project
    trained(project)
    table = config.data.model_copy(update={"group_file": "data/groups.csv"})
    put(tmp_path / "shelf", make_version("tiny", table, OLD, group_file=b"path,group\n"))
    reason = check_freshness(config).reason
    assert reason.startswith("what is known of the images changed: nothing -> ")
    assert "data.group_file None -> data/groups.csv" in reason


def test_a_model_whose_images_are_not_known(project: Project) -> None:
    config, _ = project
    trained(project, data="")
    assert check_freshness(config).reason == "which images version 1 came from is not known"


def test_a_challenger_that_was_kept_back_is_not_trained_again(project: Project) -> None:
    config, workspace = project
    trained(project, code="0.0.1+old")
    write_export(workspace, revision=code_version(), image_auroc=0.5)
    register(config, workspace, data_revision=OLD)
    waiting = check_freshness(config)
    assert (waiting.stale, waiting.champion) == (True, "1")
    assert waiting.reason.endswith("but the gate has not judged it yet")
    by_hand = check_freshness(changed(config, "promote", automatic=False))
    assert (by_hand.stale, "waits for `stlm promote`" in by_hand.reason) == (False, True)

    assert promote(config).outcome == "kept"
    kept = check_freshness(config)
    assert (kept.stale, kept.champion) == (False, "1")
    assert kept.reason == "version 2 came from the same images, settings and code and the gate kept it back"
    assert check_freshness(changed(config, "fa", steps=7)).stale


def test_a_version_that_was_rolled_back_is_not_trained_again(project: Project) -> None:
    config, _ = project
    trained(project, code="0.0.1+old")
    trained(project)
    rollback(config, reason="bad")
    found = check_freshness(config)
    assert (found.stale, found.champion) == (False, "1")
    assert found.reason.startswith("version 2 came from the same images, settings and code and was rolled back")


def test_what_waits_for_a_person_or_was_rejected_is_not_trained_again(project: Project) -> None:
    config, workspace = project
    trained(project, code="0.0.1+old")
    write_export(workspace, revision=code_version(), recall_at_budget=0.65)
    register(config, workspace, data_revision=OLD)
    assert promote(config).outcome == "needs-human"
    waiting = check_freshness(config)
    assert (waiting.stale, waiting.champion) == (False, "1")
    assert waiting.reason == "version 2 came from the same images, settings and code and waits for a person"
    reject(config, reason="too many missed")
    rejected = check_freshness(config)
    assert (rejected.stale, rejected.champion) == (False, "1")
    assert rejected.reason == "version 2 came from the same images, settings and code and was rejected"
    assert check_freshness(changed(config, "fa", steps=7)).stale


def test_a_first_version_that_nobody_promoted(project: Project) -> None:
    config, workspace = project
    trained(project, into_service=False)
    assert check_freshness(config).reason.endswith("the gate has not judged it yet")
    other = check_freshness(changed(config, "fa", steps=7))
    assert (other.stale, other.reason, other.champion) == (True, "no version is in service", "")
    assert workspace.line == "tiny"


def test_other_inputs_that_make_the_same_model_do_not_train_for_ever(project: Project, tmp_path: Path) -> None:
    """The version is told by its bytes; it takes over what it was made from the last time."""
    config, workspace = project
    trained(project)
    put(tmp_path / "shelf", make_version("tiny", config.data, NEW))
    config = changed(config, "teacher", batch_size=3)
    assert check_freshness(config).stale
    assert not register(config, workspace, data_revision=NEW).reused
    assert not check_freshness(config).stale
    assert register(config, workspace, data_revision=NEW).reused
    with open_tracking(config.root) as tracking:
        assert Registry(tracking, "tiny").aliases() == {CHAMPION: 1}


def test_register_tells_the_images_by_the_projects_files(project: Project) -> None:
    config, workspace = project
    pointer = config.root / "data" / "tiny.dvc"
    pointer.parent.mkdir()
    pointer.write_text(f"outs:\n- md5: {OLD}.dir\n  hash: md5\n  path: tiny\n")
    write_export(workspace, revision=code_version())
    register(config, workspace)
    with open_tracking(config.root) as tracking:
        version = Registry(tracking, "tiny").at(CHALLENGER)
    assert version is not None
    assert version.tags["data_revision"] == OLD
    promote(config)
    assert not check_freshness(config).stale


def test_the_command(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = project
    monkeypatch.chdir(config.root)
    run = CliRunner().invoke
    assert (
        "check-freshness tiny: train: no version was ever registered"
        in run(app, ["check-freshness", "--line", "tiny"]).stdout
    )
    trained(project)
    done = run(app, ["check-freshness", "--line", "tiny"])
    assert done.exit_code == 0
    assert "nothing to do: version 1, the champion" in done.stdout
    asked = run(app, ["check-freshness", "--line", "tiny", "--force", "--json"])
    assert Freshness(**json.loads(asked.stdout)) == check_freshness(config, force=True)


FAILED = RunOutcome("nightly", "run-1", "FAILED", "out of memory", "distill", OLD)


def runs(config: LineConfig, experiment: str = "stlm-tiny") -> list[Any]:
    with open_tracking(config.root) as tracking:
        found = tracking.client.get_experiment_by_name(experiment)
        return list(tracking.client.search_runs([found.experiment_id]))


def test_an_outcome_is_one_run_however_often_it_is_recorded(project: Project) -> None:
    config, _ = project
    first = record_outcome("tiny", FAILED, config.root)
    assert (first.experiment, first.status, first.created) == ("stlm-tiny", "FAILED", True)
    assert record_outcome("tiny", FAILED, config.root) == RecordedOutcome(first.run_id, "stlm-tiny", "FAILED", False)
    (run,) = runs(config)
    assert (run.info.run_name, run.info.status) == ("pipeline nightly", "FAILED")
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    assert tags == {
        PIPELINE_TAG: "run-1",
        "line": "tiny",
        "state": "FAILED",
        "message": "out of memory",
        "failed_task": "distill",
        "data_revision": OLD,
    }

    done = record_outcome("tiny", RunOutcome("nightly", "run-1", "Succeeded"), config.root)
    assert (done.run_id, done.status) == (first.run_id, "FINISHED")
    (run,) = runs(config)
    assert run.info.status == "FINISHED"
    assert not {"message", "failed_task"} & set(run.data.tags)
    assert record_outcome("tiny", RunOutcome("nightly", "run-2", "SUCCEEDED"), config.root).created
    assert len(runs(config)) == 2


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("SUCCEEDED", "FINISHED"),
        ("COMPLETE", "FINISHED"),
        ("CACHED", "FINISHED"),
        ("RUNNING", "FINISHED"),
        ("CANCELED", "KILLED"),
        ("CANCELLED", "KILLED"),
        ("ERROR", "FAILED"),
        ("?", "FAILED"),
    ],
)
def test_states(project: Project, state: str, status: str) -> None:
    config, _ = project
    assert record_outcome("tiny", RunOutcome("n", "r", state), config.root, "mine").status == status
    assert [run.info.status for run in runs(config, "mine")] == [status]


@pytest.mark.parametrize(
    "outcome", [RunOutcome("n", " ", "FAILED"), RunOutcome("n", "r", ""), RunOutcome("n", "'", "F")]
)
def test_outcomes_that_cannot_be_recorded(project: Project, outcome: RunOutcome) -> None:
    with pytest.raises(UserError):
        record_outcome("tiny", outcome, project[0].root)


@pytest.mark.parametrize(
    "message",
    [
        "AWS_SECRET_ACCESS_KEY=hush failed",
        "password: hush",
        '{"token": "hush"}',
        "Authorization: Bearer hush",
        "GET https://bucket.example/x?X-Amz-Signature=hush&X-Amz-Credential=hush",
        "postgresql://user:hush@host/db",
        "could not log in with environment-hush",
    ],
)
def test_a_message_keeps_no_credentials(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "environment-hush")
    assert "hush" not in without_credentials(f"step failed: {message}")
    assert without_credentials("no images in data/caps: run `stlm lines add`").endswith("run `stlm lines add`")


def test_a_long_message_keeps_its_start_and_its_end() -> None:
    kept = shortened("first " + "x" * 100_000 + " last")
    assert (len(kept), kept[:5], kept[-4:]) == (1000, "first", "last")
    assert shortened(" short \n") == "short"


def test_record_outcome_by_command(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = project
    monkeypatch.chdir(config.root)
    arguments = ["record-outcome", "--line", "tiny", "--run-name", "n", "--run-id", "r", "--state", "FAILED"]
    said = [CliRunner().invoke(app, [*arguments, "--message", "why"]).stdout for _ in range(2)]
    assert "n recorded as FAILED in stlm-tiny" in said[0]
    assert "n was recorded already as FAILED in stlm-tiny" in said[1]
