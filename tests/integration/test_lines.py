"""``stlm lines add``, ``list`` and ``remove``: images come in whole and unchanged, params.yaml is edited in place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from line_project import PARAMS, catalog_of, content, images_of, mvtec_dataset, photograph, run_killed
from PIL import Image
from typer.testing import CliRunner

from stlm_core.cli.data import lines_app
from stlm_core.config import load_line
from stlm_core.data.adapters import ADAPTERS
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import build_manifest
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.steps.line_add import NewLine, add_line
from stlm_core.steps.line_update import Update, update_line
from stlm_core.steps.lines import list_lines, remove_line
from stlm_core.steps.validate import validate
from stlm_core.steps.workspace import Workspace


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "checkout" / "params.yaml"
    path.parent.mkdir()
    path.write_text(PARAMS)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for index in range(20):
        photograph(folder / f"part{index // 2}_{index}.png", index)
    (folder / "notes.txt").write_text("x")
    return folder


def reference(source: Path, **given: object) -> NewLine:
    return NewLine(**{"name": "lids", "source": source, "layout": "folder", "copy": False, **given})


def copied(source: Path, **given: object) -> NewLine:
    return NewLine(**{"name": "lids", "source": source, "layout": "folder", **given})


def untouched(params: Path) -> bool:
    return params.read_text() == PARAMS and [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_added_line_can_be_loaded_and_the_rest_of_the_file_stays(params: Path, images: Path) -> None:
    added = add_line(params, reference(images, profile="gpu", license="CC0-1.0", group_pattern=r"part(\d+)_"))
    assert params.read_text().startswith(PARAMS)
    config = load_line(params, "lids")
    assert (config.profile, config.image.size, config.data.license) == ("gpu", 1024, "CC0-1.0")
    assert config.data.path == "../photos"
    assert yaml.safe_load(added.entry)["lids"]["distill"] == {}
    assert added.report.counts == {"train": 14, "validation": 2, "calibration": 4, "test": 0}
    assert added.catalog == params.parent / "data" / "lines" / "lids" / "catalog.csv"
    catalog = catalog_of(params, "lids")
    assert sha256_file(added.catalog) == config.data.catalog_sha256
    assert {row.group for row in catalog.rows} == {str(number) for number in range(10)}
    assert [(row.path, row.sha256) for row in catalog.rows] == [
        (name, sha256_file(images / name)) for name in sorted(os.listdir(images)) if name.endswith(".png")
    ]


def test_a_folder_whose_name_is_not_utf_8_becomes_a_line(
    params: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = images.with_name(os.fsdecode(b"Stra\xdfe"))
    images.rename(latin)
    add_line(params, reference(latin))
    assert len(build_manifest(load_line(params, "lids")).rows) == 20
    assert "read again" not in capsys.readouterr().err


def test_checkout_and_data_can_move_together(params: Path, images: Path, tmp_path: Path) -> None:
    add_line(params, reference(images))
    before = build_manifest(load_line(params, "lids")).digest()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(params.parent, tmp_path / "elsewhere" / "checkout")
    shutil.move(images, tmp_path / "elsewhere" / "photos")
    moved = load_line(tmp_path / "elsewhere" / "checkout" / "params.yaml", "lids")
    assert build_manifest(moved).digest() == before


def test_copy_takes_images_and_masks_byte_for_byte_and_nothing_else(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset")
    (dataset / "readme.txt").write_text("x")
    photograph(dataset / "elsewhere.png", 99)
    add_line(params, copied(dataset, layout="mvtec"))
    expected = content(dataset)
    del expected["readme.txt"], expected["elsewhere.png"]
    config = load_line(params, "lids")
    assert config.data.path == "data/lines/lids/images"
    assert content(images_of(config)) == expected
    shutil.rmtree(dataset)
    manifest = build_manifest(config)
    assert len(manifest.rows) == 10
    assert sum(bool(row.mask_path) for row in manifest.rows) == 2
    assert sorted(os.listdir(images_of(config).parent)) == ["catalog.csv", "images", "line.json"]


def test_a_file_changed_in_place_is_noticed(params: Path, images: Path) -> None:
    add_line(params, copied(images))
    config = load_line(params, "lids")
    photograph(images_of(config) / "part0_0.png", 4711)
    problems = {row.path: row.problem for row in inspect_line(config).rows if row.problem}
    assert list(problems) == ["part0_0.png"]
    assert "bytes have changed since it was catalogued" in problems["part0_0.png"]


def test_files_that_come_later_do_not_belong_to_the_line(params: Path, images: Path) -> None:
    add_line(params, reference(images))
    photograph(images / "later.png", 77)
    assert len(build_manifest(load_line(params, "lids")).rows) == 20


@pytest.mark.parametrize("copy", [True, False])
def test_dry_run_says_everything_and_writes_nothing(params: Path, tmp_path: Path, copy: bool) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset")
    for index in range(12):
        (dataset / "train" / "good" / f"bad{index:02d}.png").write_bytes(b"x")
    (dataset / "notes.txt").write_text("x")
    before = content(dataset)
    added = add_line(params, copied(dataset, layout="mvtec", copy=copy), dry_run=True)
    report = "\n".join(added.report.lines())
    assert "4 train, 1 validation, 1 calibration, 4 test" in report
    assert "anomalous: 2 dent; masks: 2; groups: 0" in report
    assert "passed over: 1 not an image" in report
    assert "cannot be used: 12\n  train/good/bad00.png (not an image" in report
    assert "  and 2 more" in report
    assert "bad10" not in report
    path = yaml.safe_load(added.entry)["lids"]["data"]["path"]
    assert path == ("data/lines/lids/images" if copy else "../dataset")
    assert untouched(params)
    assert content(dataset) == before


def test_force_replaces_images_and_keeps_the_lines_own_settings(params: Path, images: Path, tmp_path: Path) -> None:
    add_line(params, copied(images, group_pattern=r"part(\d+)_"))
    params.write_text(params.read_text().replace("distill: {}", "distill: {steps: 7}"))
    others = tmp_path / "others"
    for index in range(12):
        photograph(others / f"{index}.png", 500 + index)
    with pytest.raises(UserError, match="`lids` is already there"):
        add_line(params, copied(others))
    add_line(params, copied(others, profile="gpu"), force=True)
    config = load_line(params, "lids")
    assert (config.profile, config.distill.steps, config.data.group_pattern) == ("gpu", 7, None)
    assert content(images_of(config)) == content(others)
    assert len(catalog_of(params, "lids").rows) == 12


def test_masks_are_only_asked_for_where_there_are_any(params: Path, images: Path, tmp_path: Path) -> None:
    add_line(params, copied(images))
    assert not load_line(params, "lids").validate_.require_masks
    add_line(params, copied(mvtec_dataset(tmp_path / "masks"), name="masks", layout="mvtec"))
    assert load_line(params, "masks").validate_.require_masks
    bare = mvtec_dataset(tmp_path / "bare")
    shutil.rmtree(bare / "ground_truth")
    add_line(params, copied(bare, name="bare", layout="mvtec"))
    assert not load_line(params, "bare").validate_.require_masks
    (tmp_path / "masks" / "ground_truth" / "dent" / "000_mask.png").unlink()
    with pytest.raises(UserError, match=r"1 in all: test/dent/000\.png \(no mask\)"):
        add_line(params, copied(tmp_path / "masks", name="some", layout="mvtec"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"name": "Lids"}, "lower-case"),
        ({"name": "../x"}, "lower-case"),
        ({"name": "sample"}, "already there"),
        ({"layout": "mvtec"}, "no folder train/good"),
        ({"layout": "nonsense"}, r"lines\.lids: `data\.format`"),
        ({"category": "caps"}, "no categories"),
        ({"profile": "tpu"}, "no profile `tpu`"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_file": Path("nowhere.csv")}, "nowhere.csv: cannot be read"),
        ({"source": Path("nowhere")}, "nowhere: no such folder"),
        ({"source": None}, "--from: say where the images are; format folder comes with no package"),
    ],
)
@pytest.mark.parametrize("copy", [True, False])
def test_refused_lines_leave_no_trace(
    params: Path, images: Path, line: dict[str, object], reason: str, copy: bool
) -> None:
    for dry_run in (True, False):
        with pytest.raises(UserError, match=reason):
            add_line(
                params, copied(images, copy=copy, **line) if "source" not in line else copied(**line), dry_run=dry_run
            )
    assert untouched(params)


def test_images_without_a_group_are_named(params: Path, images: Path) -> None:
    line = copied(images, group_pattern="lot(.)")
    assert len(add_line(params, line, dry_run=True).report.problems) == 20
    with pytest.raises(UserError, match=r"20 in all: part0_0\.png \(`data\.group_pattern` or .* gives it no group\)"):
        add_line(params, line)
    assert untouched(params)


def test_unusable_images_are_named(params: Path, images: Path) -> None:
    (images / "bad.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 in all: bad\.png \(not an image.*with --quarantine"):
        add_line(params, copied(images))
    assert untouched(params)


def test_quarantine_leaves_them_out_and_lists_them(params: Path, images: Path) -> None:
    (images / "bad, really.png").write_bytes(b"x")
    params.write_text(PARAMS.replace("image: {size: 256}", "validate: {max_quarantined: 0.05}"))
    added = add_line(params, copied(images, quarantine=True))
    config = load_line(params, "lids")
    assert config.validate_.unusable == "quarantine"
    listed = (added.catalog.parent / "quarantine.csv").read_text().splitlines()
    assert listed[0] == "path,split,defect_type,reason"
    assert listed[1].startswith('"bad, really.png",train,good,"not an image')
    assert len(listed) == 2
    assert len(catalog_of(params, "lids").rows) == 20
    assert len(list(images_of(config).iterdir())) == 20
    assert (images / "bad, really.png").is_file()


def test_quarantine_has_its_limit(params: Path, images: Path) -> None:
    (images / "bad.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 of 21 images are unusable, `validate\.max_quarantined` = 0\.02"):
        add_line(params, copied(images, quarantine=True))
    assert untouched(params)


def test_a_full_disk_is_told_before_anything_is_copied(
    params: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(images)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0 MB are needed and 0 MB are free; make room, or leave"):
        add_line(params, copied(images))
    assert untouched(params)


def test_an_image_that_changes_while_it_is_copied_is_noticed(
    params: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stlm_core.steps import line_import

    original = line_import.copy_file

    def late(source: Path, target: Path) -> str:
        if source.name == "part3_7.png":
            photograph(source, 4711)
        return original(source, target)

    monkeypatch.setattr(line_import, "copy_file", late)
    with pytest.raises(UserError, match=r"part3_7\.png has changed while it was read"):
        add_line(params, copied(images))
    assert untouched(params)


@pytest.mark.parametrize(
    ("module", "name", "nth", "after"),
    [
        ("stlm_core.steps.line_import", "copy_file", 8, False),
        ("stlm_core.steps.line_import", "Importer.publish", 1, True),
        ("stlm_core.data.catalog", "Catalog.stage", 1, True),
        ("stlm_core.steps.line_add", "write_params", 1, True),
    ],
)
def test_a_killed_import_can_be_repeated(
    params: Path, images: Path, module: str, name: str, nth: int, after: bool
) -> None:
    call = f"""
from stlm_core.steps.line_add import NewLine, add_line
add_line(Path("params.yaml"), NewLine("lids", Path({str(images)!r}), "folder"))
"""
    run_killed(call, module, name, nth, after=after, folder=params.parent)
    if name == "write_params":  # the line is there, whole
        assert len(build_manifest(load_line(params, "lids")).rows) == 20
    else:
        assert params.read_text() == PARAMS
    add_line(params, copied(images), force=name == "write_params")
    config = load_line(params, "lids")
    del (expected := content(images))["notes.txt"]
    assert content(images_of(config)) == expected
    assert sorted(os.listdir(images_of(config).parent)) == ["catalog.csv", "images", "line.json"]
    assert len(build_manifest(config).rows) == 20


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """Other images than ``images``, one of them damaged, so that there is something to quarantine."""
    folder = tmp_path / "others"
    for index in range(60):
        photograph(folder / f"{index}.png", 500 + index)
    (folder / "bad.png").write_bytes(b"x")
    return folder


def test_files_that_are_no_lines_stay(params: Path, images: Path) -> None:
    own = params.parent / "data" / "lines" / "lids" / "images" / "own.png"
    photograph(own, 1)
    with pytest.raises(UserError, match=r"images: holds files already; .*--force"):
        add_line(params, copied(images))
    assert list(content(own.parent)) == ["own.png"]
    assert params.read_text() == PARAMS
    add_line(params, copied(images), force=True)
    assert len(catalog_of(params, "lids").rows) == 20


@pytest.mark.parametrize("where", ["data/lines/lids/images", "data/lines/lids/images/deeper", "data", "link"])
def test_the_folder_that_is_replaced_cannot_be_the_source(params: Path, where: str) -> None:
    folder = params.parent / "data" / "lines" / "lids" / "images"
    for index in range(20):
        photograph(folder / "deeper" / f"{index}.png", index)
    (params.parent / "link").symlink_to(folder)
    before = content(params.parent)
    with pytest.raises(UserError, match=r"lies? in the folder .*images, which the copies would replace"):
        add_line(params, copied(params.parent / where), force=True)
    assert content(params.parent) == before


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["track_images", "write_params"])
def test_a_line_that_cannot_be_replaced_stays_whole(
    params: Path,
    images: Path,
    others: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    failure: type[BaseException] | BaseException,
    copy: bool,
) -> None:
    from stlm_core.steps import line_add

    def fail(*arguments: object) -> None:
        raise failure

    if not copy:
        step = "write_params"
    line = copied(others, quarantine=True, copy=copy)
    with monkeypatch.context() as patch:
        patch.setattr(line_add, step, fail)
        with pytest.raises((KeyboardInterrupt, UserError)):
            add_line(params, line)
    assert untouched(params)
    add_line(params, copied(images))
    (params.parent / "data" / "lines" / "lids" / "images.dvc").write_text("outs: []\n")
    before = content(params.parent / "data"), params.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(line_add, step, fail)
        with pytest.raises((KeyboardInterrupt, UserError)):
            add_line(params, line, force=True)
    assert (content(params.parent / "data"), params.read_bytes()) == before


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("again", ["add", "update"])
@pytest.mark.parametrize(
    ("module", "name", "nth", "after"),
    [
        ("stlm_core.steps.line_replacement", "Replacement.begin", 1, True),
        ("os", "rename", 2, True),  # the old images are put aside
        ("os", "rename", 3, True),  # the new ones have their place
        ("stlm_core.steps.line_add", "LineInfo.write", 1, True),
        ("stlm_core.steps.line_add", "write_params", 1, False),
        ("stlm_core.steps.line_add", "write_params", 1, True),
        ("stlm_core.steps.line_add", "publish", 1, True),
    ],
)
def test_a_killed_replacement_is_undone_or_finished(
    params: Path, images: Path, others: Path, module: str, name: str, nth: int, after: bool, again: str, copy: bool
) -> None:
    add_line(params, copied(images))
    folder = params.parent / "data" / "lines" / "lids"
    old = content(folder)
    call = f"""
from stlm_core.steps.line_add import NewLine, add_line
line = NewLine("lids", Path({str(others)!r}), "folder", copy={copy}, quarantine=True)
add_line(Path("params.yaml"), line, force=True)
"""
    replaced = name == "publish" or (name == "write_params" and after)
    if name == "rename" and not copy:
        nth = 1
    run_killed(call, module, name, nth, after=after, folder=params.parent)
    if again == "add":
        for _ in range(2):
            with pytest.raises(UserError):
                add_line(params, copied(params.parent / "nowhere"), force=True)
    else:
        update_line(params, "lids", Update(), params.parent / "outputs")
    config = load_line(params, "lids")
    assert len(build_manifest(config).rows) == (60 if replaced else 20)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    if not replaced:
        assert content(folder) == old
    else:
        assert sha256_file(folder / "catalog.csv") == config.data.catalog_sha256
        assert (folder / "quarantine.csv").is_file()
        del (expected := content(others))["bad.png"]
        assert content(images_of(config)) == (expected if copy else content(others))


def test_the_pointer_of_a_copy_given_up_is_not_to_be_committed(params: Path, images: Path) -> None:
    pointer = add_line(params, copied(images)).catalog.with_name("images.dvc")
    pointer.write_text("outs: []\n")
    assert pointer in add_line(params, copied(images), force=True).to_commit
    added = add_line(params, reference(images), force=True)
    assert added.to_commit == (params, added.catalog, added.catalog.with_name("line.json"))
    assert pointer.is_file()


def test_a_kill_before_the_catalogue_has_its_place(params: Path, images: Path) -> None:
    groups = params.parent / "groups.csv"
    groups.write_text("path,group\n" + "".join(f"part{index // 2}_{index}.png,{index}\n" for index in range(20)))
    call = f"""
from stlm_core.steps.line_add import NewLine, add_line
add_line(Path("params.yaml"), NewLine("lids", Path({str(images)!r}), "folder", group_file=Path("groups.csv")))
"""
    run_killed(call, "stlm_core.steps.line_add", "write_params", 1, after=True, folder=params.parent)
    catalog = params.parent / "data" / "lines" / "lids" / "catalog.csv"
    assert not catalog.exists()
    groups.unlink()  # the catalogue knows the groups
    workspace = Workspace(params.parent / "outputs", "lids")
    assert not validate(load_line(params, "lids"), workspace).reused
    with pytest.raises(UserError, match="already there"):
        add_line(params, copied(images))
    assert sorted(os.listdir(catalog.parent)) == ["catalog.csv", "images", "line.json"]
    assert validate(load_line(params, "lids"), workspace).reused


def test_a_params_file_that_is_a_link_stays_one(params: Path, images: Path, tmp_path: Path) -> None:
    link = tmp_path / "desk" / "params.yaml"
    link.parent.mkdir()
    link.symlink_to(params)
    project, outputs = params.parent, tmp_path / "outputs"
    add_line(link, copied(images))
    assert load_line(link, "lids").root == project
    assert len(catalog_of(link, "lids").rows) == 20
    photograph(images / "part9_99.png", 99)
    assert update_line(link, "lids", Update(), outputs).train == 1
    assert remove_line(link, "lids") == [project / "data" / "lines" / "lids"]
    assert link.readlink() == params
    assert params.read_text() == PARAMS
    assert list(link.parent.iterdir()) == [link]


def test_list(params: Path, images: Path) -> None:
    add_line(params, reference(images, license="own"))
    listed = {line.name: line for line in list_lines(params)}
    assert list(listed) == ["sample", "caps", "lids"]
    lids = listed["lids"]
    assert (lids.path, lids.present, lids.license, lids.images, lids.batches) == ("../photos", True, "own", 20, 1)
    assert (listed["sample"].present, listed["sample"].images) == (False, None)


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
    add_line(params, reference(images))
    assert load_line(params, "lids").data.format == "folder"


def test_remove_leaves_all_data(params: Path, images: Path) -> None:
    added = add_line(params, copied(images))
    before = content(added.catalog.parent)
    assert remove_line(params, "lids") == [added.catalog.parent]
    assert params.read_text() == PARAMS
    assert content(added.catalog.parent) == before
    with pytest.raises(UserError, match=r"no line `lids` \(known: sample, caps\)"):
        remove_line(params, "lids")
    with pytest.raises(UserError, match="holds the images of an earlier line"):
        add_line(params, copied(images))
    assert content(added.catalog.parent) == before
    assert remove_line_after_reference(params, images) == [images, params.parent / "data" / "lines" / "seals"]


def remove_line_after_reference(params: Path, images: Path) -> list[Path]:
    add_line(params, reference(images, name="seals"))
    return remove_line(params, "seals")


def test_remove_refuses_what_it_cannot_cut_out(params: Path) -> None:
    params.write_text("defaults: {}\nprofiles: {fast: {}}\nlines: {a: {data: {path: x}}, b: {data: {path: y}}}\n")
    with pytest.raises(UserError, match="remove it by hand"):
        remove_line(params, "a")


def test_an_import_tells_what_it_passed_over(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset")
    (dataset / "ground_truth" / "dent").rename(dataset / "masks of dents")
    photograph(dataset / "test" / "scratch" / "monday" / "000.png", 900)
    options = ["--from", str(dataset), "--params", str(params)]
    added = CliRunner().invoke(lines_app, ["add", "lids", *options])
    assert added.exit_code == 0, added.output
    assert "\npassed over: 3 outside the layout\n" in added.output
    assert "\nno masks found: where the defects are cannot be measured" in added.output


def test_commands(params: Path, images: Path) -> None:
    runner = CliRunner()
    options = ["--params", str(params)]
    dry = runner.invoke(lines_app, ["add", "lids", "--from", str(images), "--format", "folder", "--dry-run", *options])
    assert dry.exit_code == 0, dry.output
    assert dry.output.endswith("dry run: nothing written\n")
    added = runner.invoke(lines_app, ["add", "lids", "--from", str(images), "--format", "folder", *options])
    assert added.exit_code == 0, added.output
    assert "lids added to" in added.output
    assert "14 train, 2 validation, 4 calibration, 0 test" in added.output
    assert "not tracked by DVC; to commit: git add" in added.output
    again = ["add", "caps2", "--from", str(images), "--format", "folder", "--reference", *options]
    assert "can bring no version back" in runner.invoke(lines_app, again).output
    listed = runner.invoke(lines_app, ["list", *options])
    assert "lids" in listed.output
    assert "(missing)" in " ".join(listed.output.split())
    removed = runner.invoke(lines_app, ["remove", "lids", *options])
    assert removed.exit_code == 0
    assert "stays" in removed.output
    refused = runner.invoke(lines_app, ["remove", "lids", *options])
    assert isinstance(refused.exception, UserError)


@pytest.mark.parametrize("command", ["add", "update"])
def test_help_lists_every_format(command: str) -> None:
    shown = CliRunner().invoke(lines_app, [command, "--help"], env={"COLUMNS": "200"}).output
    for name, adapter in ADAPTERS.items():
        assert f"  {name} " in shown
        assert adapter.summary in shown


def test_real_bottle(datasets_root: Path, params: Path) -> None:
    bottle = datasets_root / "mvtec_ad" / "bottle"
    added = add_line(params, NewLine("bottle", bottle, license="CC BY-NC-SA 4.0"))
    assert added.report.counts == {"train": 146, "validation": 21, "calibration": 42, "test": 83}
    assert (added.report.masks, sum(added.report.defect_types.values())) == (63, 63)
    images = images_of(load_line(params, "bottle"))
    copies = content(images)
    assert len(copies) == 292 + 63
    assert all((bottle / name).read_bytes() == data for name, data in copies.items())
    mask = np.asarray(Image.open(images / "ground_truth" / "broken_large" / "000_mask.png"))
    assert set(np.unique(mask)) == {0, 255}
