"""The compiled training pipeline in real containers, with real services: success, nothing new, and what can fail.

Run by `make test-containers`, after `make images`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import docker
import mlflow
import pytest
import yaml

from pipelines.local import LocalRun
from pipelines.local_runner import FailedContainer
from pipelines.local_services import Services, docker_client, has_image, stop_services
from pipelines.placement import Images
from stlm_core.config import LineConfig, load_line
from stlm_core.errors import UserError

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]
# As little training as the pipeline allows; two shards, so that the fan-out is real.
SHORT = {
    "synthesize": {"variants": 1},
    "distill": {"steps": 2, "validate_every": 2},
    "fa": {"steps": 2, "validate_every": 2},
    "export": {"latency_runs": 3, "parity_images": 2},
    "promote": {"min_image_auroc": None},
    "resources": {"shards": 2},
}


class Project:
    """A project with the sample line, and the state of its local runs."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.params = folder / "params.yaml"
        self._tree: dict[str, Any] = yaml.safe_load((repository / "params.yaml").read_text())
        self.change(SHORT)
        self.run = LocalRun(self.params, folder / "state")
        self.state = folder / "state"

    def change(self, settings: dict[str, dict[str, Any]]) -> LineConfig:
        for section, values in settings.items():
            self._tree["lines"]["sample"].setdefault(section, {}).update(values)
        self.params.write_text(yaml.safe_dump(self._tree))
        return load_line(self.params, "sample")

    def train(self, services: Services) -> list[FailedContainer]:
        return self.run.train(load_line(self.params, "sample"), services)


@pytest.fixture(scope="module")
def client() -> docker.DockerClient:
    try:
        engine = docker_client()
    except UserError as error:
        pytest.skip(str(error))
    used = [image for name, image in vars(Images()).items() if name != "train_cuda"]
    if missing := [image for image in used if not has_image(engine, image)]:
        pytest.skip(f"no image {missing[0]}; run `make images`")
    return engine


@pytest.fixture(scope="module")
def project(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    return Project(tmp_path_factory.mktemp("containers"), repository)


@pytest.fixture(scope="module")
def services(project: Project) -> Iterator[Services]:
    _, started = project.run.prepare("sample")
    yield started
    stop_services(project.state, forget=True)


@pytest.fixture(scope="module")
def registry(services: Services) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(services.mlflow)


@pytest.fixture(scope="module")
def trained(project: Project, services: Services) -> float:
    """The first run of everything; its seconds."""
    began = time.monotonic()
    assert project.train(services) == []
    return time.monotonic() - began


def tasks_run(output: str) -> list[str]:
    """Names of the tasks whose containers ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if "Executing task" in line]


def test_the_model_is_in_the_registry_and_its_files_in_the_store(
    trained: float, services: Services, registry: mlflow.MlflowClient
) -> None:
    champion = registry.get_model_version_by_alias("stlm-sample", "champion")
    assert champion.tags["parity_passed"] == "true"
    assert champion.tags["data_revision"]
    assert champion.tags["promoted_by"].startswith("pipeline stlm-training-cpu-")
    store = boto3.client(
        "s3",
        endpoint_url=services.store,
        aws_access_key_id=services.credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=services.credentials["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    stored = [entry["Key"] for entry in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert sum(key.endswith("/model.onnx") for key in stored) == 1
    assert any(key.endswith("/report.html") for key in stored)
    outcomes = registry.search_runs([registry.get_experiment_by_name("stlm-sample").experiment_id])
    assert [run.info.status for run in outcomes if run.info.run_name.startswith("pipeline ")] == ["FINISHED"]
    print(f"the whole pipeline took {trained:.0f} s")


def test_nothing_new_ends_the_run_after_the_freshness_check(
    trained: float, project: Project, services: Services, capfd: pytest.CaptureFixture[str]
) -> None:
    assert project.train(services) == []
    printed = capfd.readouterr()
    assert tasks_run(printed.out + printed.err) == ["check-freshness", "record-outcome"]


def test_a_step_that_fails_says_why_and_the_rerun_goes_on_from_there(
    trained: float, project: Project, services: Services, capfd: pytest.CaptureFixture[str]
) -> None:
    project.change({"fa": {"steps": 3}, "export": {"tolerance": 1e-30}})  # no two engines agree so well
    failures = project.train(services)
    assert [failure.task for failure in failures] == ["export"]
    assert failures[0].exit_code in (1, 2)
    assert any("tolerance" in line or "differ" in line for line in failures[0].last_lines), failures[0]
    assert "train-fa" in tasks_run((printed := capfd.readouterr()).out + printed.err)

    project.change({"export": {"tolerance": 1e-4}})
    assert project.train(services) == []
    printed = capfd.readouterr()
    rerun = tasks_run(printed.out + printed.err)
    assert rerun == ["check-freshness", "export", "register", "promote", "record-outcome"]


def test_a_step_killed_for_memory_says_so(trained: float, project: Project, services: Services) -> None:
    project.change({"synthesize": {"seed": 7}, "resources": {"train": {"cpu": "1", "memory": "120Mi"}}})
    failures = project.train(services)
    project.change({"synthesize": {"seed": 0}, "resources": {"train": {"cpu": "2", "memory": "6Gi"}}})
    assert failures[0].task == "synthesize"
    assert failures[0].out_of_memory, failures[0]
    assert "killed for memory" in str(failures[0])


def test_a_store_lost_in_the_middle_fails_the_run_and_the_rerun_completes_it(
    trained: float,
    project: Project,
    services: Services,
    client: docker.DockerClient,
    registry: mlflow.MlflowClient,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The store goes while the model is exported: it can't be registered. What was made before is not made again."""
    project.change({"evaluate": {"top_pixels": 80}})
    before = registry.get_model_version_by_alias("stlm-sample", "champion").version
    store = client.containers.list(filters={"name": f"{services.project}[-_]seaweedfs"})[0]
    taker = threading.Thread(target=stop_when_running, args=(client, store, "export"))
    taker.start()
    failures = project.train(services)
    taker.join()
    assert [failure.task for failure in failures] == ["register"]
    assert failures[0].last_lines
    capfd.readouterr()

    store.start()
    wait_healthy(store)
    assert project.train(services) == []
    printed = capfd.readouterr()
    assert tasks_run(printed.out + printed.err) == ["check-freshness", "register", "promote", "record-outcome"]
    assert registry.get_model_version_by_alias("stlm-sample", "champion").version != before


def stop_when_running(client: docker.DockerClient, store: Any, task: str) -> None:
    """Kill the store's container as soon as a container runs ``task``."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if any(task in container.attrs["Config"]["Cmd"] for container in client.containers.list()):
            store.kill()
            return
        time.sleep(0.5)


def wait_healthy(container: Any) -> None:
    """Until Docker's health check of the container passes."""
    for _ in range(120):
        container.reload()
        if container.attrs["State"]["Health"]["Status"] == "healthy":
            return
        time.sleep(1)
    raise AssertionError(json.dumps(container.attrs["State"]))
