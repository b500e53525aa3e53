"""`infra/compose.yaml` runs the same services as the cluster: ports, variables, arguments and confinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manifests import MISSING, SECRETS, Pod, compose, kustomize_command, overlay, pods

# Name in compose.yaml and of the workload in the cluster.
SERVICES = {
    "postgres": "postgres",
    "seaweedfs": "seaweedfs",
    "mlflow": "mlflow",
    "buckets": "stlm-buckets",
    "inspection": "stlm-inspection",
}


def services(repository: Path, **environment: str) -> dict[str, Any]:
    """The services of the compose file."""
    parsed: dict[str, Any] = compose(repository / "infra" / "compose.yaml", environment)[0]["services"]
    return parsed


def in_the_cluster(repository: Path, name: str) -> Pod:
    """The workload that a compose service stands for."""
    found = {pod.owner["metadata"]["name"]: pod for pod in pods(overlay(repository, "dev"))}
    return found[SERVICES[name]]


def arguments(words: list[str]) -> tuple[list[str], set[str]]:
    """Words of a command with variables written alike, and the hosts that MLflow answers to."""
    hosts = {host for word in words if word.startswith("--allowed-hosts=") for host in word.split("=", 1)[1].split(",")}
    plain = [word.replace("$(POSTGRES_DB)", "<POSTGRES_DB>") for word in words if "--allowed-hosts" not in word]
    return plain, hosts


def test_services_are_confined(repository: Path) -> None:
    for name, service in services(repository).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].partition(":")[0]) > 0, name
        assert "/tmp" in service["tmpfs"], name
        assert not {"privileged", "network_mode", "cap_add"} & set(service), name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name


def test_servers_say_when_they_are_well(repository: Path) -> None:
    found = services(repository)
    well = [name for name, service in found.items() if "healthcheck" in service]
    assert well == ["postgres", "seaweedfs", "mlflow", "inspection"]
    waits = {name: {on: how["condition"] for on, how in s.get("depends_on", {}).items()} for name, s in found.items()}
    assert waits["buckets"] == {"seaweedfs": "service_healthy"}
    assert waits["mlflow"] == {"postgres": "service_healthy", "buckets": "service_completed_successfully"}


def test_only_this_machine_reaches_the_published_ports(repository: Path) -> None:
    published = {name: service.get("ports", []) for name, service in services(repository).items()}
    assert published == {
        "postgres": [],
        "seaweedfs": ["127.0.0.1:8333:8333"],
        "buckets": [],
        "mlflow": ["127.0.0.1:5000:5000"],
        "inspection": ["127.0.0.1:8080:8080"],
    }
    assert services(repository, STLM_MLFLOW_PORT="5500")["mlflow"]["ports"] == ["127.0.0.1:5500:5000"]


def test_passwords_have_no_defaults_and_the_example_names_them_all(repository: Path) -> None:
    _, required = compose(repository / "infra" / "compose.yaml", {})
    assert required == SECRETS["stlm-s3"] | SECRETS["stlm-postgres"]
    lines = (repository / "infra" / ".env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.lstrip("#").split("=", 1) for line in lines if "=" in line and " " not in line)
    assert required < set(example)
    assert not [name for name in required if ("PASSWORD" in name or "SECRET" in name) and example[name]]
    optional = set(example) - required - {"COMPOSE_PROJECT_NAME"}
    text = (repository / "infra" / "compose.yaml").read_text(encoding="utf-8")
    assert all(f"${{{name}:-" in text for name in optional)
    assert ".env" in (repository / "infra" / ".gitignore").read_text(encoding="utf-8").split()


def test_files_of_the_checkout_that_are_mounted_exist(repository: Path) -> None:
    mounts = [mount for service in services(repository).values() for mount in service.get("volumes", [])]
    local = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert local
    assert all((repository / "infra" / path).is_file() for path in local)


@pytest.mark.skipif(kustomize_command() is None, reason=MISSING)
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_the_clusters(name: str, repository: Path) -> None:
    service, pod = services(repository)[name], in_the_cluster(repository, name)
    container = pod.containers[0]
    here, hosts_here = arguments(service.get("command", []))
    there, hosts_there = arguments(container.get("command", []) + container.get("args", []))
    assert here == there
    assert hosts_here <= hosts_there

    variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    for entry in container.get("envFrom", []):
        variables |= dict.fromkeys(SECRETS[entry["secretRef"]["name"]])
    # Kubernetes needs the database's name as a variable to put it into the command, Compose does not.
    if name == "mlflow":
        del variables["POSTGRES_DB"]
    assert set(service["environment"]) == set(variables)
    assert {key: service["environment"][key] for key, value in variables.items() if value} == {
        key: value for key, value in variables.items() if value
    }

    ports = [port.rpartition(":")[2] for port in service.get("ports", [])]
    assert set(ports) <= {str(port["containerPort"]) for port in container.get("ports", [])}
    writable = [path.partition(":")[0] for path in service["tmpfs"]]
    mounted = [mount.split(":")[1] for mount in service.get("volumes", []) if not mount.startswith(".")]
    read_only = [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")]
    assert {*writable, *mounted} == {mount["mountPath"] for mount in container["volumeMounts"]} - set(read_only)


@pytest.mark.skipif(kustomize_command() is None, reason=MISSING)
def test_public_images_are_the_clusters(repository: Path) -> None:
    for name in SERVICES:
        assert services(repository)[name]["image"] == in_the_cluster(repository, name).containers[0]["image"]
