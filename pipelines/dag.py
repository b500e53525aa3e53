"""A compiled pipeline as a graph: its containers, the groups around them, and what flows from one to another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

GroupKind = Literal["condition", "loop", "exit handler", "group"]
FlowKind = Literal["artifact", "parameter", "order"]

_CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\]")
_CHANNEL = "pipelinechannel--"


@dataclass(frozen=True)
class Task:
    """One container. ``groups``: those around it, from the outside in; ``image``: without registry and tag."""

    name: str
    title: str
    image: str
    cached: bool
    retries: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Tasks that run on a condition, once an item, or with an exit handler. ``detail`` says which in a few words."""

    name: str
    title: str
    kind: GroupKind
    detail: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Flow:
    """A value, or with kind ``order`` only the end of ``source``, that ``target`` waits for; both tasks or groups."""

    source: str
    target: str
    label: str
    kind: FlowKind


@dataclass(frozen=True)
class Dag:
    """``tasks`` by longest path, each after all that it waits for and those of a group together; ``groups`` outermost
    first; ``flows`` between the containers that really write and read, whatever groups lie between them."""

    title: str
    description: str
    tasks: tuple[Task, ...]
    groups: tuple[Group, ...]
    flows: tuple[Flow, ...]


@dataclass(frozen=True)
class _Scope:
    """A component made of tasks, and where its inputs come from: the task that stands for it in ``outer``."""

    dag: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)
    outer: _Scope | None = None


def read_dag(spec: Mapping[str, Any]) -> Dag:
    """The graph of a pipeline's IR, the first document of a compiled file."""
    reader = _Reader(spec)
    reader.walk(_Scope(spec["root"]["dag"]), ())
    info = spec["pipelineInfo"]
    return Dag(
        info.get("displayName", info["name"]),
        info.get("description", ""),
        tuple(reader.tasks),
        tuple(reader.groups),
        tuple(sorted(reader.flows | reader.bare_orders())),
    )


class _Reader:
    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.tasks: list[Task] = []
        self.groups: list[Group] = []
        self.flows: set[Flow] = set()
        self.waits: list[tuple[str, str]] = []

    def walk(self, scope: _Scope, groups: tuple[str, ...]) -> None:
        for name in _by_longest_path(scope.dag["tasks"]):
            task = scope.dag["tasks"][name]
            component = self._component(task)
            self.waits += [(before, name) for before in task.get("dependentTasks", [])]
            if "dag" in component:
                place, first = len(self.groups), len(self.tasks)
                self.walk(_Scope(component["dag"], task, scope), (*groups, name))
                members = tuple(inner.name for inner in self.tasks[first:])
                self.groups.insert(place, self._group(name, scope, members))
            else:
                self.tasks.append(self._task(name, task, component, groups))
            self._read_inputs(name, task, scope, deciding=_deciding(task) if "dag" in component else None)

    def bare_orders(self) -> set[Flow]:
        """Waiting that no value explains."""
        # A condition's value and an exit handler's status name a group, which may lie in the one that is waited for.
        members = {
            outer.name: {*outer.tasks, *(inner.name for inner in self.groups if set(inner.tasks) <= set(outer.tasks))}
            for outer in self.groups
        }
        known = {(flow.source, flow.target) for flow in self.flows}
        return {
            Flow(before, after, "", "order")
            for before, after in self.waits
            if not any(
                (source, target) in known
                for source in members.get(before, {before})
                for target in members.get(after, {after})
            )
        }

    def _component(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        component: Mapping[str, Any] = self.spec["components"][task["componentRef"]["name"]]
        return component

    def _task(self, name: str, task: Mapping[str, Any], component: Mapping[str, Any], groups: tuple[str, ...]) -> Task:
        executor = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
        return Task(
            name,
            task["taskInfo"]["name"],
            executor["container"]["image"].rpartition("/")[2].partition("@")[0].partition(":")[0],
            task.get("cachingOptions", {}).get("enableCache", False),
            task.get("retryPolicy", {}).get("maxRetryCount", 0),
            groups,
        )

    def _group(self, name: str, scope: _Scope, members: tuple[str, ...]) -> Group:
        task = scope.dag["tasks"][name]
        title = task["taskInfo"]["name"]
        if "condition" in task.get("triggerPolicy", {}):
            condition = _CONDITION.sub(
                lambda found: self._plain(found[1], task, scope), task["triggerPolicy"]["condition"]
            )
            return Group(name, title, "condition", f"only if {condition}", members)
        if items := _deciding(task):
            limit = task.get("iteratorPolicy", {}).get("parallelismLimit")
            most = f"at most {limit} at once" if limit else "side by side"
            return Group(name, title, "loop", f"for each of {self._plain(min(items), task, scope)}, {most}", members)
        for after in scope.dag["tasks"].values():
            always = after.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            if always and name in after.get("dependentTasks", []):
                return Group(
                    name, title, "exit handler", f"then, however it ended: {after['taskInfo']['name']}", members
                )
        return Group(name, title, "group", "", members)

    def _plain(self, channel: str, task: Mapping[str, Any], scope: _Scope) -> str:
        """A group's input under the name that its writer, or the pipeline, gives it."""
        inputs = {**task["inputs"].get("artifacts", {}), **task["inputs"].get("parameters", {})}
        labels = [label for _, label in self._origins(inputs[channel], scope)]
        return labels[0] if labels else channel.removeprefix(_CHANNEL)

    def _read_inputs(self, name: str, task: Mapping[str, Any], scope: _Scope, deciding: set[str] | None) -> None:
        """Flows into a task; of a group's inputs only the ``deciding`` ones end there, the others pass through."""
        for kind in ("artifact", "parameter"):
            for key, given in task.get("inputs", {}).get(f"{kind}s", {}).items():
                if deciding is None or key in deciding:
                    flows = {Flow(source, name, label, kind) for source, label in self._origins(given, scope)}
                    self.flows |= flows

    def _origins(self, given: Mapping[str, Any], scope: _Scope) -> Iterator[tuple[str, str]]:
        """Who writes a value, and under what name; nobody for constants and the pipeline's own parameters."""
        for kind, plural in (("Artifact", "artifacts"), ("Parameter", "parameters")):
            if f"taskOutput{kind}" in given:
                output = given[f"taskOutput{kind}"]
                yield from self._writers(output["producerTask"], output[f"output{kind}Key"], plural, scope.dag)
            if f"componentInput{kind}" in given and scope.outer:
                passed = scope.task.get("inputs", {}).get(plural, {}).get(given[f"componentInput{kind}"], {})
                yield from self._origins(passed, scope.outer)
        if "taskFinalStatus" in given:
            yield given["taskFinalStatus"]["producerTask"], "status"

    def _writers(self, name: str, key: str, plural: str, dag: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        component = self._component(dag["tasks"][name])
        if "dag" not in component:
            yield name, key
            return
        passed = component["dag"]["outputs"][plural][key]
        selectors = [
            *passed.get("artifactSelectors", []),
            *passed.get("valueFromOneof", {}).get("parameterSelectors", []),
            *filter(None, [passed.get("valueFromParameter")]),
        ]
        for selector in selectors:
            inner = selector["outputArtifactKey" if plural == "artifacts" else "outputParameterKey"]
            yield from self._writers(selector["producerSubtask"], inner, plural, component["dag"])


def _by_longest_path(tasks: Mapping[str, Any]) -> list[str]:
    """Names of one level's tasks and groups; the compiler lists in dependentTasks whatever a task waits for."""

    def depth(name: str) -> int:
        return 1 + max((depth(before) for before in tasks[name].get("dependentTasks", [])), default=0)

    return sorted(tasks, key=lambda name: (depth(name), name))


def _deciding(task: Mapping[str, Any]) -> set[str]:
    """Inputs that a group itself looks at: those of its condition, or the list that it runs over."""
    names = set(_CONDITION.findall(task.get("triggerPolicy", {}).get("condition", "")))
    for iterator in ("parameterIterator", "artifactIterator"):
        items = task.get(iterator, {}).get("items", {})
        names |= {items[key] for key in ("inputParameter", "inputArtifact") if key in items}
    return names
