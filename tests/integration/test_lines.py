"""``stlm lines``: params.yaml is edited in place, and only there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from stlm_core.cli.data import lines_app
from stlm_core.config import load_line
from stlm_core.data.manifest import Manifest, build_manifest
from stlm_core.errors import UserError
from stlm_core.steps.lines import NewLine, add_line, list_lines, remove_line

PARAMS = """\
# All settings.
defaults:
  image: {size: 256}   # pixels
profiles:
  cpu: {}
  gpu: {image: {size: 1024}}

lines:
  # The demo.
  sample:
    profile: cpu
    data:
      path: 'data/sample'

  # Packaging hall.
  caps:
    profile: gpu   # big
    data: {path: caps}
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "checkout" / "params.yaml"
    path.parent.mkdir()
    path.write_text(PARAMS)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"part{index // 2}_{index}.png")
    (folder / "notes.txt").write_text("x")
    return folder


def test_added_line_can_be_loaded_and_the_rest_of_the_file_stays(params: Path, images: Path) -> None:
    added = add_line(params, NewLine("lids", images, "folder", "gpu", license="CC0-1.0", group_pattern=r"part(\d+)_"))
    text = params.read_text()
    assert text.startswith(PARAMS)
    config = load_line(params, "lids")
    assert (config.profile, config.image.size, config.data.license) == ("gpu", 1024, "CC0-1.0")
    assert config.data.path == "../photos"
    assert yaml.safe_load(added.entry)["lids"]["distill"] == {}
    assert added.counts == {"train": 14, "validation": 2, "calibration": 4, "test": 0}
    assert added.record == params.parent / "data" / "lines" / "lids" / "manifest.parquet"
    assert Manifest.read(added.record, images) == build_manifest(config)


def test_checkout_and_data_can_move_together(params: Path, images: Path, tmp_path: Path) -> None:
    add_line(params, NewLine("lids", images, "folder"))
    before = build_manifest(load_line(params, "lids")).digest()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(params.parent, tmp_path / "elsewhere" / "checkout")
    shutil.move(images, tmp_path / "elsewhere" / "photos")
    moved = load_line(tmp_path / "elsewhere" / "checkout" / "params.yaml", "lids")
    assert build_manifest(moved).digest() == before


def test_copy_takes_the_images_along_and_nothing_else(params: Path, images: Path) -> None:
    add_line(params, NewLine("lids", images, "folder", copy=True))
    shutil.rmtree(images)
    config = load_line(params, "lids")
    assert config.data.path == "data/lines/lids/images"
    assert len(build_manifest(config).rows) == 20
    assert not (config.resolve(config.data.path) / "notes.txt").exists()


def test_dry_run_writes_nothing(params: Path, images: Path) -> None:
    added = add_line(params, NewLine("lids", images, "folder", copy=True), dry_run=True)
    assert yaml.safe_load(added.entry)["lids"]["data"]["path"] == "data/lines/lids/images"
    assert params.read_text() == PARAMS
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_force_keeps_the_lines_own_settings(params: Path, images: Path) -> None:
    add_line(params, NewLine("lids", images, "folder", group_pattern=r"part(\d+)_"))
    params.write_text(params.read_text().replace("distill: {}", "distill: {steps: 7}"))
    with pytest.raises(UserError, match="`lids` is already there"):
        add_line(params, NewLine("lids", images, "folder"))
    add_line(params, NewLine("lids", images, "folder", "gpu"), force=True)
    config = load_line(params, "lids")
    assert (config.profile, config.distill.steps, config.data.group_pattern) == ("gpu", 7, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"name": "Lids"}, "lower-case"),
        ({"name": "../x"}, "lower-case"),
        ({"name": "sample"}, "already there"),
        ({"layout": "mvtec"}, "no folder train/good"),
        ({"layout": "nonsense"}, r"lines\.lids: `data\.format`"),
        ({"profile": "tpu"}, "no profile `tpu`"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "lot(.)"}, "gives it no group"),
        ({"source": Path("nowhere")}, "nowhere: no such folder"),
    ],
)
def test_refused_lines_leave_no_trace(params: Path, images: Path, line: dict[str, object], reason: str) -> None:
    given = {"name": "lids", "source": images, "layout": "folder", **line}
    with pytest.raises(UserError, match=reason) as refused:
        add_line(params, NewLine(**given))  # type: ignore[arg-type]
    assert ".params." not in str(refused.value)
    assert params.read_text() == PARAMS
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_unusable_images_are_named(params: Path, images: Path) -> None:
    (images / "bad.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 in all: bad\.png \(not an image"):
        add_line(params, NewLine("lids", images, "folder"))
    assert params.read_text() == PARAMS


def test_list(params: Path, images: Path) -> None:
    add_line(params, NewLine("lids", images, "folder", license="own"))
    listed = {line.name: line for line in list_lines(params)}
    assert list(listed) == ["sample", "caps", "lids"]
    assert (listed["lids"].path, listed["lids"].present, listed["lids"].license) == ("../photos", True, "own")
    assert not listed["sample"].present


@pytest.mark.parametrize("name", ["sample", "caps"])
def test_remove_keeps_comments_of_the_others(params: Path, name: str) -> None:
    remove_line(params, name)
    text = params.read_text()
    other = {"sample": "caps", "caps": "sample"}[name]
    assert list(yaml.safe_load(text)["lines"]) == [other]
    assert {"sample": "# Packaging hall.", "caps": "# The demo."}[name] in text
    assert "size: 256}   # pixels" in text


def test_remove_the_last_line_and_add_one_again(params: Path, images: Path) -> None:
    remove_line(params, "sample")
    remove_line(params, "caps")
    assert yaml.safe_load(params.read_text())["lines"] == {}
    add_line(params, NewLine("lids", images, "folder"))
    assert load_line(params, "lids").data.format == "folder"


def test_remove_leaves_images_and_deletes_the_record(params: Path, images: Path) -> None:
    added = add_line(params, NewLine("lids", images, "folder"))
    assert remove_line(params, "lids") == [images]
    assert params.read_text() == PARAMS
    assert not added.record.parent.exists()
    with pytest.raises(UserError, match=r"no line `lids` \(known: sample, caps\)"):
        remove_line(params, "lids")


def test_remove_refuses_what_it_cannot_cut_out(params: Path) -> None:
    params.write_text("defaults: {}\nprofiles: {cpu: {}}\nlines: {a: {data: {path: x}}, b: {data: {path: y}}}\n")
    with pytest.raises(UserError, match="remove it by hand"):
        remove_line(params, "a")


def test_commands(params: Path, images: Path) -> None:
    runner = CliRunner()
    options = ["--params", str(params)]
    added = runner.invoke(lines_app, ["add", "lids", "--from", str(images), "--format", "folder", *options])
    assert added.exit_code == 0
    assert "lids added to" in added.output
    assert "14 train, 2 validation, 4 calibration, 0 test" in added.output
    listed = runner.invoke(lines_app, ["list", *options])
    assert "lids" in listed.output
    assert "(missing)" in listed.output
    removed = runner.invoke(lines_app, ["remove", "lids", *options])
    assert removed.exit_code == 0
    assert "its images stay in" in removed.output
    refused = runner.invoke(lines_app, ["remove", "lids", *options])
    assert isinstance(refused.exception, UserError)
