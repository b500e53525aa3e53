"""Containers under kfp.local: exit codes, what is kept of a failure, conditions, and that none outlives the run."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl, local
from kfp.local.io import IOStore

from components.command import SERVE_IMAGE
from pipelines.local_runner import LAST_LINES, Containers, FailedContainer, lines_of
from pipelines.local_services import docker_client, has_image
from stlm_core.errors import StlmError, UserError

with_engine = pytest.mark.containers
NAMES = "stlm-task-"


@pytest.fixture(scope="module")
def client() -> docker.DockerClient:
    try:
        engine = docker_client()
    except UserError as error:
        pytest.skip(str(error))
    if not has_image(engine, SERVE_IMAGE):
        pytest.skip(f"no image {SERVE_IMAGE}; run `make images`")
    return engine


class Runs:
    """Runs of containers, and which of them are still there. ``label`` is on all of them."""

    def __init__(self, client: docker.DockerClient, label: str) -> None:
        self.client, self.label = client, label

    def run(self, containers: Containers, *command: str, image: str = SERVE_IMAGE, **options: Any) -> int:
        return containers.run(self.client, image, list(command), {}, labels=[self.label], **options)

    def there(self) -> list[Any]:
        return self.client.containers.list(all=True, filters={"label": self.label})

    def signal_when(self, count: int, number: int) -> threading.Thread:
        """Send this process a signal as soon as ``count`` containers run."""

        def wait() -> None:
            for _ in range(300):
                if len(self.client.containers.list(filters={"label": self.label})) >= count:
                    break
                time.sleep(0.1)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture
def runs(client: docker.DockerClient, tmp_path: Path) -> Iterator[Runs]:
    """Leaves no container, and sees that none was left."""
    made = Runs(client, f"stlm-test-{os.getpid()}-{tmp_path.name}")
    yield made
    left = made.there()
    for container in left:
        container.remove(force=True)
    assert left == []


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests were started by a shell's &, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def kfp_local(runs: Runs, tmp_path: Path) -> Iterator[Runs]:
    """kfp.local set up for this test alone."""
    before = local.config.LocalExecutionConfig.instance
    runner = local.DockerRunner(user=f"{os.getuid()}:{os.getgid()}", labels=[runs.label], environment={"HOME": "/tmp"})
    local.init(runner=runner, pipeline_root=str(tmp_path / "runs"), workspace_root=str(tmp_path / "workspace"))
    (tmp_path / "runs").mkdir()
    yield runs
    local.config.LocalExecutionConfig.instance = before


@with_engine
def test_an_exit_code_is_always_the_programs(runs: Runs) -> None:
    """Of a container that is gone at once, too."""
    assert [runs.run(Containers(), "sh", "-c", "exit 3") for _ in range(20)] == [3] * 20
    assert runs.run(Containers(), "true") == 0


@with_engine
def test_a_failure_has_its_last_lines(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    containers = Containers()
    script = "seq 40; printf 'part 1\\rpart 2\\r\\n\\n'; sleep 1; echo to stderr >&2; sleep 1; printf 'no end'; exit 7"
    assert runs.run(containers, "sh", "-c", script) == 7
    (failure,) = containers.failures.values()
    assert (failure.exit_code, failure.out_of_memory) == (7, False)
    assert len(failure.last_lines) == LAST_LINES
    assert {"40", "part 2", "no end"} <= set("\n".join(failure.last_lines).splitlines())
    assert any("to stderr" in line for line in failure.last_lines)
    assert "" not in failure.last_lines
    printed = capsys.readouterr().out
    assert printed.startswith("1\n2\n")
    assert "part 1" not in printed


@with_engine
def test_a_container_killed_for_memory_says_so(runs: Runs) -> None:
    containers = Containers(memory={SERVE_IMAGE: 48 << 20})
    assert runs.run(containers, "python", "-c", "print('begins', flush=True); bytearray(400 << 20)") == 137
    (failure,) = containers.failures.values()
    assert failure.out_of_memory
    assert (
        str(failure)
        .splitlines()[0]
        .endswith("(exit code 137, killed for memory: raise resources in params.yaml); its last lines:")
    )
    assert str(failure).endswith("\n  begins")


@with_engine
def test_an_image_that_is_nowhere_is_one_sentence(runs: Runs) -> None:
    containers, began = Containers(), time.monotonic()
    with pytest.raises(UserError, match=r"^localhost/stlm-absent:1: no such image, .*; run `make images`$") as caught:
        runs.run(containers, "stlm", "task", "validate", image="localhost/stlm-absent:1")
    assert time.monotonic() - began < 20
    assert "\n" not in str(caught.value)
    assert [failure.task for failure in containers.failures.values()] == ["validate"]


@with_engine
def test_a_program_that_the_image_lacks_is_one_sentence(runs: Runs) -> None:
    with pytest.raises(StlmError, match=r"^task absent: the container engine cannot run .*executable file not found"):
        runs.run(Containers(), "absent")


@with_engine
@pytest.mark.parametrize(("number", "ended"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.usefixtures("heard")
def test_no_container_outlives_an_interrupted_run(runs: Runs, number: int, ended: type[BaseException]) -> None:
    """The fixture sees that it is gone."""
    containers, thread = Containers(), runs.signal_when(1, number)
    with containers.in_place(), pytest.raises(ended) as caught:
        runs.run(containers, "sleep", "300")
    thread.join()
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 143
    with pytest.raises(StlmError, match="interrupted"):
        runs.run(containers, "true")


@with_engine
def test_a_container_that_somebody_removed_has_not_succeeded(runs: Runs) -> None:
    def remove() -> None:
        while not (found := runs.client.containers.list(filters={"label": runs.label})):
            time.sleep(0.1)
        found[0].remove(force=True)

    containers, thread = Containers(), threading.Thread(target=remove)
    thread.start()
    try:
        code = runs.run(containers, "sleep", "300")
    except StlmError:
        code = -1
    thread.join()
    assert code != 0
    assert len(containers.failures) == 1


@dsl.container_component
def look(stale: dsl.OutputPath(bool), answer: str):
    """Write the output ``stale``, whose name a condition refers to."""
    return dsl.ContainerSpec(
        image=SERVE_IMAGE,
        command=["sh", "-c", 'mkdir -p "$(dirname "$0")" && printf "$1" > "$0"'],
        args=[stale, answer],
    )


@dsl.container_component
def breaks(line: str):
    """A task that the image does not know."""
    return dsl.ContainerSpec(
        image=SERVE_IMAGE, command=["stlm", "task", "breaks"], args=["--line", line, "--executor-input", "{{$}}"]
    )


@dsl.container_component
def shell(script: str):
    """Run a script, to which the executor input is $0."""
    return dsl.ContainerSpec(image=SERVE_IMAGE, command=["sh", "-c"], args=[script, "{{$}}"])


@dsl.pipeline(name="tiny")
def tiny(answer: str = "true") -> None:
    looked = look(answer=answer)
    with dsl.If(looked.outputs["stale"] == True, name="something-changed"):  # noqa: E712  a condition for KFP
        breaks(line="tiny")


@dsl.pipeline(name="shards")
def shards(scripts: list[str]) -> None:
    with dsl.ParallelFor(scripts) as script:
        shell(script=script)


@dsl.pipeline(name="retried")
def retried(script: str) -> None:
    shell(script=script).set_retry(num_retries=1, backoff_duration="0s")


@with_engine
def test_the_failing_task_of_a_pipeline_is_named(kfp_local: Runs) -> None:
    containers = Containers()
    with containers.in_place(), pytest.raises(RuntimeError, match="Inner task failed"):
        tiny()
    (failure,) = containers.failures.values()
    assert (failure.task, failure.exit_code) == ("breaks", 2)
    assert failure.last_lines[-1].startswith("error: no task `breaks`")
    assert containers.unresolved == []


@with_engine
def test_a_condition_that_does_not_hold_skips_its_tasks(kfp_local: Runs) -> None:
    containers = Containers()
    with containers.in_place():
        tiny(answer="false")
    assert (containers.failures, containers.unresolved) == ({}, [])


@with_engine
def test_an_attempt_that_succeeds_takes_the_failure_back(kfp_local: Runs, tmp_path: Path) -> None:
    tried = tmp_path / "runs" / "tried"
    containers = Containers()
    with containers.in_place():
        retried(script=f"test -e {tried} || {{ touch {tried}; exit 1; }}")
    assert tried.exists()
    assert containers.failures == {}
    with containers.in_place(), pytest.raises(RuntimeError):
        retried(script="echo again; exit 4")
    assert [failure.exit_code for failure in containers.failures.values()] == [4]


@with_engine
def test_a_shard_that_succeeds_does_not_hide_another_that_failed(kfp_local: Runs) -> None:
    containers = Containers()
    with containers.in_place(), pytest.raises(RuntimeError):
        shards(scripts=["echo first; exit 3", "sleep 2; echo second"])
    (failure,) = containers.failures.values()
    assert (failure.exit_code, failure.last_lines) == (3, ("first",))


@with_engine
def test_shards_are_ended_with_the_run_and_the_next_are_not_started(kfp_local: Runs) -> None:
    containers, began, thread = Containers(), time.monotonic(), kfp_local.signal_when(2, signal.SIGTERM)
    with containers.in_place(), pytest.raises(SystemExit):
        shards(scripts=["sleep 300", "sleep 301", "sleep 302", "sleep 303"])
    thread.join()
    assert time.monotonic() - began < 30


def test_a_failure_tells_task_reason_and_last_lines() -> None:
    failure = FailedContainer("export", 1, False, ("first", "second"))
    assert str(failure) == "task export failed (exit code 1); its last lines:\n  first\n  second"


def test_signals_are_as_before_afterwards_and_ignored_ones_stay_ignored() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Containers().in_place():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in before
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[2])
    assert [signal.getsignal(number) for number in numbers] == before


def test_conditions_know_outputs_by_task_and_name() -> None:
    outer, containers = IOStore(), Containers()
    outer.put_task_output("check-freshness", "stale", True)
    outer.put_task_output("register-2", "alias", "challenger")
    outer.put_parent_input("automatic", False)
    inner = IOStore(parent=outer)
    inner.put_parent_input("pipelinechannel--shards-loop-item", 3)
    for channel, value in {
        "check-freshness-stale": True,
        "register-2-alias": "challenger",
        "automatic": False,
        "shards-loop-item": 3,
    }.items():
        assert containers.resolve(f"pipelinechannel--{channel}", inner) == value
    assert containers.unresolved == []
    for channel in ("check-freshness-reason", "absent-task-output", "nothing"):
        assert containers.resolve(f"pipelinechannel--{channel}", inner) is None
    assert containers.unresolved == ["check-freshness-reason", "absent-task-output", "nothing"]


def test_lines_of_a_progress_display() -> None:
    chunks = [b"begin\n 10%\r", b" 50%", b"\r100%\r\nen", b"d \xc3", b"\xa9\xff"]
    assert list(lines_of(chunks)) == ["begin", "100%", "end é\ufffd"]
    assert list(lines_of([])) == []
    display = (f"\r{number:6d} of a million".encode() for number in range(100_000))
    assert list(lines_of(display)) == [" 99999 of a million"]
    assert sum(map(len, lines_of([b"x" * 1000] * 1000))) == 1_000_000


@given(st.lists(st.text("ab\r\n é").map(str.encode)), st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert list(lines_of(chunks)) == list(lines_of([whole]))
