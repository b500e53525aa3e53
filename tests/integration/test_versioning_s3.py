"""Data under DVC on a real S3 store: the round trip, refusals, and a store that is killed in the middle of it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from seaweed import KEY, MISSING, SECRET, SeaweedServer, weed_binary
from versioned_project import IMAGES, LINE, VersionedProject, make_project

from stlm_core.files import sha256_tree

pytestmark = pytest.mark.slow  # every test starts DVC several times

_FILES = 400


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> VersionedProject:
    return make_project(tmp_path_factory.mktemp("template") / "project", {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running store with the bucket ``data``."""
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    server = SeaweedServer(tmp_path_factory.mktemp("weed"), weed)
    try:
        server.start()
        server.create_bucket("data")
        yield server
    finally:
        server.kill()


@pytest.fixture
def project(
    template: VersionedProject, store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> VersionedProject:
    """A project whose remote is a prefix of its own in the bucket, and the right credentials in its environment."""
    made = template.copy(tmp_path / "project", **store.environment)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", made.environment["DVC_SITE_CACHE_DIR"])
    done = made.stlm("data", "remote", f"s3://data/{tmp_path.name}", "--endpoint", store.endpoint)
    assert done.returncode == 0, done.stderr
    return made


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refusal, without the remote's name before it."""
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: remote `storage` (s3://")
    assert KEY not in done.stderr
    assert SECRET not in done.stderr
    return last.partition("): ")[2]


def test_data_go_to_the_store_and_come_back(project: VersionedProject) -> None:
    whole = project.add_images(60, size=20_000)
    assert "61 files pushed" in project.stlm("data", "push", "--line", LINE).stdout
    assert "in sync" in project.dvc("status", "--cloud")
    project.lose_everything()
    assert "61 files fetched" in project.stlm("data", "pull", "--line", LINE).stdout
    assert sha256_tree(project.images) == whole
    assert "up to date" in project.dvc("status")
    config = (project.folder / ".dvc" / "config").read_text()
    assert "verify = true" in config
    assert KEY not in config
    assert SECRET not in config


def test_plain_dvc_uses_the_same_store(project: VersionedProject) -> None:
    whole = project.add_images(5)
    assert "6 files pushed" in project.dvc("push")
    project.lose_everything()
    project.dvc("pull")
    assert sha256_tree(project.images) == whole


def test_a_large_file_in_several_parts_comes_back(project: VersionedProject) -> None:
    whole = project.add_images(1, size=60 << 20)
    assert project.stlm("data", "push").returncode == 0
    project.lose_everything()
    assert project.stlm("data", "pull").returncode == 0
    assert sha256_tree(project.images) == whole


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            {"AWS_ACCESS_KEY_ID": "unknown"},
            "the store does not know the access key; check AWS_ACCESS_KEY_ID",
        ),
        (
            {"AWS_SECRET_ACCESS_KEY": "wrong-hush"},
            "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY",
        ),
        ({"AWS_PROFILE": "nobody"}, "the AWS profile is unknown; check AWS_PROFILE"),
    ],
)
def test_wrong_credentials(project: VersionedProject, variables: dict[str, str], message: str) -> None:
    project.add_images(2)
    done = project.stlm("data", "push", **variables)
    assert refused(done) == message
    assert "wrong-hush" not in done.stderr
    assert "3 files pushed" in project.stlm("data", "push").stdout


def test_a_bucket_that_does_not_exist(project: VersionedProject, store: SeaweedServer) -> None:
    project.stlm("data", "remote", "s3://nowhere/x", "--endpoint", store.endpoint)
    for action in ("push", "pull", "status"):
        project.add_images(1)
        assert refused(project.stlm("data", action)) == (
            "no such bucket; make it, or correct the address with `stlm data remote`"
        )


@pytest.mark.parametrize("kind", ["refuses", "has no name", "is silent"])
def test_a_server_that_cannot_be_reached_is_told_within_seconds(project: VersionedProject, kind: str) -> None:
    project.add_images(1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if kind == "is silent":
            held.listen()
        host = "no-such-host.invalid:80" if kind == "has no name" else f"127.0.0.1:{held.getsockname()[1]}"
        project.stlm("data", "remote", "s3://data/x", "--endpoint", f"http://{host}")
        began = time.monotonic()
        said = refused(project.stlm("data", "push"))
    assert said in (
        "cannot be reached; check the address and the network, and run the command again",
        "does not answer; check the address and the network, and run the command again",
    )
    assert ("does not answer" in said) == (kind == "is silent")
    assert time.monotonic() - began < 40  # most of it Python's start on a busy machine


def test_a_damaged_object_is_named_and_never_taken(project: VersionedProject, store: SeaweedServer) -> None:
    whole = project.add_images(6)
    project.stlm("data", "push")
    client = store.client()
    prefix = project.folder.parent.name
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="data", Prefix=prefix)["Contents"]]
    victim = next(key for key in keys if not key.endswith(".dir"))
    good = client.get_object(Bucket="data", Key=victim)["Body"].read()
    client.put_object(Bucket="data", Key=victim, Body=b"x" * len(good))
    project.lose_everything()
    said = refused(project.stlm("data", "pull", "--line", LINE))
    assert said.startswith(f"{IMAGES.as_posix()}: 1 of 6 files are missing or damaged (the first: 0-0000")
    client.delete_object(Bucket="data", Key=victim)
    assert "missing there, by md5: " in refused(project.stlm("data", "pull", "--line", LINE))
    client.put_object(Bucket="data", Key=victim, Body=good)
    assert project.stlm("data", "pull", "--line", LINE).returncode == 0
    assert sha256_tree(project.images) == whole


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[SeaweedServer]:
    """A store that the test may kill and start again."""
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    server = SeaweedServer(tmp_path / "mortal", weed)
    try:
        server.start()
        server.create_bucket("data")
        yield server
    finally:
        server.kill()


def test_a_store_killed_while_it_is_used_costs_a_second_run_and_no_data(
    project: VersionedProject, mortal: SeaweedServer
) -> None:
    whole = project.add_images(_FILES, size=20_000)
    assert project.stlm("data", "remote", "s3://data/line", "--endpoint", mortal.endpoint).returncode == 0
    pushed = _killed_midway(project, mortal, "push", lambda: _stored(mortal))
    assert 0 < pushed <= _FILES

    mortal.start()
    assert 0 < _stored(mortal) <= _FILES
    again = project.stlm("data", "push", "--line", LINE)
    assert "files pushed" in again.stdout, again.stderr
    assert f" {_FILES + 1} files" not in again.stdout  # only those that were missing
    assert _stored(mortal) == _FILES + 1
    assert "in sync" in project.dvc("status", "--cloud")

    project.lose_everything()
    pulled = _killed_midway(project, mortal, "pull", lambda: len(project.cached()))
    assert 0 < pulled < _FILES
    assert not project.images.exists()
    mortal.start()
    assert "files fetched" in project.stlm("data", "pull", "--line", LINE).stdout
    assert sha256_tree(project.images) == whole
    assert "up to date" in project.dvc("status")


def _stored(server: SeaweedServer) -> int:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket="data", Prefix="line/")
    return sum(len(page.get("Contents", [])) for page in pages)


def _killed_midway(project: VersionedProject, server: SeaweedServer, action: str, done: Callable[[], int]) -> int:
    """Kill the store when some files have moved; what had moved by then."""
    process = project.start("data", action, "--line", LINE, "--jobs", "2")
    deadline = time.monotonic() + 60
    while (moved := done()) < 20:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.kill()
    killed = time.monotonic()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, output + errors
    assert "cannot be reached; what was transferred is kept, run the command again" in errors.splitlines()[-1]
    assert time.monotonic() - killed < 40  # every file would wait for the server in turn
    return moved
