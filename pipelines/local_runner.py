"""Runs the containers of kfp.local: under the limits of a cluster, and with their true exit codes.

kfp.local's own Docker runner lets Docker remove a container as soon as it ends, and takes one that has vanished for a
success (kubeflow/pipelines issue 13332), so a failed step would be the input of the next. Its conditions see no outputs
of tasks by name. Both are put right here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import docker
from docker.errors import ImageNotFound
from kfp.local import docker_task_handler
from kfp.local.io import IOStore
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

LAST_LINES = 15


@dataclass(frozen=True)
class FailedContainer:
    """A container that did not end well: what it ran, how it ended, and the last lines it printed."""

    task: str
    exit_code: int
    out_of_memory: bool
    last_lines: tuple[str, ...]

    def __str__(self) -> str:
        why = f"exit code {self.exit_code}"
        if self.out_of_memory:
            why += ", killed for memory: raise resources in params.yaml"
        return "\n".join([f"task {self.task} failed ({why}); its last lines:", *(f"  {x}" for x in self.last_lines)])


@dataclass
class Containers:
    """How containers are run. ``memory``: limit in bytes by image, as Kubernetes would set it."""

    memory: Mapping[str, int] = field(default_factory=dict)
    failures: dict[str, FailedContainer] = field(default_factory=dict)  # by task: the last attempt
    unresolved: list[str] = field(default_factory=list)

    def run(
        self, client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
    ) -> int:
        """Run one container to its end, printing what it prints; its exit code."""
        try:
            client.images.get(image)
        except ImageNotFound:
            client.images.pull(image)
        limit = self.memory.get(image)
        bounds = {"mem_limit": limit, "memswap_limit": limit} if limit else {}
        container = client.containers.create(image, command=command, volumes=volumes, **(options | bounds))
        last: deque[str] = deque(maxlen=LAST_LINES)
        task = _task_of(command)
        try:
            container.start()
            for line in _lines(container.logs(stream=True, follow=True)):
                print(line)
                last.append(line)
            code = int(container.wait()["StatusCode"])
            if code:
                container.reload()
                killed = bool(container.attrs["State"]["OOMKilled"])
                self.failures[task] = FailedContainer(task, code, killed, tuple(last))
            else:
                self.failures.pop(task, None)  # an earlier attempt
            return code
        finally:
            container.remove(force=True, v=True)

    def resolve(self, channel: str, values: IOStore) -> Any:
        """What a condition refers to: an input of the group, or ``TASK-OUTPUT``, both of which may hold hyphens.

        kfp.local takes a condition that it cannot resolve for false; what could not be resolved is kept in
        ``unresolved``, so that a run that skipped half its tasks is not taken for a success.
        """
        name = channel.removeprefix("pipelinechannel--")
        for key in (name, f"pipelinechannel--{name}"):
            with suppress(ValueError, KeyError):
                return values.get_parent_input(key)
        words = name.split("-")
        for place in range(1, len(words)):
            with suppress(ValueError, KeyError):
                return values.get_task_output("-".join(words[:place]), "-".join(words[place:]))
        self.unresolved.append(name)
        return None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let kfp.local run its containers through this object."""
        before = docker_task_handler.run_docker_container, ConditionEvaluator._resolve_pipeline_channel
        docker_task_handler.run_docker_container = self.run
        ConditionEvaluator._resolve_pipeline_channel = staticmethod(self.resolve)
        try:
            yield
        finally:
            docker_task_handler.run_docker_container = before[0]
            ConditionEvaluator._resolve_pipeline_channel = staticmethod(before[1])


def _task_of(command: list[str]) -> str:
    """``validate`` of ``stlm task validate --line ...``."""
    words = [word for word in command[:3] if not word.startswith("-")]
    return words[-1] if words else "?"


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Whole lines of a stream of bytes; a progress display that rewrites its line counts as its last state."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (_shown(line) for line in whole)
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
