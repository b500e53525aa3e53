"""A file system that is really full: one clear sentence, the earlier state whole, and a rerun that completes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_inputs import make_project, noise
from warm_process import STLM

CAPACITY = 16 << 20  # bytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={CAPACITY}", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def stlm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*STLM, *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    return filler


def test_validate_on_a_full_disk(small_disk: Path) -> None:
    make_project(small_disk)
    assert stlm(small_disk, "validate", "--line", "line").returncode == 0
    before = (small_disk / "outputs/line/validate/manifest.parquet").read_bytes()
    noise(3).save(small_disk / "images/train/good/100.png")
    filler = fill(small_disk)
    refused = stlm(small_disk, "validate", "--line", "line")
    assert refused.returncode == 2
    assert "the disk is full; free some space and run `stlm validate` again" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (small_disk / "outputs/line/validate/manifest.parquet").read_bytes() == before
    filler.unlink()
    again = stlm(small_disk, "validate", "--line", "line")
    assert again.returncode == 0, again.stderr
    assert (small_disk / "outputs/line/validate/manifest.parquet").read_bytes() != before


def test_lines_add_on_a_disk_that_is_too_small(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for index in range(48):
        noise(index, 400, 400).save(source / f"{index}.png")  # 22 MiB of noise
    make_project(small_disk)
    params = (small_disk / "params.yaml").read_bytes()
    add = ("lines", "add", "lids", "--from", str(source), "--format", "folder")
    refused = stlm(small_disk, *add)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "MB are needed and" in refused.stderr
    assert (small_disk / "params.yaml").read_bytes() == params
    assert not (small_disk / "data" / "lines" / "lids" / "images").exists()
    referenced = stlm(small_disk, *add, "--reference")
    assert referenced.returncode == 0, referenced.stderr
