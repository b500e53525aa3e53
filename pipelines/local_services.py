"""MLflow with PostgreSQL and an S3 store on this machine: the services of ``infra/compose.yaml``."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import docker
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from components.command import VERSION
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes

_COMPOSE_FILE = Path(__file__).parents[1] / "infra" / "compose.yaml"
_WAIT_SECONDS = 240
_PROBE = ".probe"
_SERVERS = ("postgres", "seaweedfs", "mlflow")
# Own images stand in for the public ones where they have been built.
_OWN = {"STLM_POSTGRES_IMAGE": "postgres", "STLM_SEAWEEDFS_IMAGE": "seaweedfs", "STLM_MLFLOW_IMAGE": "mlflow"}


@dataclass(frozen=True)
class Services:
    """Addresses on this machine, and what containers and programs need to reach them.

    ``project``: what Compose calls them together; a state folder has services and data of its own.
    """

    project: str
    mlflow: str
    store: str
    credentials: Mapping[str, str]

    @property
    def network(self) -> str:
        """The network in which containers reach the services by their names."""
        return f"{self.project}_default"

    def for_containers(self) -> dict[str, str]:
        """Environment of a step's container in the services' network."""
        return {
            "MLFLOW_TRACKING_URI": "http://mlflow:5000",
            "AWS_ENDPOINT_URL": "http://seaweedfs:8333",
            **self._common(),
        }

    def for_programs(self) -> dict[str, str]:
        """Environment of a program on this machine."""
        return {"MLFLOW_TRACKING_URI": self.mlflow, "AWS_ENDPOINT_URL": self.store, **self._common()}

    def _common(self) -> dict[str, str]:
        return {"AWS_DEFAULT_REGION": "us-east-1", "STLM_DATA_URL": "s3://stlm/lines", **self.credentials}


def start_services(state: Path) -> Services:
    """Start what is not running, wait until it answers; passwords and ports are kept in ``state/services.env``.

    Raises:
        UserError: no Docker, no Compose, or MLflow's image was not built.
        StlmError: a service does not come up.
    """
    client = docker_client()
    settings = _settings(state / "services.env", client)
    _compose(state, "up", "--detach", "--no-build")
    deadline = time.monotonic() + _WAIT_SECONDS
    project = project_name(state)
    while waiting := _unhealthy(client, project):
        if time.monotonic() > deadline or any(container.attrs["RestartCount"] for container in waiting):
            told = "\n".join(f"{container.name}: {_last_line(container)}" for container in waiting)
            raise StlmError(
                f"the services do not come up:\n{told}\nwhen services.env of {state} was lost, its passwords are new "
                "and the data old: `python -m pipelines local --line L --stop --forget` drops the data"
            )
        time.sleep(1)
    return Services(
        project=project,
        mlflow=f"http://127.0.0.1:{settings['STLM_MLFLOW_PORT']}",
        store=f"http://127.0.0.1:{settings['STLM_S3_PORT']}",
        credentials={name: settings[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
    )


def check_store(services: Services, bucket: str) -> None:
    """Write and remove one object: what uploads would try for many minutes is known within seconds.

    Raises:
        StlmError: the bucket takes no objects.
    """
    store = boto3.client(
        "s3",
        endpoint_url=services.store,
        aws_access_key_id=services.credentials["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=services.credentials["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 2}),
    )
    try:
        store.put_object(Bucket=bucket, Key=_PROBE, Body=b"probe")
        store.delete_object(Bucket=bucket, Key=_PROBE)
    except (BotoCoreError, ClientError) as error:
        raise StlmError(f"the store at {services.store} takes no objects: {error}; is the disk full?") from None


def project_name(state: Path) -> str:
    """What Compose calls the services of a state folder."""
    return f"stlm-{sha256_bytes(str(state.resolve()).encode())[:8]}"


def stop_services(state: Path, *, forget: bool = False) -> None:
    """Stop the services; with ``forget`` their data goes too, also that of services whose settings were lost."""
    _settings(state / "services.env", docker_client())
    _compose(state, "down", *(["--volumes"] if forget else []))
    if forget:
        (state / "services.env").unlink()


def docker_client() -> docker.DockerClient:
    """A connection to the container engine.

    Raises:
        UserError: there is none.
    """
    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError) as error:
        raise UserError(f"no container engine answers: {error}; start Docker, or set DOCKER_HOST") from None
    return client


def has_image(client: docker.DockerClient, image: str) -> bool:
    """Whether the engine has the image already."""
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _settings(path: Path, client: docker.DockerClient) -> dict[str, str]:
    """What compose.yaml asks for; made once, so that a second start finds its data again."""
    settings: dict[str, str] = {}
    if path.is_file():
        settings = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    settings.setdefault("POSTGRES_USER", "mlflow")
    settings.setdefault("POSTGRES_DB", "mlflow")
    settings.setdefault("POSTGRES_PASSWORD", secrets.token_hex(16))
    settings.setdefault("AWS_ACCESS_KEY_ID", f"stlm{secrets.token_hex(6)}")
    settings.setdefault("AWS_SECRET_ACCESS_KEY", secrets.token_hex(20))
    settings.setdefault("STLM_MLFLOW_PORT", str(_free_port()))
    settings.setdefault("STLM_S3_PORT", str(_free_port()))
    own = {name: f"localhost/stlm-{image}:{VERSION}" for name, image in _OWN.items()}
    if not has_image(client, own["STLM_MLFLOW_IMAGE"]):
        raise UserError(f"{own['STLM_MLFLOW_IMAGE']}: no such image; run `make images`")
    settings.pop("STLM_SEAWEEDFS_USER", None)
    for name, image in own.items():
        settings.pop(name, None)
        if has_image(client, image):
            settings[name] = image
    if settings.get("STLM_SEAWEEDFS_IMAGE") == own["STLM_SEAWEEDFS_IMAGE"]:
        settings["STLM_SEAWEEDFS_USER"] = "10001:10001"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")  # the passwords of existing data: never half written, never readable by others
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    part.replace(path)
    return settings


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead elsewhere: the user's own stores, servers and databases."""
    own = ("AWS_", "MLFLOW_", "POSTGRES_", "STLM_", "COMPOSE_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(own) or name == "AWS_CA_BUNDLE"}


def _compose(state: Path, *arguments: str) -> None:
    command = [*_compose_command(), "--project-name", project_name(state), "--file", str(_COMPOSE_FILE)]
    done = subprocess.run(
        [*command, "--env-file", str(state / "services.env"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),  # for Compose, a variable of the shell comes before the file
    )
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise StlmError(f"{_COMPOSE_FILE.name}: `compose {arguments[0]}` failed: {last}")


def _compose_command() -> list[str]:
    docker_program = shutil.which("docker")
    if docker_program:
        asked = subprocess.run([docker_program, "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return [docker_program, "compose"]
    if found := shutil.which("docker-compose"):
        return [found]
    raise UserError("Docker Compose not found: install the plugin `docker compose`, or docker-compose 1.29")


def _unhealthy(client: docker.DockerClient, project: str) -> list[Container]:
    listed = client.containers.list(all=True, filters={"label": f"com.docker.compose.project={project}"})
    return [
        container
        for container in listed
        if container.labels["com.docker.compose.service"] in _SERVERS
        and container.attrs["State"].get("Health", {}).get("Status") != "healthy"
    ]


def _last_line(container: Container) -> str:
    lines = container.logs(tail=3).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else str(container.status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
