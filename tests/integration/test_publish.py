"""A line's version from a workstation to a cluster, over a real S3 store: publish, fetch, unpack, the same manifest."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from line_project import content, mvtec_dataset, photograph
from seaweed import KEY, MISSING, SECRET, SeaweedServer, weed_binary
from versioned_project import VersionedProject, make_project

from stlm_core.config import load_line
from stlm_core.files import sha256_file
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.integrations.mlflow_registry import Registry
from stlm_core.integrations.mlflow_run import LoggedRun
from stlm_core.steps.line_versions import LineVersion, find_version
from stlm_core.steps.packed_images import unpack_images

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # every test starts DVC several times
SAMPLE = "sample"
SHELF = "plant@2 #1"  # no address, though it looks like parts of one
RULES = {"min_train_images": 2, "near_duplicates": "off", "drift": "warn"}


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
def project(tmp_path: Path) -> VersionedProject:
    """A project with an untracked line ``sample`` that has no catalogue, and ``STLM_DATA_URL`` in a folder."""
    (tmp_path / SHELF).mkdir()
    made = make_project(tmp_path / "project", {"STLM_DATA_URL": str(tmp_path / SHELF)})
    mvtec_dataset(made.folder / "data" / SAMPLE, train=8)
    (made.folder / ".gitignore").write_text("/data/?*\n!/data/lines/\n!/data/*.dvc\n")
    tree = yaml.safe_load((made.folder / "params.yaml").read_text())
    tree["defaults"] = {"validate": RULES}
    tree["lines"] = {SAMPLE: {**tree["lines"].pop("caps"), "data": {"path": f"data/{SAMPLE}"}}}
    (made.folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return made


@pytest.fixture
def cluster(tmp_path: Path, project: VersionedProject) -> VersionedProject:
    """An empty folder: no git, no project, nothing of the user's."""
    (tmp_path / "pod" / "home").mkdir(parents=True)
    environment = {name: value for name, value in project.environment.items() if not name.startswith("DVC_")}
    return VersionedProject(tmp_path / "pod", environment | {"HOME": str(tmp_path / "pod" / "home")})


def use_store(store: SeaweedServer, project: VersionedProject, cluster: VersionedProject, prefix: str) -> None:
    """Keep images and versions in the bucket; the pod alone has the endpoint in its environment."""
    url = {"STLM_DATA_URL": f"s3://data/{prefix}/published"}
    project.environment.update(store.environment | url)
    cluster.environment.update(store.environment | url | {"AWS_ENDPOINT_URL": store.endpoint})
    done(project.stlm("data", "remote", f"s3://data/{prefix}/dvc", "--endpoint", store.endpoint))


def done(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stderr
    assert SECRET not in process.stdout + process.stderr
    return process.stdout


def refused(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 2, process.stdout + process.stderr
    assert SECRET not in process.stderr
    assert "Traceback" not in process.stderr
    return process.stderr.splitlines()[-1]


def track_sample(project: VersionedProject, remote: Path | None = None) -> None:
    project.dvc("add", "--quiet", f"data/{SAMPLE}")
    if remote is not None:
        project.use_folder(remote)


def add_catalogued(project: VersionedProject, source: Path) -> None:
    done(project.stlm("lines", "add", "bolts", "--from", str(source), "--license", "CC0-1.0"))


def as_in_a_step(pod: VersionedProject, line: str, archive: Path, project: VersionedProject) -> Path:
    """Unpack and validate as a pipeline's step does, with the settings published; the step's outputs."""
    root = pod.folder / f"step-{line}"
    unpack_images(archive, root)
    version = find_version(line, url=project.environment["STLM_DATA_URL"])
    tree = yaml.safe_load((project.folder / "params.yaml").read_text())
    tree["lines"] = {line: tree["lines"][line] | {"data": version.data.model_dump()}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    step = VersionedProject(root, pod.environment)
    done(step.stlm("validate", "--line", line))
    return root / "outputs" / line / "validate"


def assert_same_validation(here: Path, there: Path) -> None:
    for name in ("manifest.parquet", "validation.json", "quarantine.csv", "statistics.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


@pytest.mark.parametrize("catalogued", [False, True])
def test_the_round_trip_through_s3(
    catalogued: bool,
    store: SeaweedServer,
    project: VersionedProject,
    cluster: VersionedProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "bolts" if catalogued else SAMPLE
    if catalogued:
        add_catalogued(project, project.folder / "data" / SAMPLE)
        photograph(project.folder / "data/lines/bolts/images/stray.png", 9)  # in the folder, not in the catalogue
        project.dvc("add", "--quiet", "data/lines/bolts/images")
    else:
        track_sample(project)
    use_store(store, project, cluster, tmp_path.name)
    published = done(project.stlm("data", "publish", "--line", line))
    assert " published: s3://data/" in published
    again = done(project.stlm("data", "publish", "--line", line))
    assert "was published already, nothing to upload" in again
    assert "pushed" not in again

    out = cluster.folder / "images.tar"
    done(cluster.stlm("fetch-images", "--line", line, "--out", str(out)))
    done(cluster.stlm("fetch-images", "--line", line, "--out", str(out.with_name("again.tar")), "--scratch", "scratch"))
    assert sha256_file(out) == sha256_file(out.with_name("again.tar"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    there = as_in_a_step(cluster, line, out, project)
    done(project.stlm("validate", "--line", line))
    assert_same_validation(project.folder / "outputs" / line / "validate", there)
    images = Path(load_line(project.folder / "params.yaml", line).data.path)
    kept = content(project.folder / images)
    kept.pop("stray.png", None)
    assert content(cluster.folder / f"step-{line}" / images) == kept


def test_the_champions_statistics_come_from_mlflow(
    project: VersionedProject, cluster: VersionedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track_sample(project, tmp_path / "remote")
    done(project.stlm("data", "publish", "--line", SAMPLE))
    done(project.stlm("validate", "--line", SAMPLE))
    statistics = project.folder / "outputs" / SAMPLE / "validate" / "statistics.json"
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    with open_tracking(tmp_path) as tracking:
        experiment = tracking.client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
        run = tracking.client.create_run(experiment)
        tracking.client.log_artifact(run.info.run_id, str(statistics), "validation")
        empty = tracking.client.create_run(experiment)
        model = tracking.client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        registry = Registry(tracking, SAMPLE)
        registry.create()
        for each in (run, empty):
            registry.add(LoggedRun(each.info.run_id, experiment, model.model_id), {}, "")

    out = cluster.folder / "images.tar"
    fetch = ("fetch-images", "--line", SAMPLE, "--out", str(out), "--scratch", str(cluster.folder / "scratch"))
    known = {"MLFLOW_TRACKING_URI": database}
    assert "with the statistics of version 1" in done(cluster.stlm(*fetch, "--champion", "1", **known))
    first = sha256_file(out)
    done(cluster.stlm(*fetch, "--champion", "1", **known))
    assert sha256_file(out) == first

    reference = project.folder / "data" / "lines" / SAMPLE / "reference.json"
    reference.parent.mkdir(parents=True)
    shutil.copy(statistics, reference)  # as `stlm promote` on the workstation does
    done(project.stlm("validate", "--line", SAMPLE))
    there = as_in_a_step(cluster, SAMPLE, out, project)
    assert (there.parents[2] / "data" / "lines" / SAMPLE / "reference.json").read_bytes() == reference.read_bytes()
    assert_same_validation(project.folder / "outputs" / SAMPLE / "validate", there)
    assert '"drift": [\n' in (there / "validation.json").read_text()

    assert "with the statistics" not in done(cluster.stlm(*fetch, "--champion", "2", **known))
    assert "has no such version" in refused(cluster.stlm(*fetch, "--champion", "3", **known))
    assert "MLFLOW_TRACKING_URI" in refused(cluster.stlm(*fetch, "--champion", "1"))


def test_what_is_not_publishable(project: VersionedProject, tmp_path: Path) -> None:
    def publish(**variables: str) -> str:
        return refused(project.stlm("data", "publish", "--line", SAMPLE, **variables))

    assert "are not tracked by DVC; run `dvc add data/sample` first" in publish()
    project.dvc("add", "--quiet", f"data/{SAMPLE}")
    assert "no remote is set up; run `stlm data remote URL`" in publish()
    project.use_folder(tmp_path / "remote")
    assert "set STLM_DATA_URL" in publish(STLM_DATA_URL="")
    assert "no such folder; mount it or make it" in publish(STLM_DATA_URL=str(tmp_path / "absent"))

    image = photograph(project.folder / "data" / SAMPLE / "train" / "good" / "new.png", 77)
    assert "changed since it was tracked; keep the changes with `dvc add data/sample`" in publish()
    image.unlink()
    (project.folder / "data" / SAMPLE).rename(tmp_path / "away")
    assert "the images are not here; run `stlm data pull --line sample` first" in publish()
    (tmp_path / "away").rename(project.folder / "data" / SAMPLE)

    text = (project.folder / "params.yaml").read_text()
    for path in (str(tmp_path / "elsewhere"), str(project.folder / "data" / SAMPLE), f"../project/data/{SAMPLE}"):
        (project.folder / "params.yaml").write_text(text.replace(f"path: data/{SAMPLE}", f"path: {path}"))
        assert "lines.sample.data.path: " in (said := publish())
        assert "a cluster only gets what lies in the project's folder" in said
    (project.folder / "params.yaml").write_text(text)
    assert list((tmp_path / SHELF).iterdir()) == []
    for number, path in enumerate((f"data/{SAMPLE}", f"data/{SAMPLE}/", f"./data/{SAMPLE}")):  # one and the same
        (project.folder / "params.yaml").write_text(text.replace(f"path: data/{SAMPLE}", f"path: {path}"))
        said = done(project.stlm("data", "publish", "--line", SAMPLE))
        assert ("published already" in said) is (number > 0)


def test_images_that_are_not_the_catalogued_ones_are_neither_published_nor_fetched(
    project: VersionedProject, cluster: VersionedProject, tmp_path: Path
) -> None:
    add_catalogued(project, project.folder / "data" / SAMPLE)
    project.use_folder(tmp_path / "remote")
    images = project.folder / "data" / "lines" / "bolts" / "images"
    done(project.stlm("data", "publish", "--line", "bolts"))
    photograph(images / "train" / "good" / "000.png", 99)
    project.dvc("add", "--quiet", "data/lines/bolts/images")
    said = refused(project.stlm("data", "publish", "--line", "bolts"))
    assert "1 of 12 catalogued images or their masks are missing or changed (train/good/000.png)" in said
    assert "take the change in with `stlm lines update`" in said

    version = find_version("bolts", url=str(tmp_path / SHELF))  # made up: that catalogue with the new images
    project.dvc("push", "--quiet")
    pointer = (project.folder / version.pointer).read_bytes()
    files = dict(version.files) | {version.pointer: pointer}
    revision = f"{pointer.split()[3].decode().removesuffix('.dir')}-{version.revision.split('-')[1]}"
    made_up = LineVersion("bolts", revision, version.data, version.remote, version.pointer, files)
    (tmp_path / SHELF / "lines" / "bolts" / f"{revision}.tar").write_bytes(made_up.to_bytes())
    out = cluster.folder / "images.tar"
    said = refused(cluster.stlm("fetch-images", "--line", "bolts", "--out", str(out), "--revision", revision))
    assert "(train/good/000.png)" in said
    assert not out.exists()


def test_a_killed_publication_leaves_the_version_before_in_force(
    project: VersionedProject, cluster: VersionedProject, tmp_path: Path
) -> None:
    track_sample(project, tmp_path / "remote")
    done(project.stlm("data", "publish", "--line", SAMPLE))
    shelf = tmp_path / SHELF / "lines" / SAMPLE
    old = (shelf / "latest").read_text()
    photograph(project.folder / "data" / SAMPLE / "train" / "good" / "new.png", 77)
    track_sample(project)
    killing = """
import os, signal
from stlm_core.integrations.shelf import Shelf
original = Shelf.write
def write(self, name, content):
    original(self, name, content)
    os.kill(os.getpid(), signal.SIGKILL)
Shelf.write = write
from stlm_core.cli import main
main()
"""
    command = project.command("data", "publish", "--line", SAMPLE)
    command["args"][2] = killing
    assert subprocess.run(**command, capture_output=True, check=False).returncode == -9
    assert (shelf / "latest").read_text() == old
    assert len(list(shelf.glob("*.tar"))) == 2
    assert old.strip() in done(cluster.stlm("fetch-images", "--line", SAMPLE, "--out", "old.tar"))

    assert " published: " in done(project.stlm("data", "publish", "--line", SAMPLE))
    new = (shelf / "latest").read_text()
    assert new != old
    done(cluster.stlm("fetch-images", "--line", SAMPLE, "--out", "new.tar"))
    done(cluster.stlm("fetch-images", "--line", SAMPLE, "--out", "back.tar", "--revision", old.strip()))
    assert sha256_file(cluster.folder / "back.tar") == sha256_file(cluster.folder / "old.tar")
    with tarfile.open(cluster.folder / "new.tar") as tar:
        assert f"data/{SAMPLE}/train/good/new.png" in tar.getnames()


def test_settings_alone_are_published_under_the_same_name(project: VersionedProject, tmp_path: Path) -> None:
    track_sample(project, tmp_path / "remote")
    done(project.stlm("data", "publish", "--line", SAMPLE))
    before = find_version(SAMPLE, url=str(tmp_path / SHELF))
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(
        text.replace(f"path: data/{SAMPLE}", f"path: data/{SAMPLE}\n      seed: 5")
    )
    assert " published: " in done(project.stlm("data", "publish", "--line", SAMPLE))
    after = find_version(SAMPLE, url=str(tmp_path / SHELF))
    assert (before.revision, before.data.seed, after.revision, after.data.seed) == (
        before.revision,
        0,
        before.revision,
        5,
    )


def test_a_store_that_dies_in_the_middle_costs_a_second_run(
    project: VersionedProject, cluster: VersionedProject, tmp_path: Path
) -> None:
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    mortal = SeaweedServer(tmp_path / "mortal", weed)
    try:
        mortal.start()
        mortal.create_bucket("data")
        _dies_and_comes_back(project, cluster, mortal)
    finally:
        mortal.kill()


def _dies_and_comes_back(project: VersionedProject, cluster: VersionedProject, mortal: SeaweedServer) -> None:
    good = project.folder / "data" / SAMPLE / "train" / "good"
    for seed in range(300):
        photograph(good / f"many-{seed:03d}.png", 5000 + seed)
    track_sample(project)
    use_store(mortal, project, cluster, "line")
    done(project.stlm("data", "publish", "--line", SAMPLE))
    arguments = ("fetch-images", "--line", SAMPLE, "--out", "images.tar", "--scratch", "scratch", "--jobs", "2")
    cache = cluster.folder / "scratch" / SAMPLE / ".dvc" / "cache"

    def cached() -> int:
        return sum(path.is_file() for path in cache.rglob("*"))

    process = cluster.start(*arguments)
    deadline = time.monotonic() + 120
    while cached() < 20:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mortal.kill()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 2, output + errors
    assert "cannot be reached" in errors.splitlines()[-1]
    assert "attempt 1 of 5, next in 2 s" in errors
    assert KEY not in errors
    assert SECRET not in errors
    assert not (cluster.folder / "images.tar").exists()
    kept = cached()
    assert 20 <= kept < 300

    mortal.start()
    resumed = cluster.start(*arguments)
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    unpack_images(cluster.folder / "images.tar", cluster.folder / "copy")
    assert content(cluster.folder / "copy" / "data" / SAMPLE) == content(project.folder / "data" / SAMPLE)


def test_a_store_that_comes_back_in_time_is_waited_for(
    project: VersionedProject, cluster: VersionedProject, tmp_path: Path
) -> None:
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    mortal = SeaweedServer(tmp_path / "mortal", weed)
    try:
        mortal.start()
        mortal.create_bucket("data")
        track_sample(project)
        use_store(mortal, project, cluster, "line")
        done(project.stlm("data", "publish", "--line", SAMPLE))
        mortal.kill()
        process = cluster.start("fetch-images", "--line", SAMPLE, "--out", "images.tar")
        time.sleep(3)
        mortal.start()
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, output + errors
    finally:
        mortal.kill()
