"""Data under DVC with a remote in a folder: the real DVC in a real git project, and what is said when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from versioned_project import IMAGES, LINE, VersionedProject, make_project

from stlm_core.errors import UserError
from stlm_core.files import sha256_tree
from stlm_core.integrations.versioning import pointer_of, track

pytestmark = pytest.mark.slow  # every test starts DVC several times

_HOLD = "import zc.lockfile, sys; held = zc.lockfile.LockFile(sys.argv[1]); print(flush=True); input()"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> VersionedProject:
    return make_project(tmp_path_factory.mktemp("template") / "project", {})


@pytest.fixture
def project(template: VersionedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionedProject:
    made = template.copy(tmp_path / "project")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", made.environment["DVC_SITE_CACHE_DIR"])
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 64 KiB; skipped where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refusal."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").strip()


def test_a_folder_is_tracked_and_tracked_again_after_a_change(project: VersionedProject) -> None:
    project.add_images(3)
    first = project.pointer.read_text()
    assert "nfiles: 3" in first
    assert project.add_images(3) == sha256_tree(project.images)
    assert project.pointer.read_text() == first
    project.add_images(2, seed=1)
    assert "nfiles: 5" in project.pointer.read_text()
    assert "up to date" in project.dvc("status")
    assert pointer_of(project.folder, project.images / "train" / "good") == project.pointer
    ignored = ["git", "-C", str(project.folder), "check-ignore", "--quiet"]
    assert subprocess.run([*ignored, str(project.images)], check=False).returncode == 0
    assert subprocess.run([*ignored, str(project.pointer)], check=False).returncode == 1


def test_outside_a_dvc_project_nothing_is_tracked(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert track(tmp_path / "images") is None
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert pointer_of(tmp_path, tmp_path / "images") is None


def test_a_missing_folder_is_not_tracked(project: VersionedProject) -> None:
    with pytest.raises(UserError, match="no such folder"):
        track(project.images)


@pytest.mark.parametrize("ignored", ["/data/\n", "/data/*\n!/data/lines/\n"])  # DVC takes the second for data itself
def test_a_pointer_that_dvc_would_not_see_is_refused_with_the_repair(project: VersionedProject, ignored: str) -> None:
    (project.folder / ".gitignore").write_text(ignored)
    with pytest.raises(UserError, match=r"images\.dvc: ignored by \.gitignore.*`/data/\?\*` and `!/data/lines/`"):
        project.add_images(1)
    (project.folder / ".gitignore").write_text("/data/?*\n!/data/lines/\n")
    project.add_images(1)


def test_dvc_sees_the_lines_in_this_repository(project: VersionedProject, repository: Path) -> None:
    shutil.copy(repository / ".gitignore", project.folder / ".gitignore")
    project.add_images(1)


def test_a_folder_that_a_stage_writes_is_refused(project: VersionedProject) -> None:
    project.images.mkdir(parents=True)
    (project.folder / "dvc.yaml").write_text(f"stages:\n  make:\n    cmd: echo\n    outs: [{IMAGES.as_posix()}]\n")
    with pytest.raises(UserError, match=r"DVC cannot track it: .*overlaps with an output"):
        track(project.images)


def test_a_folder_with_a_name_like_an_option_is_a_folder(project: VersionedProject) -> None:
    folder = project.images.with_name("--help")
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    assert track(folder) == folder.with_name("--help.dvc")


def test_a_full_disk_while_tracking_is_an_error_though_dvc_ends_with_0(
    project: VersionedProject, small_disk: Path
) -> None:
    project.dvc("cache", "dir", "--local", str(small_disk))
    with pytest.raises(UserError, match="no space left on the disk; make room and run the command again"):
        project.add_images(5, size=30_000)
    project.dvc("cache", "dir", "--local", "--unset")
    whole = project.add_images(5, size=30_000)
    shutil.rmtree(project.images)
    project.dvc("checkout")
    assert sha256_tree(project.images) == whole


def test_data_go_to_a_folder_and_come_back(project: VersionedProject, tmp_path: Path) -> None:
    whole = project.add_images(20)
    remote = tmp_path / "store"
    done = project.stlm("data", "remote", str(remote))
    assert done.returncode == 0, done.stderr
    assert f"remote `storage` ({remote})" in done.stdout
    before = project.stlm("data", "status").stdout
    assert [word.strip() for word in before.splitlines()[3].split("│")[3:6]] == ["clean", "21", "0"]
    assert "21 files pushed" in project.stlm("data", "push", "--line", LINE).stdout
    assert "has all" in project.stlm("data", "push").stdout
    project.lose_everything()
    lost = project.stlm("data", "status", "--line", LINE).stdout
    assert [word.strip() for word in lost.splitlines()[3].split("│")[3:6]] == ["missing", "0", "20"]
    assert "21 files fetched" in project.stlm("data", "pull", "--line", LINE).stdout
    assert sha256_tree(project.images) == whole
    assert "everything is here" in project.stlm("data", "pull").stdout
    assert "up to date" in project.dvc("status")
    assert "in sync" in project.dvc("status", "--cloud")


def test_plain_dvc_uses_the_same_remote(project: VersionedProject, tmp_path: Path) -> None:
    whole = project.add_images(4)
    project.use_folder(tmp_path / "store")
    assert "5 files pushed" in project.dvc("push")
    project.lose_everything()
    project.dvc("pull")
    assert sha256_tree(project.images) == whole


def test_only_what_is_new_is_pushed(project: VersionedProject, tmp_path: Path) -> None:
    project.use_folder(tmp_path / "store")
    project.add_images(10)
    project.stlm("data", "push")
    project.add_images(3, seed=1)
    assert "4 files pushed" in project.stlm("data", "push").stdout  # three images and the list of all thirteen


def test_earlier_versions_come_back_with_their_pointer(project: VersionedProject, tmp_path: Path) -> None:
    project.use_folder(tmp_path / "store")
    first, pointer = project.add_images(5), project.pointer.read_text()
    project.stlm("data", "push")
    project.add_images(5, seed=1)
    project.stlm("data", "push")
    project.lose_everything()
    project.pointer.write_text(pointer)
    project.stlm("data", "pull", "--line", LINE)
    assert sha256_tree(project.images) == first


def test_status_without_a_remote_asks_none(project: VersionedProject) -> None:
    project.add_images(2)
    (project.images / "more.png").write_bytes(b"more")
    shown = project.stlm("data", "status", "--no-remote")
    assert [word.strip() for word in shown.stdout.splitlines()[3].split("│")[3:6]] == ["changed", "-", "-"]


@pytest.mark.parametrize("action", ["push", "pull", "status"])
def test_without_a_remote(project: VersionedProject, action: str) -> None:
    project.add_images(1)
    assert refused(project.stlm("data", action)) == (
        "no remote is set up; run `stlm data remote URL` with a folder or s3://bucket/prefix"
    )


def test_an_untracked_line(project: VersionedProject, tmp_path: Path) -> None:
    project.use_folder(tmp_path / "store")
    path = IMAGES.as_posix()
    said = refused(project.stlm("data", "push", "--line", LINE))
    assert said == f"{path}: the data of line `{LINE}` are not tracked by DVC; run `dvc add {path}` first"
    assert "not tracked" in project.stlm("data", "status").stdout
    assert "no line `nope`" in refused(project.stlm("data", "pull", "--line", "nope"))


@pytest.mark.parametrize("tracked", [True, False])
def test_a_line_whose_images_belong_to_another_project(
    project: VersionedProject, template: VersionedProject, tmp_path: Path, tracked: bool
) -> None:
    project.use_folder(tmp_path / "store")
    other = template.copy(tmp_path / "other")
    if tracked:
        other.add_images(1)
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace(IMAGES.as_posix(), str(other.images)))
    shown = project.stlm("data", "status")
    assert shown.returncode == 0, shown.stderr
    assert "not tracked" in shown.stdout
    for action in ("push", "pull"):
        said = refused(project.stlm("data", action, "--line", LINE))
        assert said.startswith(f"{other.images}: the data of line `{LINE}` lie outside this DVC project")


def test_outside_a_project(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("lines: {}\n")
    lonely = VersionedProject(tmp_path, dict(os.environ))
    assert refused(lonely.stlm("data", "push")) == f"{tmp_path}: not a DVC project; run `dvc init` there"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s3://"], "not an S3 address"),
        (["s3://key:hush@bucket/x"], "not an S3 address"),
        (["gs://bucket/x"], "must be a folder or s3://bucket/prefix"),
        (["https://key:hush@host/x?token=hush"], "https://host/x: must be a folder"),
        (["s3://bucket", "--endpoint", "host:9000"], "must be http://host:port"),
        (["s3://bucket", "--endpoint", "http://key:hush@host"], "holds credentials; set AWS_ACCESS_KEY_ID"),
        (["s3://bucket", "--endpoint", "https://key:hu/hush@host:9000"], "holds credentials; set AWS_ACCESS_KEY_ID"),
        (["s3://bucket", "--endpoint", "key:hush@host:9000"], "holds credentials; set AWS_ACCESS_KEY_ID"),
        (["s3://bucket", "--endpoint", "http://[::1"], "must be http://host:port"),
        (["s3:key:hushhush@bucket"], "error: bucket: not an S3 address"),
        (["s3://key/hush@bucket"], "error: s3://bucket: not an S3 address"),
        (["key:hush/x@bucket"], "error: bucket: must be a folder"),
        (["https://key:hu?hush@host"], "error: https://…: must be a folder"),
        (["https://host/x?token=hu@hush"], "error: https://…: must be a folder"),
        (["store", "--endpoint", "key:hush@host"], "--endpoint host: only an s3:// remote has one"),
        (["/proc/none/store"], "cannot be made"),
        (["store", "--endpoint", "http://host"], "only an s3:// remote has one"),
        (["store", "--name", "../x"], "letters, digits"),
    ],
)
def test_addresses_that_cannot_be_a_remote(project: VersionedProject, arguments: list[str], message: str) -> None:
    config = (project.folder / ".dvc" / "config").read_bytes()
    done = project.stlm("data", "remote", *arguments)
    said = refused(done)
    assert message in f"error: {said}"
    assert "hush" not in done.stdout + done.stderr
    assert (project.folder / ".dvc" / "config").read_bytes() == config


def test_credentials_that_someone_wrote_into_the_configuration_are_not_shown(project: VersionedProject) -> None:
    project.add_images(1)
    remote = ("url = s3://key:hush@bucket/x", "endpointurl = http://key:hu/sh@127.0.0.1:9")
    lines = "\n    ".join(remote)
    (project.folder / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    {lines}\n"
    )
    said = refused(project.stlm("data", "push"))
    assert "remote `storage` (s3://bucket/x at http://127.0.0.1:9)" in said
    assert "key:" not in said
    assert "sh@" not in said


def test_a_folder_that_is_not_mounted(project: VersionedProject, tmp_path: Path) -> None:
    project.add_images(1)
    project.use_folder(tmp_path / "store")
    (tmp_path / "store").rmdir()
    for action in ("push", "pull", "status"):
        said = refused(project.stlm("data", action))
        assert said == f"remote `storage` ({tmp_path / 'store'}): no such folder; mount it or make it"
    assert not (tmp_path / "store").exists()


def test_data_that_left_the_cache_are_not_taken_for_pushed(project: VersionedProject, tmp_path: Path) -> None:
    project.add_images(5)
    project.use_folder(tmp_path / "store")
    project.cached()[0].unlink()
    said = refused(project.stlm("data", "push"))
    assert f"{IMAGES.as_posix()}: 1 of 5 files are missing or damaged (the first: 0-0000" in said
    assert "not in DVC's cache, so not pushed: get them with `stlm data pull`" in said
    project.dvc("add", IMAGES.as_posix())
    assert "pushed" in project.stlm("data", "push").stdout


def test_a_version_that_nobody_pushed(project: VersionedProject, tmp_path: Path) -> None:
    project.add_images(2)
    project.use_folder(tmp_path / "store")
    project.lose_everything()
    said = refused(project.stlm("data", "pull", "--line", LINE))
    assert said.endswith(
        f"{IMAGES.as_posix()}: this version is neither there nor here; push it from the machine that has it"
    )


def test_a_push_says_how_to_mend_a_lost_cache_when_the_images_are_here(
    project: VersionedProject, tmp_path: Path
) -> None:
    whole = project.add_images(2)
    project.use_folder(tmp_path / "store")
    shutil.rmtree(project.folder / ".dvc" / "cache")
    said = refused(project.stlm("data", "push", "--line", LINE))
    assert f"{IMAGES.as_posix()}: the list of its 2 files is missing; not in DVC's cache" in said
    assert "track the folder again with `dvc add`" in said
    assert sha256_tree(project.images) == whole
    project.dvc("add", IMAGES.as_posix())
    assert "3 files pushed" in project.stlm("data", "push", "--line", LINE).stdout


@pytest.mark.parametrize("arguments", [("--line", LINE), ()])
@pytest.mark.parametrize("lost", ["all", "one image"])
def test_a_version_that_cannot_be_had_leaves_the_images_that_are_here(
    project: VersionedProject, tmp_path: Path, arguments: tuple[str, ...], lost: str
) -> None:
    store = project.use_folder(tmp_path / "store")
    project.add_images(3)
    if lost == "one image":
        project.stlm("data", "push")
        next(file for file in sorted(store.rglob("*")) if file.is_file() and not file.suffix).unlink()
    first = project.pointer.read_text()
    shutil.rmtree(project.folder / ".dvc" / "cache")
    shutil.rmtree(project.images)
    second = project.add_images(2, seed=1)
    if lost == "all":
        project.stlm("data", "push")
    project.pointer.write_text(first)
    said = refused(project.stlm("data", "pull", *arguments))
    assert ("neither there nor here" if lost == "all" else "missing there, by md5: ") in said
    assert sha256_tree(project.images) == second


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_bad_file_on_the_remote_is_named_and_never_taken(
    project: VersionedProject, tmp_path: Path, damage: str
) -> None:
    whole = project.add_images(6)
    project.use_folder(tmp_path / "store")
    project.stlm("data", "push")
    victim = next(file for file in sorted((tmp_path / "store").rglob("*")) if file.is_file() and not file.suffix)
    good = victim.read_bytes()
    victim.chmod(0o644)
    victim.unlink() if damage == "missing" else victim.write_bytes(b"x" * len(good))
    project.lose_everything()
    for _ in range(2):
        said = refused(project.stlm("data", "pull", "--line", LINE))
        if damage == "missing":
            assert f"missing there, by md5: {victim.parent.name}{victim.name} (1 in all)" in said
        else:
            assert f"{IMAGES.as_posix()}: 1 of 6 files are missing or damaged (the first: 0-0000" in said
        assert said.endswith("from a machine that has this version, push it to another prefix or folder")
    victim.write_bytes(good)
    assert project.stlm("data", "pull", "--line", LINE).returncode == 0
    assert sha256_tree(project.images) == whole


def test_a_pull_never_deletes_what_dvc_does_not_have(project: VersionedProject, tmp_path: Path) -> None:
    project.use_folder(tmp_path / "store")
    project.add_images(3)
    project.stlm("data", "push")
    precious = project.images / "precious.png"
    precious.write_bytes(b"only copy")
    said = refused(project.stlm("data", "pull", "--line", LINE))
    assert "precious.png) are not in DVC and would be lost" in said
    assert precious.read_bytes() == b"only copy"


def test_a_full_remote(project: VersionedProject, small_disk: Path) -> None:
    project.add_images(5, size=30_000)
    project.use_folder(small_disk)
    said = refused(project.stlm("data", "push"))
    assert said == f"remote `storage` ({small_disk}): no space left on the disk; make room and run the command again"
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert project.stlm("data", "push").returncode == 0
    assert "in sync" in project.dvc("status", "--cloud")


def test_a_full_disk_while_pulling(project: VersionedProject, tmp_path: Path, small_disk: Path) -> None:
    whole = project.add_images(5, size=30_000)
    project.use_folder(tmp_path / "store")
    project.stlm("data", "push")
    project.lose_everything()
    project.dvc("cache", "dir", "--local", str(small_disk))
    assert "no space left on the disk" in refused(project.stlm("data", "pull"))
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert project.stlm("data", "pull").returncode == 0
    assert sha256_tree(project.images) == whole


def test_two_dvc_commands_at_once(project: VersionedProject, tmp_path: Path) -> None:
    project.add_images(1)
    project.use_folder(tmp_path / "store")
    lock = project.folder / ".dvc" / "tmp" / "lock"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import zc.lockfile, sys; held = zc.lockfile.LockFile(sys.argv[1]); print(); input()",
            lock,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        said = refused(project.stlm("data", "push"))
    finally:
        holder.communicate("\n")
    assert "another DVC command runs in this project" in said
