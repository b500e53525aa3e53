"""Lines in a real DVC project: what is tracked, what git sees, and what a failure of DVC leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from line_project import PARAMS, catalog_of, content, images_of, mvtec_dataset, photograph
from typer.testing import CliRunner

from stlm_core.cli.data import lines_app
from stlm_core.config import load_line
from stlm_core.steps.line_add import NewLine, add_line
from stlm_core.steps.line_update import Update, update_line
from stlm_core.steps.lines import list_lines


def command(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return command(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    """A git and DVC project with this repository's own ignore rules."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    command(folder, "git", "init", "--quiet", ".")
    shutil.copy(repository / ".gitignore", folder)
    (folder / "params.yaml").write_text(PARAMS)
    dvc(folder, "init", "--quiet")
    return folder


def test_every_version_can_be_had_again(project: Path, tmp_path: Path) -> None:
    params, dataset = project / "params.yaml", mvtec_dataset(tmp_path / "dataset")
    added = add_line(params, NewLine("lids", dataset))
    folder = project / "data" / "lines" / "lids"
    assert added.tracked == folder / "images.dvc"
    assert not added.tracking_problem
    committed = {path.relative_to(project).as_posix() for path in added.to_commit}
    assert committed == {
        "params.yaml",
        "data/lines/lids/catalog.csv",
        "data/lines/lids/line.json",
        "data/lines/lids/images.dvc",
    }
    assert next(line for line in list_lines(params) if line.name == "lids").tracked
    command(project, "git", "add", *sorted(committed))
    staged = command(project, "git", "status", "--short", "--untracked-files=all", "data")
    assert staged.splitlines() == [f"A  {path}" for path in sorted(committed - {"params.yaml"})]
    first = {path: path.read_bytes() for path in added.to_commit}
    images = images_of(load_line(params, "lids"))
    old = content(images)

    photograph(tmp_path / "new" / "a.png", 100)
    done = update_line(params, "lids", Update(tmp_path / "new", "folder"), project / "outputs")
    assert done.tracked == folder / "images.dvc"
    assert (folder / "images.dvc").read_bytes() != first[folder / "images.dvc"]
    assert dvc(project, "status", "data/lines/lids/images.dvc").strip().endswith("up to date.")
    new = content(images)
    assert set(new) - set(old) == {"batch-001/a.png"}

    second = {path: path.read_bytes() for path in done.to_commit}
    for version, expected, rows in ((first, old, 10), (second, new, 11)):
        for path, data in version.items():
            path.write_bytes(data)
        shutil.rmtree(images)
        dvc(project, "checkout", "--quiet", "data/lines/lids/images.dvc")
        assert content(images) == expected
        assert len(catalog_of(params, "lids").rows) == rows


def test_what_dvc_cannot_do_does_not_undo_the_line(project: Path, tmp_path: Path) -> None:
    (project / ".gitignore").write_text("/data/\n")
    dataset = mvtec_dataset(tmp_path / "dataset")
    options = ["--params", str(project / "params.yaml"), "--from", str(dataset)]
    done = CliRunner().invoke(lines_app, ["add", "lids", *options])
    assert done.exit_code == 2
    assert "the line is complete, but DVC does not track its images: " in done.output
    assert "ignore" in done.output, done.output
    assert len(catalog_of(project / "params.yaml", "lids").rows) == 10
    assert not (project / "data" / "lines" / "lids" / "images.dvc").exists()


def test_referenced_images_are_not_tracked(project: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset")
    added = add_line(project / "params.yaml", NewLine("lids", dataset, copy=False))
    assert (added.tracked, added.tracking_problem) == (None, "")
    assert sorted(path.name for path in added.catalog.parent.iterdir()) == ["catalog.csv", "line.json"]
    assert sorted(path.name for path in dataset.parent.iterdir()) == ["checkout", "dataset"]


def test_pointer_names_as_many_files_as_were_copied(project: Path, tmp_path: Path) -> None:
    add_line(project / "params.yaml", NewLine("lids", mvtec_dataset(tmp_path / "dataset")))
    pointer = yaml.safe_load((project / "data" / "lines" / "lids" / "images.dvc").read_text())
    assert pointer["outs"][0]["nfiles"] == 12
    assert pointer["outs"][0]["path"] == "images"
