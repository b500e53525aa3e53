"""What ``stlm status`` and ``stlm history`` tell, against a real MLflow on SQLite."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from registry_project import PARAMS, make_project, write_export
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.config import LineConfig
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.steps import registry_status
from stlm_core.steps.outcome import RunOutcome, record_outcome
from stlm_core.steps.promote import promote, reject, rollback
from stlm_core.steps.register import register
from stlm_core.steps.registry_history import history
from stlm_core.steps.registry_status import status
from stlm_core.steps.workspace import Workspace

pytestmark = pytest.mark.integration
Project = tuple[LineConfig, Workspace]
WIDTH = 120


@pytest.fixture
def project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return make_project(tmp_path)


def registered(project: Project, revision: str, **metrics: Any) -> None:
    write_export(project[1], revision=revision, **metrics)
    register(*project, data_revision=f"{revision}{'0' * 32}")


def stlm(project: Project, *arguments: str) -> str:
    """What a command prints where no terminal says how wide it is; it must end well."""
    done = CliRunner().invoke(app, [*arguments, "--params", str(project[0].root / "params.yaml")])
    assert done.exit_code == 0, done.output
    return done.output


def cells(output: str) -> list[list[str]]:
    """Rows of a printed table, head first."""
    rows = [re.split("[┃│]", line)[1:-1] for line in output.splitlines() if line[:1] in "┃│"]
    return [[cell.strip() for cell in row] for row in rows]


def test_a_line_has_a_row_for_its_champion_and_one_for_its_challenger(project: Project) -> None:
    registered(project, "r1")
    promote(project[0])
    registered(project, "r2", recall_at_budget=0.1)
    promote(project[0])
    outcome = RunOutcome("nightly", "run-1", "FAILED", message="no space left", failed_task="distill")
    record_outcome("tiny", outcome, project[0].root)

    output = stlm(project, "status")
    head, champion, challenger = cells(output)
    assert head == ["line", "version", "age", "AUROC", "AUPRO", "recall", "data", "drift", "last pipeline run"]
    assert re.fullmatch(r"\d+ s", champion.pop(2))
    assert re.fullmatch(r"failed in distill, \d+ s ago", champion.pop())
    assert champion == ["tiny", "1 champion", "0.9500", "0.8500", "0.7000", "r1000000", "-"]
    assert challenger[:2] == ["", "2 kept back"]
    assert challenger[5:7] == ["0.1000", "r2000000"]

    (found,) = json.loads(stlm(project, "status", "--json"))
    assert (found["line"], found["previous"]) == ("tiny", None)
    assert found["champion"]["version"] == 1
    assert found["champion"]["state"] == "champion"
    assert found["champion"]["data_revision"] == f"r1{'0' * 32}"
    assert found["challenger"]["state"] == "kept"
    assert "recall at the budget 0.1000" in found["challenger"]["reason"]
    assert found["last_run"]["message"] == "no space left"
    assert datetime.fromisoformat(found["last_run"]["recorded_at"]).tzinfo is not None


def test_what_waits_for_the_gate_for_a_person_or_for_nobody(project: Project) -> None:
    config = project[0]

    def state() -> str | None:
        (found,) = status(config.root, {"tiny": None})
        return None if found.challenger is None else found.challenger.state

    assert state() is None
    registered(project, "r1")
    assert state() == "waiting"
    promote(config)
    assert state() is None
    registered(project, "r2", recall_at_budget=0.65)
    assert state() == "waiting"
    promote(config)
    assert state() == "needs-human"
    reject(config, reason="too many missed")
    assert state() is None


def test_lines_without_versions_or_with_wrong_settings_are_shown(project: Project) -> None:
    path = project[0].root / "params.yaml"
    path.write_text(f"{PARAMS}  empty:\n    data: {{path: data/e}}\n  odd:\n    data: {{path: 7, no_such: 1}}\n")
    registered(project, "r1")
    rows = cells(stlm(project, "status"))
    assert [row[:2] for row in rows[1:]] == [["tiny", "1 challenger"], ["empty", "none"], ["odd", "none"]]
    assert stlm(project, "status").count("none") == 2


def test_the_last_run_is_that_of_the_line_even_in_a_shared_experiment(project: Project) -> None:
    root = project[0].root
    shared = {"tiny": "factory", "other": "factory", "third": "factory"}
    for number in range(3):
        record_outcome("tiny", RunOutcome(f"n{number}", f"t{number}", "SUCCEEDED"), root, "factory")
        record_outcome("other", RunOutcome(f"n{number}", f"o{number}", "FAILED"), root, "factory")
    tiny, other, third = status(root, shared)
    assert tiny.last_run is not None
    assert other.last_run is not None
    assert (tiny.last_run.state, tiny.last_run.name) == ("SUCCEEDED", "pipeline n2")
    assert (other.last_run.state, other.last_run.name) == ("FAILED", "pipeline n2")
    assert third.last_run is None


def test_twenty_lines_take_few_requests_and_fit(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their names, figures and runs are."""
    root = project[0].root
    lines = [f"plant-{number:02}-{'long-name-of-a-product-line' * 2}" for number in range(20)]
    (root / "params.yaml").write_text(
        "defaults: {}\nprofiles: {fast: {}}\nlines:\n"
        + "".join(f"  {line}: {{data: {{path: d}}, promote: {{max_size_mb: 1.0}}}}\n" for line in lines)
    )
    registered(project, "r1")
    with open_tracking(root) as tracking:
        (version,) = tracking.client.search_model_versions("name = 'stlm-tiny'")
        for line in lines:
            name = f"stlm-{line}"
            tracking.client.create_registered_model(name)
            for alias in ("champion", "challenger"):
                made = tracking.client.create_model_version(
                    name, version.source, version.run_id, tags={**version.tags, "drift": "1234.5"}
                )
                tracking.client.set_registered_model_alias(name, alias, made.version)
    for line in lines:
        record_outcome(line, RunOutcome("n", line, "FAILED", failed_task="a-task-with-a-rather-long-name"), root)

    requests = _count_requests(monkeypatch)
    output = stlm(project, "status")
    assert len(requests) <= 3 * len(lines) + 4, requests
    assert len(cells(output)) >= 1 + 2 * len(lines)
    assert {len(line) for line in output.splitlines()} <= set(range(1, WIDTH + 1))
    assert max(len(line) for line in output.splitlines()) == WIDTH
    for number in range(20):
        assert f"plant-{number:02}-" in output


def _count_requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the requests that the status makes from now on."""
    import contextlib

    asked: list[str] = []

    class Counting:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(self._client, name)

    @contextlib.contextmanager
    def counted(root: Path) -> Iterator[Tracking]:
        with open_tracking(root) as opened:
            client: Any = Counting(opened.client)
            yield Tracking(client, opened.store, opened.artifact_root)

    monkeypatch.setattr(registry_status, "open_tracking", counted)
    return asked


def test_the_history_tells_who_did_what_and_why(project: Project) -> None:
    config = project[0]
    registered(project, "r1")
    promote(config, by="anna")
    registered(project, "r2")
    promote(config, force=True, reason="the customer waits", by="ben")
    registered(project, "r3", recall_at_budget=0.1)
    promote(config)
    rollback(config, reason="scratches missed", by="cleo")
    reject(config, reason="not worth it", by="dora")

    third, second, first = history(config)
    assert [(each.version, each.aliases) for each in (third, second, first)] == [(3, ()), (2, ()), (1, ("champion",))]

    def told(version: Any) -> list[tuple[str, str, int | None]]:
        return [(event.kind, event.by, event.of) for event in version.events]

    assert told(first) == [
        ("restored", "cleo", 2),
        ("replaced", "ben", 2),
        ("promoted", "anna", None),
        ("registered", "", None),
    ]
    assert told(second) == [("rolled-back", "cleo", None), ("promoted", "ben", 1), ("registered", "", None)]
    assert second.events[0].why == "scratches missed"
    assert second.events[1].why.startswith("forced: the customer waits")
    assert told(third) == [("rejected", "dora", None), ("kept", "", None), ("registered", "", None)]
    assert all(each.at >= other.at for version in (first, second) for each, other in pairwise(version.events))

    rows = cells(stlm(project, "history", "--line", "tiny"))
    assert rows[0] == ["version", "when (UTC)", "what", "by", "why"]
    assert [row[0] for row in rows if row[0].strip()][1:] == ["3", "2", "1 champion"]
    assert any(row[2:4] == ["promoted, replacing 1", "ben"] for row in rows)
    written = json.loads(stlm(project, "history", "--line", "tiny", "--json"))
    assert [each["version"] for each in written] == [3, 2, 1]
    assert written[1]["events"][0] == {
        "at": second.events[0].at,
        "kind": "rolled-back",
        "by": "cleo",
        "why": "scratches missed",
        "of": None,
    }


def test_a_line_without_versions_has_no_history(project: Project) -> None:
    with pytest.raises(UserError, match=r"line tiny: nothing is registered in sqlite mlflow\.db"):
        history(project[0])


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(minutes=2), "2 min"),
        (timedelta(hours=2), "2 h"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=2), "2 d"),
        (timedelta(days=400, hours=3), "400 d"),
    ],
)
def test_ages_are_told_in_the_largest_unit_that_says_something(passed: timedelta, told: str) -> None:
    from stlm_core.cli.registry_views import _age

    now = datetime(2026, 5, 4, 12, tzinfo=UTC)
    assert _age((now - passed).isoformat(), now) == told
    assert _age("yesterday", now) == "-"
