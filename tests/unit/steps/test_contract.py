"""A step is whole or absent, repeats only when something changed, and can be resumed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
from pathlib import Path

import pytest
import yaml

from stlm_core.config import load_line
from stlm_core.errors import UserError
from stlm_core.steps.contract import MANIFEST, read_manifest, run_step
from stlm_core.steps.workspace import Workspace


@pytest.fixture
def config(tmp_path):
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"a": {"data": {"path": "images"}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_line(tmp_path / "params.yaml", "a")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "input.txt").write_text("one")
    return tmp_path / "input.txt"


def run(config, source, folder, work=None, **options):
    def default(partial):
        (partial / "out.txt").write_text(source.read_text().upper())
        return "made out.txt"

    return run_step("evaluate", config, ("image",), {"source": source}, folder, work or default, **options)


def test_outputs_and_manifest_appear_together(config, source, tmp_path):
    result = run(config, source, tmp_path / "a" / "evaluate")
    manifest = read_manifest(result.folder)
    assert (result.summary, result.reused) == ("made out.txt", False)
    assert manifest["outputs"]["out.txt"]["bytes"] == 3
    assert set(manifest["inputs"]) == {"source"}
    assert manifest["peak_memory_mib"] > 1
    assert sorted(file.name for file in result.folder.iterdir()) == [MANIFEST, "out.txt"]


def test_nothing_runs_when_nothing_changed(config, source, tmp_path):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    assert run(config, source, folder).reused
    assert not run(config, source, folder, force=True).reused
    assert not run(config, source, folder, still_good=lambda _: False).reused
    source.write_text("two")
    assert not run(config, source, folder).reused
    assert (folder / "out.txt").read_text() == "TWO"


def test_changed_settings_and_changed_outputs_run_again(config, source, tmp_path):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    (folder / "out.txt").write_text("")
    assert not run(config, source, folder).reused
    (folder / "out.txt").write_text("TWO")  # as long as ONE: what DVC brings back from another day
    assert not run(config, source, folder).reused
    assert (folder / "out.txt").read_text() == "ONE"
    other = config.model_copy(update={"image": config.image.model_copy(update={"size": 128})})
    assert not run(other, source, folder).reused


@pytest.mark.parametrize("earlier", [False, True])
def test_what_was_whole_and_could_not_be_renamed_is_not_made_again(config, source, tmp_path, monkeypatch, earlier):
    folder = tmp_path / "evaluate"
    if earlier:
        run(config, source, folder, resumable=True)
        source.write_text("two")
    rename = os.rename

    def refuse(old, new):
        if Path(new) == folder and Path(old).name.endswith(".partial"):
            raise OSError(errno.EBUSY, "Device or resource busy", str(old))
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match="cannot be written: Device or resource busy"):
        run(config, source, folder, resumable=True)
    monkeypatch.setattr(os, "rename", rename)

    def not_again(partial):
        raise AssertionError

    result = run(config, source, folder, not_again, resumable=True)
    assert result.summary.removesuffix(" (up to date)") == "made out.txt"
    assert sorted(file.name for file in folder.iterdir()) == [MANIFEST, "out.txt"]
    assert (folder / "out.txt").read_text() == source.read_text().upper()
    assert run(config, source, folder, not_again).reused
    assert sorted(path.name for path in tmp_path.iterdir() if "evaluate" in path.name) == [".evaluate.lock", "evaluate"]


def test_outputs_that_were_moved_aside_when_the_process_was_killed_come_back(config, source, tmp_path):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    os.rename(folder, tmp_path / ".evaluate.old")
    assert run(config, source, folder).reused
    assert (folder / "out.txt").read_text() == "ONE"

    os.rename(folder, tmp_path / ".evaluate.old")
    source.write_text("two")
    assert not run(config, source, folder).reused
    assert (folder / "out.txt").read_text() == "TWO"
    assert sorted(path.name for path in tmp_path.iterdir() if "evaluate" in path.name) == [".evaluate.lock", "evaluate"]


def test_a_replacement_that_was_killed_between_its_renames_is_ended(config, source, tmp_path, monkeypatch):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    rename = os.rename

    def killed(old, new):
        if Path(old).name == ".evaluate.partial":
            raise KeyboardInterrupt
        rename(old, new)

    def newer(partial):
        (partial / "out.txt").write_text("NEW")
        return "made anew"

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, source, folder, newer, force=True)
    monkeypatch.setattr(os, "rename", rename)
    assert not folder.exists()
    result = run(config, source, folder)
    assert (result.reused, result.summary) == (True, "made anew (up to date)")
    assert (folder / "out.txt").read_text() == "NEW"
    assert sorted(path.name for path in tmp_path.iterdir() if "evaluate" in path.name) == [".evaluate.lock", "evaluate"]


def test_what_is_left_of_outputs_that_were_being_removed_is_not_taken_for_outputs(
    config, source, tmp_path, monkeypatch
):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    source.write_text("two")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda path: (Path(path) / "out.txt").unlink())
        run(config, source, folder)
    assert (tmp_path / ".evaluate.gone" / MANIFEST).exists()
    os.rename(folder, tmp_path / "taken away")
    assert not run(config, source, folder).reused
    assert (folder / "out.txt").read_text() == "TWO"
    run(config, source, folder, force=True)
    assert not (tmp_path / ".evaluate.gone").exists()


def test_a_failing_step_leaves_the_old_outputs(config, source, tmp_path):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    source.write_text("two")

    def fails(partial):
        (partial / "out.txt").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        run(config, source, folder, fails)
    assert (folder / "out.txt").read_text() == "ONE"


def killed_twice(found):
    """Work that leaves a file half done the first two times, and tells in ``found`` whether it found one."""

    def work(partial):
        found.append((partial / "half.txt").exists())
        (partial / "half.txt").write_text("x")
        if len(found) < 3:
            raise KeyboardInterrupt
        return "done"

    return work


def test_a_resumable_step_gets_its_half_done_work_back_unless_something_changed(config, source, tmp_path):
    folder, found = tmp_path / "evaluate", []
    work = killed_twice(found)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(config, source, folder, work, resumable=True)
    source.write_text("two")
    run(config, source, folder, work, resumable=True)
    assert found == [False, True, False]


def test_a_forced_step_that_was_killed_is_continued_by_the_same_command(config, source, tmp_path):
    folder, found = tmp_path / "evaluate", []
    work = killed_twice(found)
    with pytest.raises(KeyboardInterrupt):
        run(config, source, folder, work, resumable=True)
    with pytest.raises(KeyboardInterrupt):
        run(config, source, folder, work, resumable=True, force=True)  # all over again
    run(config, source, folder, work, resumable=True, force=True)
    assert found == [False, False, True]


def test_a_second_run_of_the_same_step_is_refused(config, source, tmp_path):
    with (tmp_path / ".evaluate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another `stlm evaluate` is writing here"):
            run(config, source, tmp_path / "evaluate")


def test_a_full_disk_is_one_clear_sentence(config, source, tmp_path):
    def fills_the_disk(partial):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full; free some space and run `stlm evaluate` again"):
        run(config, source, tmp_path / "evaluate", fills_the_disk)


def test_a_quota_that_is_used_up_is_one_clear_sentence(config, source, tmp_path):
    def fills_the_quota(partial):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(UserError, match="the disk quota is used up; free some space and run `stlm evaluate` again"):
        run(config, source, tmp_path / "evaluate", fills_the_quota)


def test_an_outputs_folder_that_is_a_file_is_named(config, source, tmp_path):
    (tmp_path / "notes.txt").write_text("not a folder")
    with pytest.raises(UserError, match=r"notes\.txt/a: cannot be written: Not a directory"):
        run(config, source, tmp_path / "notes.txt" / "a" / "evaluate")
    with pytest.raises(UserError, match=r"notes\.txt: cannot be written: (File exists|Not a directory)"):
        run(config, source, tmp_path / "notes.txt" / "evaluate")


def test_an_outputs_folder_that_cannot_be_made_is_named(config, source):
    with pytest.raises(UserError, match=r"^/proc/stlm/a: cannot be written: "):
        run(config, source, Path("/proc/stlm/a/evaluate"))


def test_an_outputs_folder_that_may_not_be_searched_is_named(config, source, tmp_path, monkeypatch):
    def refused(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(UserError, match=r"evaluate/manifest\.json: cannot be written: Permission denied"):
        run(config, source, tmp_path / "evaluate")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_an_output_that_cannot_be_written_is_named(config, source, tmp_path, number):
    def fails(partial):
        raise OSError(number, os.strerror(number), str(partial / "out.txt"))

    with pytest.raises(UserError, match=rf"evaluate\.partial/out\.txt: cannot be written: {os.strerror(number)}"):
        run(config, source, tmp_path / "evaluate", fails)


def test_an_error_of_another_file_is_not_told_as_one_of_the_outputs(config, source, tmp_path):
    def fails(partial):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    with pytest.raises(PermissionError):
        run(config, source, tmp_path / "a" / "evaluate", fails)


def test_a_file_larger_than_allowed_leaves_the_old_outputs(config, source, tmp_path):
    folder = tmp_path / "evaluate"
    run(config, source, folder)
    source.write_text("two")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def large(partial):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        (partial / "out.txt").write_bytes(b"x" * 100)
        return "never"

    try:
        with pytest.raises(OSError, match="too large"):
            run(config, source, folder, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (folder / "out.txt").read_text() == "ONE"


def test_a_missing_input_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"index\.parquet: missing; run `stlm synthesize --line a` first"):
        Workspace(tmp_path, "a").need("synthesize", "index.parquet")


def test_folders_can_be_given_one_by_one(tmp_path):
    workspace = Workspace(tmp_path, "a", {"distill": tmp_path / "elsewhere"})
    assert workspace.folder("distill") == tmp_path / "elsewhere"
    assert workspace.folder("export") == tmp_path / "a" / "export"
    with pytest.raises(ValueError, match="unknown step"):
        workspace.folder("bake")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_the_manifest_is_plain_json(config, source, tmp_path):
    folder = run(config, source, tmp_path / "evaluate").folder
    assert json.loads((folder / MANIFEST).read_text())["step"] == "evaluate"
