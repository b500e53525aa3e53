"""SeaweedFS as compose.yaml and the cluster start it, and the job that makes the buckets: the real binary."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from manifests import compose
from seaweed import KEY, MISSING, SECRET, free_port, weed_binary

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(weed_binary() is None, reason=MISSING),
]


def status(address: str) -> int:
    """The answer to a request without credentials; 0 is none."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture
def store(repository: Path, tmp_path: Path) -> Iterator[str]:
    with started(repository, tmp_path, tmp_path) as address:
        yield address


@pytest.fixture
def store_on_a_small_disk(repository: Path, tmp_path: Path, tmp_disk: Path) -> Iterator[str]:
    with started(repository, tmp_path, tmp_disk) as address:
        yield address


@pytest.fixture
def tmp_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 2 GiB, which takes memory only for what is written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=2G", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def started(repository: Path, tmp_path: Path, data: Path) -> Iterator[str]:
    """Address of a store started as compose.yaml does, at ports of the test's own, with its data in ``data``."""
    service = compose(repository / "infra" / "compose.yaml", {})[0]["services"]["seaweedfs"]
    arguments = [word for word in service["command"] if not word.startswith("-dir=")]
    ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port")}
    own = [f"-dir={data}", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items())]
    settings = {name: value for name, value in service["environment"].items() if name.startswith("WEED_")}
    environment = {**os.environ, **settings, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(weed_binary()), *arguments, *own], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        deadline = time.monotonic() + 60
        while status(f"{address}/healthz") != 200:
            assert process.poll() is None, (tmp_path / "log").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text(errors="replace")[-2000:]
            time.sleep(0.2)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def make_buckets(repository: Path, address: str, secret: str = SECRET) -> subprocess.CompletedProcess[str]:
    """Run the job's script as its container does."""
    script = repository / "infra" / "kustomize" / "components" / "services" / "create_buckets.py"
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [sys.executable, str(script), "mlflow", "stlm"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def client_of(address: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_every_bucket_takes_objects_on_a_small_disk(store_on_a_small_disk: str) -> None:
    client = client_of(store_on_a_small_disk)
    for name in ("stlm", "mlflow", "pipelines", "more"):
        client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="probe", Body=b"probe")
        assert client.get_object(Bucket=name, Key="probe")["Body"].read() == b"probe"


def test_the_store_knows_the_keys_of_its_environment_and_keeps_its_buckets(store: str, repository: Path) -> None:
    first, second = make_buckets(repository, store), make_buckets(repository, store)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == ["s3://mlflow: made", "s3://stlm: made"]
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == ["s3://mlflow: was there", "s3://stlm: was there"]

    client = client_of(store)
    client.put_object(Bucket="mlflow", Key="probe", Body=b"probe")
    assert client.get_object(Bucket="mlflow", Key="probe")["Body"].read() == b"probe"
    assert status(f"{store}/mlflow/probe") == 403
    refused = make_buckets(repository, store, secret="wrong")
    assert refused.returncode != 0
    assert "SignatureDoesNotMatch" in refused.stderr
