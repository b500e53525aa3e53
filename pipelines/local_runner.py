"""Runs the containers of kfp.local: under the limits of a cluster, and with their true exit codes.

kfp.local's own Docker runner lets Docker remove a container as soon as it ends, and takes one that has vanished for a
success (kubeflow/pipelines issue 13332), so a failed step would be the input of the next. Its conditions see no outputs
of tasks by name. Both are put right here.
"""

from __future__ import annotations

import secrets
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from kfp.local import docker_task_handler
from kfp.local.io import IOStore
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from stlm_core.errors import StlmError, UserError

LAST_LINES = 15
_LONGEST_LINE = 1 << 16
_ENGINE_FAILED = 125  # exit code of `docker run` when not the program but the engine failed
_ENGINE_ERRORS = (DockerException, RequestException, HTTPError)
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    """How containers are run. ``memory``: limit in bytes by image, as Kubernetes would set it.

    ``failures`` are the containers whose last attempt failed, by their command: that names a task's outputs, so it is
    the same for every attempt and another for every shard. They run in several threads at once.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    failures: dict[tuple[str, ...], FailedContainer] = field(default_factory=dict)
    unresolved: list[str] = field(default_factory=list)
    _running: set[str] = field(default_factory=set)
    _stopped: bool = False

    def run(
        self, client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
    ) -> int:
        """Run one container to its end, printing what it prints; its exit code.

        Raises:
            UserError: the image is not there and cannot be pulled.
            StlmError: the container engine cannot run it, or :meth:`stop` was called.
        """
        task, last = _task_of(command), deque[str](maxlen=LAST_LINES)
        try:
            _have_image(client, image)
            code, killed = self._run(client, image, last, {"command": command, "volumes": volumes, **options})
        except (*_ENGINE_ERRORS, StlmError) as error:
            # kfp.local drops what is raised in a shard's thread.
            told = _explanation(error)
            self.failures[tuple(command)] = FailedContainer(task, _ENGINE_FAILED, False, (*last, told))
            if isinstance(error, StlmError):
                raise
            raise StlmError(f"task {task}: the container engine cannot run {image}: {told}") from error
        if code:
            self.failures[tuple(command)] = FailedContainer(task, code, killed, tuple(last))
        else:
            self.failures.pop(tuple(command), None)  # an earlier attempt
        return code

    def _run(
        self, client: docker.DockerClient, image: str, last: deque[str], options: dict[str, Any]
    ) -> tuple[int, bool]:
        """Exit code, and whether memory ran out; ``last`` gets the last lines."""
        limit = self.memory.get(image)
        bounds = {"mem_limit": limit, "memswap_limit": limit} if limit else {}
        name = f"stlm-task-{secrets.token_hex(6)}"
        self._running.add(name)  # before there is anything to remove, so that nothing is left
        try:
            container = client.containers.create(image, name=name, **(options | bounds))
            if self._stopped:
                raise StlmError("interrupted")
            container.start()
            for line in lines_of(container.logs(stream=True, follow=True)):
                print(line)
                if line.strip():
                    last.append(line)
            code = int(container.wait()["StatusCode"])
            if code:  # following ends now and then before the last bytes have been passed on
                last.clear()
                last.extend(line for line in lines_of([container.logs(tail=2 * LAST_LINES)]) if line.strip())
            container.reload()
            return code, code != 0 and bool(container.attrs["State"]["OOMKilled"])
        finally:
            _remove(client, name)
            self._running.discard(name)

    def stop(self) -> None:
        """Remove the containers that run, in whatever thread; from now on none is started."""
        self._stopped = True
        # A connection of its own: the others may be in the middle of something when a signal comes.
        with suppress(*_ENGINE_ERRORS):
            client = docker.from_env()
            for name in list(self._running):
                _remove(client, name)

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
        """Let kfp.local run its containers through this object, and no container outlive an interrupted run."""
        before = docker_task_handler.run_docker_container, ConditionEvaluator._resolve_pipeline_channel
        docker_task_handler.run_docker_container = self.run
        ConditionEvaluator._resolve_pipeline_channel = staticmethod(self.resolve)
        try:
            with self._ending_with_this_process():
                yield
        finally:
            docker_task_handler.run_docker_container = before[0]
            ConditionEvaluator._resolve_pipeline_channel = staticmethod(before[1])

    @contextmanager
    def _ending_with_this_process(self) -> Iterator[None]:
        """On Ctrl-C and SIGTERM, stop. Without it kfp.local would first wait for the containers of its threads."""

        def end(number: int, frame: FrameType | None) -> None:
            self.stop()
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)

        handled = threading.current_thread() is threading.main_thread()
        # What nohup or a shell's & has set to be ignored stays so.
        numbers = [n for n in _ENDINGS if signal.getsignal(n) is not signal.SIG_IGN] if handled else []
        before = {number: signal.signal(number, end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _have_image(client: docker.DockerClient, image: str) -> None:
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except DockerException as error:
            told = _explanation(error)
            raise UserError(f"{image}: no such image, and it cannot be pulled: {told}; run `make images`") from None


def _remove(client: docker.DockerClient, name: str) -> None:
    try:
        client.api.remove_container(name, v=True, force=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # gone, or going
            raise


def _explanation(error: Exception) -> str:
    """What the engine said, on one line."""
    told = error.explanation if isinstance(error, APIError) else None
    return " ".join(str(told or error).split())


def _task_of(command: list[str]) -> str:
    """``validate`` of ``stlm task validate --line ...``."""
    words = [word for word in command[:3] if not word.startswith("-")]
    return words[-1] if words else "?"


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream of bytes; a progress display that rewrites its line counts as its last state."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (_shown(line) for line in whole)
        shown = rest.rstrip(b"\r")
        rest = shown.rpartition(b"\r")[2] + rest[len(shown) :][:1]  # hours of a display are not kept
        if len(rest) > _LONGEST_LINE:
            yield _shown(rest)
            rest = b""
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
