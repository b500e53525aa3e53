"""Recurring runs: one a line, as ``params.yaml`` says; found, compared and brought up to date.

KFP cannot change a recurring run, only make, switch and delete them. A changed one is replaced: the new one is made
paused, the old one deleted, the new one switched on. So two are never on at once, a refused new one leaves the old one
running, and wherever the replacement is cut short, the next `schedule apply` finds the pieces and finishes it. The
price: cut short between the last two calls, the line has no schedule that is on until then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import kfp_server_api as models

from pipelines.api import Kubeflow
from pipelines.submit import SERVICE_ACCOUNT
from stlm_core.files import sha256_bytes

_MARK = re.compile(r"^stlm-schedule line=(?P<line>\S+) spec=(?P<spec>[0-9a-f]{16})$", re.MULTILINE)
Action = Literal["create", "replace", "remove", "resume", "pause", "finish", "keep"]


@dataclass(frozen=True)
class Schedule:
    """A wanted recurring run. ``cron`` has KFP's six fields, in the cluster's time zone; ``version`` names the IR."""

    line: str
    pipeline: str
    version: str
    cron: str
    arguments: dict[str, Any] = field(hash=False)
    enabled: bool = True

    @property
    def spec(self) -> str:
        """A hash of all that a recurring run cannot change; being on or off it can."""
        settled = [self.pipeline, self.version, self.cron, self.arguments, SERVICE_ACCOUNT]
        return sha256_bytes(json.dumps(settled, sort_keys=True).encode())[:16]

    @property
    def description(self) -> str:
        """What tells our recurring runs from others, and one spec from another."""
        return f"Made by `python -m pipelines schedule apply`.\nstlm-schedule line={self.line} spec={self.spec}"

    def body(self, experiment_id: str, reference: Any, enabled: bool) -> Any:
        """The recurring run as the API takes it."""
        return models.V2beta1RecurringRun(
            display_name=f"stlm-{self.line}",
            description=self.description,
            experiment_id=experiment_id,
            pipeline_version_reference=reference,
            runtime_config=models.V2beta1RuntimeConfig(parameters=self.arguments),
            service_account=SERVICE_ACCOUNT,
            max_concurrency="1",
            no_catchup=True,
            trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=self.cron)),
            mode="ENABLE" if enabled else "DISABLE",
        )


@dataclass(frozen=True)
class Found:
    """One of our recurring runs on the server."""

    id: str
    line: str
    spec: str
    enabled: bool
    cron: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What is to be done about one line: ``keep`` stays, ``drop`` goes, ``wanted`` is on or off afterwards."""

    line: str
    action: Action
    reason: str
    wanted: Schedule | None
    keep: Found | None
    drop: tuple[Found, ...]

    def __str__(self) -> str:
        return f"{self.line}: {self.action}{': ' + self.reason if self.reason else ''}"


def ours(recurring_runs: Iterable[Any]) -> list[Found]:
    """Those of the recurring runs that this module made: marked in the description and named after the same line."""
    found = []
    for run in recurring_runs:
        mark = _MARK.search(run.description or "")
        if mark is None or run.display_name != f"stlm-{mark['line']}":
            continue
        cron = run.trigger.cron_schedule.cron if run.trigger and run.trigger.cron_schedule else ""
        arguments = (run.runtime_config.parameters if run.runtime_config else None) or {}
        found.append(
            Found(run.recurring_run_id, mark["line"], mark["spec"], run.status == "ENABLED", cron or "", arguments)
        )
    return found


def plan(wanted: Iterable[Schedule], found: Iterable[Found], only: str | None = None) -> list[Change]:
    """What leads from ``found`` to ``wanted``, a change a line in the order of names; with ``only``, for that line."""
    schedules = {schedule.line: schedule for schedule in wanted}
    existing: dict[str, list[Found]] = {}
    for one in found:
        existing.setdefault(one.line, []).append(one)
    lines = sorted({*schedules, *existing} if only is None else {only} & {*schedules, *existing})
    return [_change(line, schedules.get(line), existing.get(line, [])) for line in lines]


def _change(line: str, schedule: Schedule | None, found: list[Found]) -> Change:
    if schedule is None:
        return Change(line, "remove", "no longer wanted", None, None, tuple(found))
    # Of two that are right, the one that is on: nothing has to be switched.
    right = sorted((one for one in found if one.spec == schedule.spec), key=lambda one: (not one.enabled, one.id))
    keep = right[0] if right else None
    drop = tuple(one for one in found if one is not keep)
    action: Action = "keep"
    reason = schedule.cron if schedule.enabled else f"{schedule.cron}, paused"
    if not found:
        action = "create"
    elif keep is None:
        action, reason = "replace", _difference(schedule, found[0])
    elif drop:
        action, reason = "finish", "an earlier replacement was cut short"
    elif keep.enabled != schedule.enabled:
        action = "resume" if schedule.enabled else "pause"
    return Change(line, action, reason, schedule, keep, drop)


def _difference(schedule: Schedule, old: Found) -> str:
    """What is new, for people; the specs have told that something is."""
    changed = [f"cron {old.cron} -> {schedule.cron}"] if old.cron != schedule.cron else []
    names = sorted({*old.arguments, *schedule.arguments})
    arguments = [name for name in names if old.arguments.get(name) != schedule.arguments.get(name)]
    changed += [f"arguments {', '.join(arguments)}"] if arguments else []
    return "; ".join(changed) or f"pipeline {schedule.pipeline} {schedule.version}"


def apply(
    kubeflow: Kubeflow,
    changes: Iterable[Change],
    experiment: str,
    irs: Mapping[Schedule, str],
    say: Callable[[str], None],
) -> None:
    """Carry out ``changes`` in the experiment of that name. ``irs``: the IR YAML of each wanted schedule's pipeline."""
    for change in changes:
        say(str(change))
        kept, enabled = (change.keep.id, change.keep.enabled) if change.keep else ("", False)
        wanted = change.wanted
        if wanted is not None and change.keep is None:
            reference, _ = kubeflow.publish(wanted.pipeline, irs[wanted])
            # With nothing to replace there is nothing to wait for.
            enabled = wanted.enabled and not change.drop
            kept = kubeflow.create_recurring_run(wanted.body(kubeflow.experiment(experiment), reference, enabled))
        for old in change.drop:
            kubeflow.delete_recurring_run(old.id)
        if wanted is not None and enabled != wanted.enabled:
            kubeflow.switch_recurring_run(kept, wanted.enabled)
