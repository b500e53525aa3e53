"""The image ``serve`` as built: its parts list names everything in it, and a model answers with what it has.

Run by `make test-containers`, after `make images`.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator
from mlflow.models import Model
from tiny_onnx import tiny_onnx

from pipelines.local_services import docker_client, has_image
from pipelines.placement import Images
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_model import save_model

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

DISTRIBUTIONS = """
import json, sys
from importlib.metadata import distributions
print(json.dumps([[found.metadata["Name"], found.version] for found in distributions()]))
"""
# Starts the scoring server as the cluster's manifests do, sends it one request and prints the answer.
SERVE = """
import json, subprocess, sys, time, urllib.request
command = ["mlflow", "models", "serve", "-m", "/tmp/model", "--env-manager", "local", "-h", "127.0.0.1", "-p", "8080"]
server = subprocess.Popen(command, stdout=sys.stderr)
for attempt in range(240):
    time.sleep(0.5)
    try:
        urllib.request.urlopen("http://127.0.0.1:8080/ping", timeout=5)
        break
    except OSError:
        assert server.poll() is None
body = open("/tmp/model/serving_input_example.json", "rb").read().replace(b"false", b"true")
headers = {"Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8080/invocations", body, headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
server.terminate()
"""


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    try:
        client = docker_client()
    except UserError as error:
        pytest.skip(str(error))
    if not has_image(client, Images().serve):
        pytest.skip(f"no image {Images().serve}; run `make images`")
    return client


def _printed(engine: docker.DockerClient, *command: str) -> str:
    output: bytes = engine.containers.run(Images().serve, list(command), network_mode="none", remove=True)
    return output.decode()


@pytest.fixture(scope="module")
def listed(engine: docker.DockerClient) -> dict[str, Any]:
    text = _printed(engine, "cat", "/opt/stlm/sbom.cdx.json")
    assert make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(text) is None
    bom: dict[str, Any] = json.loads(text)
    return bom


def _components(bom: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {part["purl"]: part for part in bom["components"] if part["purl"].startswith(f"pkg:{kind}/")}


def test_every_python_distribution_is_listed(engine: docker.DockerClient, listed: dict[str, Any]) -> None:
    base = _printed(engine, "python", "-c", "import sys; print(sys._base_executable)").strip()
    installed = json.loads(_printed(engine, "python", "-c", DISTRIBUTIONS))
    below = json.loads(_printed(engine, base, "-c", DISTRIBUTIONS))
    parts = _components(listed, "pypi")
    assert {(part["name"], part["version"]) for part in parts.values()} == {tuple(pair) for pair in installed + below}
    assert len(installed) > 30
    without_hash = {part["name"] for part in parts.values() if "hashes" not in part}
    assert without_hash <= {"pip", "setuptools", "wheel"}, "only what came with the interpreter has no archive"
    assert all(entry["alg"] == "SHA-256" for part in parts.values() for entry in part.get("hashes", []))
    unlicensed = [part["name"] for part in parts.values() if "licenses" not in part]
    assert len(unlicensed) <= 3, unlicensed


def test_every_debian_package_and_python_are_listed(engine: docker.DockerClient, listed: dict[str, Any]) -> None:
    shown = _printed(engine, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n")
    parts = _components(listed, "deb")
    assert sorted(f"{part['name']} {part['version']}" for part in parts.values()) == sorted(shown.splitlines())
    assert all("distro=debian-12" in purl for purl in parts)
    version = _printed(engine, "python", "-c", "import platform; print(platform.python_version())").strip()
    assert list(_components(listed, "generic")) == [f"pkg:generic/python@{version}"]


def test_the_list_is_of_this_image_and_tied_together(engine: docker.DockerClient, listed: dict[str, Any]) -> None:
    labels = engine.images.get(Images().serve).labels
    root = listed["metadata"]["component"]
    assert (root["name"], root["version"]) == ("stlm-serve", labels["org.opencontainers.image.version"])
    assert root["properties"][0]["value"] == labels["org.opencontainers.image.revision"]
    references = {part["bom-ref"] for part in listed["components"]}
    tree = {entry["ref"]: set(entry.get("dependsOn", [])) for entry in listed["dependencies"]}
    assert tree.pop("stlm-serve") == references
    assert tree.keys() <= references
    assert all(needed <= references for needed in tree.values())
    assert any("numpy==" in needed for needed in tree[next(ref for ref in tree if ref.startswith("onnxruntime=="))])


def test_what_wrote_the_list_is_not_shipped(engine: docker.DockerClient, listed: dict[str, Any]) -> None:
    assert not [part for part in listed["components"] if "cyclonedx" in part["name"]]
    assert _printed(engine, "find", "/opt", "/usr", "-type", "d", "-iname", "*cyclonedx*").strip() == ""
    assert engine.images.get(Images().serve).attrs["Size"] <= 500_000_000


def test_a_model_is_served_by_the_image_read_only(engine: docker.DockerClient, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_onnx(), Model())
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(tmp_path / "model", "model", filter=_readable)
    volume = engine.volumes.create()
    mounts = {volume.name: {"bind": "/tmp", "mode": "rw"}}
    container = engine.containers.create(
        Images().serve, ["python", "-c", SERVE], network_mode="none", read_only=True, volumes=mounts, cap_drop=["ALL"]
    )
    try:
        assert container.put_archive("/tmp", stream.getvalue())
        container.start()
        assert container.wait(timeout=200)["StatusCode"] == 0, container.logs().decode()
        (answer,) = json.loads(container.logs(stderr=False).decode().splitlines()[-1])["predictions"]
    finally:
        container.remove(force=True)
        volume.remove(force=True)
    assert base64.b64decode(answer["heat_map_png"]).startswith(b"\x89PNG")
    assert 0 <= answer["score"] <= 1
    assert (answer["threshold"], answer["line"]) == (0.5, "tiny")


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode, entry.uid, entry.gid = 0o755, 10001, 10001
    return entry
