"""``stlm lines update``: what is new comes in, the test set stays, and nothing is ever half done."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_project import (
    PARAMS,
    catalog_of,
    content,
    images_of,
    mvtec_dataset,
    photograph,
    run_killed,
    start_python,
)
from PIL import Image
from typer.testing import CliRunner

from stlm_core.cli.data import lines_app
from stlm_core.config import load_line
from stlm_core.data.catalog import Catalog, CatalogRow
from stlm_core.data.drift import TrainingStatistics
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import build_manifest
from stlm_core.data.quarantine import Unusable, write_quarantine
from stlm_core.errors import UserError
from stlm_core.files import sha256_file, write_json_atomic
from stlm_core.steps.line_add import NewLine, add_line
from stlm_core.steps.line_update import Update, UpdatedLine, update_line
from stlm_core.steps.params_file import with_entry


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "checkout" / "params.yaml"
    path.parent.mkdir()
    path.write_text(PARAMS)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return mvtec_dataset(tmp_path / "dataset")


@pytest.fixture
def line(params: Path, dataset: Path) -> Path:
    """``params.yaml`` with the line ``lids``, copied from ``dataset``."""
    add_line(params, NewLine("lids", dataset))
    return params


def leave_out_unusable(params: Path, share: float) -> None:
    """Give the line ``lids`` the policy to leave out files that cannot be used, up to ``share`` of what is new."""
    rules = {"unusable": "quarantine", "max_quarantined": share}
    params.write_text(with_entry(params, params.read_text(), "lids", None, {}, rules))


def run(params: Path, source: Path | None = None, layout: str | None = None, **given: Any) -> UpdatedLine:
    dry_run = given.pop("dry_run", False)
    update = Update(source, layout or ("folder" if source else None), **given)
    return update_line(params, "lids", update, params.parent / "outputs", dry_run=dry_run)


def reasons(done: UpdatedLine) -> dict[str, str]:
    return {each.path: each.reason for each in done.left_out}


def test_rows(catalog: Catalog) -> tuple[CatalogRow, ...]:
    return tuple(row for row in catalog.rows if row.split == "test")


test_rows.__test__ = False  # type: ignore[attr-defined]


def new_images(folder: Path, *seeds: int) -> Path:
    for seed in seeds:
        photograph(folder / f"shot{seed}.png", seed)
    return folder


def is_sound(params: Path) -> bool:
    """Whether every image of the line is there, is the catalogued one, and every rule on sides holds."""
    inspection = inspect_line(load_line(params, "lids"))
    assert not [row for row in inspection.rows if row.problem or row.mask_problem]
    return len(inspection.rows) == len(catalog_of(params, "lids").rows)


def test_three_batches_leave_every_row_as_it_was(line: Path, tmp_path: Path) -> None:
    versions = [catalog_of(line, "lids")]
    for batch in (1, 2, 3):
        done = run(line, new_images(tmp_path / f"week{batch}", 100 * batch, 100 * batch + 1))
        assert (done.batch, done.train, done.test, done.left_out) == (batch, 2, 0, ())
        versions.append(catalog_of(line, "lids"))
        assert set(versions[-2].rows) < set(versions[-1].rows)
        assert done.catalog_sha256 == versions[-1].digest() == load_line(line, "lids").data.catalog_sha256
    assert test_rows(versions[0]) == test_rows(versions[-1])
    fresh = [row for row in versions[-1].rows if row.batch]
    assert [row.path for row in fresh] == [f"batch-00{b}/shot{100 * b + i}.png" for b in (1, 2, 3) for i in (0, 1)]
    images = images_of(load_line(line, "lids"))
    for row in fresh:
        original = tmp_path / f"week{row.batch}" / Path(row.path).name
        assert (images / row.path).read_bytes() == original.read_bytes()
    imports = json.loads((images.parent / "line.json").read_text())["imports"]
    assert [(each["batch"], each["source"]) for each in imports] == [
        (0, "../dataset"), (1, "../week1"), (2, "../week2"), (3, "../week3")
    ]  # fmt: skip
    assert line.read_text().startswith(PARAMS)
    assert is_sound(line)


def test_the_original_source_is_looked_at_again(line: Path, dataset: Path) -> None:
    leave_out_unusable(line, 0.5)
    unchanged = run(line)
    assert (unchanged.batch, unchanged.known, unchanged.left_out) == (None, 10, ())
    photograph(dataset / "train" / "good" / "900.png", 900)
    photograph(dataset / "test" / "good" / "901.png", 901)
    photograph(dataset / "train" / "good" / "003.png", 903)
    (dataset / "train" / "good" / "broken.png").write_bytes(b"x")
    shutil.copy(dataset / "train" / "good" / "001.png", dataset / "train" / "good" / "renamed.png")
    done = run(line)
    assert (done.batch, done.known, done.train, done.test) == (1, 9, 1, 0)
    assert reasons(done) == {
        "test/good/901.png": "the test set is frozen; --extend-test adds to it",
        "train/good/003.png": "other bytes than the image of that name had; give a new photograph a new name",
        "train/good/broken.png": "not an image in a known format (PNG, JPEG, BMP, TIFF, WebP)",
        "train/good/renamed.png": "the same bytes as train/good/001.png",
    }
    assert [row.path for row in catalog_of(line, "lids").rows if row.batch] == ["batch-001/train/good/900.png"]
    again = run(line)
    assert (again.batch, again.known) == (None, 10)
    assert is_sound(line)


def test_names_of_another_source_mean_nothing(line: Path, tmp_path: Path) -> None:
    other = photograph(tmp_path / "other" / "train" / "good" / "000.png", 4711).parents[2]
    done = run(line, other, "mvtec")
    assert (done.train, done.left_out) == (1, ())


def test_dry_run_writes_nothing(line: Path, tmp_path: Path) -> None:
    before, new = content(line.parent), new_images(tmp_path / "new", 100)
    done = run(line, new, dry_run=True)
    assert (done.dry_run, done.batch, done.train) == (True, 1, 1)
    assert content(line.parent) == before
    assert sorted(path.name for path in new.iterdir()) == ["shot100.png"]
    assert run(line, new).catalog_sha256 == done.catalog_sha256


def test_extended_test_set(line: Path, dataset: Path) -> None:
    leave_out_unusable(line, 0.5)
    photograph(dataset / "test" / "good" / "901.png", 901)
    photograph(dataset / "test" / "scratch" / "902.png", 902)
    old = catalog_of(line, "lids")
    done = run(line, extend_test=True)
    assert (done.train, done.test) == (0, 1)
    assert reasons(done) == {"test/scratch/902.png": "no mask"}
    assert set(old.rows) < set(catalog_of(line, "lids").rows)
    shown = CliRunner().invoke(lines_app, ["update", "lids", "--params", str(line), "--extend-test"])
    assert "THE TEST SET" not in shown.output
    photograph(dataset / "test" / "good" / "903.png", 903)
    shown = CliRunner().invoke(lines_app, ["update", "lids", "--params", str(line), "--extend-test"])
    assert "THE TEST SET HAS CHANGED: metrics cannot be compared" in shown.output


def test_parts_stay_on_their_side(params: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    for part in range(4):
        photograph(dataset / "train" / "good" / f"part{part}_0.png", part)
    photograph(dataset / "test" / "good" / "part7_0.png", 7)
    add_line(params, NewLine("lids", dataset, group_pattern=r"part(\d+)_"))
    photograph(dataset / "train" / "good" / "part7_1.png", 71)
    photograph(dataset / "train" / "good" / "part8_1.png", 81)
    photograph(dataset / "train" / "good" / "part2_1.png", 21)
    photograph(dataset / "test" / "good" / "part8_0.png", 80)
    photograph(dataset / "test" / "good" / "part3_0.png", 30)
    done = run(params, extend_test=True)
    assert reasons(done) == {
        "train/good/part7_1.png": "shows part 7, which test images show",
        "train/good/part8_1.png": "shows part 8, which test images show",
        "test/good/part3_0.png": "shows part 3, which training images show",
    }
    assert (done.train, done.test, done.new_groups) == (1, 1, ("8",))
    assert is_sound(params)


def test_groups_of_a_file_belong_to_the_import(params: Path, tmp_path: Path) -> None:
    dataset, table = tmp_path / "photos", tmp_path / "groups.csv"
    rows = [("path", "group"), *((f"shot{seed}.png", f"part {seed}") for seed in (1, 2, 3, 100))]
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    add_line(params, NewLine("lids", new_images(dataset, 1, 2, 3), "folder", group_file=table))
    new_images(dataset, 100)
    done = run(params)
    assert done.new_groups == ("part 100",)
    assert {row.group for row in catalog_of(params, "lids").rows} == {"part 1", "part 2", "part 3", "part 100"}
    table.unlink()
    assert is_sound(params)


def test_a_table_of_groups_says_nothing_of_another_folder(params: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("path,group\nshot1.png,a\nshot2.png,b\nshot3.png,c\n")
    add_line(params, NewLine("lids", new_images(tmp_path / "photos", 1, 2, 3), "folder", group_file=table))
    for name, seed in (("shot1.png", 100), ("shot2.png", 200)):
        photograph(tmp_path / "new" / name, seed)
    with pytest.raises(
        UserError, match=r"`data.group_file` gives batch-001/shot1\.png no group.*2 in all|2 in all.*no"
    ):
        run(params, tmp_path / "new")
    table.write_text(table.read_text() + "batch-001/shot1.png,d\nbatch-001/shot2.png,a\n")
    done = run(params, tmp_path / "new")
    assert (done.train, done.new_groups) == (2, ("d",))
    groups = {row.path: row.group for row in catalog_of(params, "lids").rows if row.batch}
    assert groups == {"batch-001/shot1.png": "d", "batch-001/shot2.png": "a"}
    assert run(params, tmp_path / "new").known == 2


def exposures(folder: Path, first: int, *numbers: int, seed: int) -> None:
    """Photographs of one magnetic tile: exposure n is frame first + 20 n."""
    for number in numbers:
        photograph(folder / f"exp{number}_num_{first + 20 * number}.png", seed + number)


def tiles(root: Path) -> Path:
    """Three tiles for training; of one tested tile the exposures 3 and 4."""
    for index in range(3):
        exposures(root / "train" / "good", 10_000 + 1000 * index, 1, 2, 3, seed=10 * index)
    exposures(root / "test" / "good", 50_000, 3, 4, seed=100)
    return root


@pytest.mark.parametrize("layout", ["magnetic_tile", "folder"])
def test_photographs_of_a_tested_tile_stay_out_whatever_the_smallest_number_is(
    params: Path, tmp_path: Path, layout: str
) -> None:
    add_line(params, NewLine("lids", tiles(tmp_path / "tiles"), "magnetic_tile"))
    new = tmp_path / "new"
    good = new / "train" / "good" if layout == "magnetic_tile" else new
    exposures(good, 50_000, 1, 2, 5, seed=200)  # of the tested tile, before and after
    exposures(good, 10_000, 5, seed=300)  # of a tile for training
    exposures(good, 70_000, 1, 2, seed=400)  # a new one
    done = run(params, new, layout)
    assert {each.path.rpartition("/")[2]: each.reason for each in done.left_out} == {
        f"exp{number}_num_{50_000 + 20 * number}.png": "shows part tile-50060, which test images show"
        for number in (1, 2, 5)
    }
    assert (done.train, done.new_groups) == (3, ("tile-70020",))
    groups = {row.path.rpartition("/")[2]: row.group for row in catalog_of(params, "lids").rows if row.batch}
    assert groups["exp5_num_10100.png"] == "tile-10020"


def test_a_smaller_number_in_the_original_folder_moves_no_tile_over_the_border(params: Path, tmp_path: Path) -> None:
    dataset = tiles(tmp_path / "tiles")
    add_line(params, NewLine("lids", dataset, "magnetic_tile"))
    shutil.rmtree(dataset / "test")  # else the adapter passes the good images of its tile over
    exposures(dataset / "train" / "good", 50_000, 1, 2, seed=200)
    exposures(dataset / "train" / "good", 10_000, 0, seed=300)
    done = run(params)
    assert list(reasons(done).values()) == ["shows part tile-50060, which test images show"] * 2
    assert (done.train, done.new_groups) == (1, ())
    groups = {row.path: row.group for row in catalog_of(params, "lids").rows if row.batch}
    assert groups == {"batch-001/train/good/exp0_num_10000.png": "tile-10020"}


def test_referenced_tiles_keep_their_names(params: Path, tmp_path: Path) -> None:
    dataset = tiles(tmp_path / "tiles")
    add_line(params, NewLine("lids", dataset, "magnetic_tile", copy=False))
    exposures(dataset / "train" / "good", 50_000, 1, 2, seed=200)
    exposures(dataset / "test" / "good", 10_000, 0, seed=300)
    done = run(params, extend_test=True)
    assert reasons(done) == {
        "test/good/exp0_num_10000.png": "shows part tile-10020, which training images show",
    }
    assert (done.train, done.batch) == (0, None)


def test_a_photograph_that_names_no_tile_cannot_join_a_line_of_tiles(params: Path, tmp_path: Path) -> None:
    add_line(params, NewLine("lids", tiles(tmp_path / "tiles"), "magnetic_tile"))
    with pytest.raises(UserError, match=r"shot1\.png \(its name is not exp<exposure>_num_<number>"):
        run(params, new_images(tmp_path / "new", 1))


def test_category_belongs_to_the_source(params: Path, tmp_path: Path) -> None:
    products = tmp_path / "products"
    mvtec_dataset(products / "lids")
    mvtec_dataset(products / "cups", seed=500)
    add_line(params, NewLine("lids", products, category="lids"))
    photograph(products / "lids" / "train" / "good" / "900.png", 900)
    assert run(params, products, "mvtec").train == 1
    one = photograph(tmp_path / "one" / "train" / "good" / "901.png", 901).parents[2]
    assert run(params, one, "mvtec").train == 1
    assert run(params).known == 11


def quarantine_of(params: Path) -> list[list[str]]:
    with (params.parent / "data" / "lines" / "lids" / "quarantine.csv").open(newline="") as stream:
        return [[row[0], row[1], row[3][:12]] for row in csv.reader(stream)][1:]


def test_an_unusable_file_refuses_the_update(line: Path, tmp_path: Path) -> None:
    new = new_images(tmp_path / "new", 100)
    for index in range(12):
        (new / f"broken{index:02d}.png").write_bytes(b"x")
    before = content(line.parent / "data"), line.read_text()
    with pytest.raises(
        UserError, match=r"unusable images, 12 in all: broken00\.png .*broken09\.png.* and 2 more; repair"
    ):
        run(line, new)
    assert (content(line.parent / "data"), line.read_text()) == before
    dry = run(line, new, dry_run=True)
    assert (dry.train, len(dry.left_out)) == (1, 12)
    assert dry.refusal.startswith("unusable images, 12 in all")


def test_unusable_files_are_kept_in_the_list_up_to_a_share(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset", train=60)
    (dataset / "train" / "good" / "bad.png").write_bytes(b"x")
    add_line(params, NewLine("lids", dataset, quarantine=True))
    assert run(params).batch is None  # what was left out before does not count again
    new = new_images(tmp_path / "new", 100, 101, 102)
    (new / "broken.png").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"1 of 4 new images are unusable, `validate.max_quarantined` = 0\.02.*broken\.png"
    ):
        run(params, new)
    assert quarantine_of(params) == [["train/good/bad.png", "train", "not an image"]]
    leave_out_unusable(params, 0.25)
    done = run(params, new)
    assert (done.batch, done.train) == (1, 3)
    assert params.parent / "data" / "lines" / "lids" / "quarantine.csv" in done.to_commit
    listed = [["train/good/bad.png", "train", "not an image"], ["batch-001/broken.png", "train", "not an image"]]
    assert quarantine_of(params) == listed
    assert run(params, new).batch is None
    assert quarantine_of(params) == listed


def test_a_photograph_of_the_test_set_saved_again_is_left_out(
    params: Path, datasets_root: Path, tmp_path: Path
) -> None:
    screw = datasets_root / "mvtec_ad" / "screw"
    part = tmp_path / "screw"
    for folder, count in (("train/good", 60), ("test/good", 20)):
        (part / folder).mkdir(parents=True)
        for image in sorted((screw / folder).iterdir())[:count]:
            shutil.copy(image, part / folder)
    add_line(params, NewLine("lids", part))
    new = tmp_path / "new"
    new.mkdir()
    test_image = next(iter(sorted((part / "test" / "good").iterdir())))
    Image.open(test_image).save(new / "again.jpg", quality=75)
    shutil.copy(sorted((screw / "train" / "good").iterdir())[100], new / "fresh.jpg")
    done = run(params, new)
    assert reasons(done) == {"again.jpg": f"shows the same as the test image test/good/{test_image.name}"}
    assert done.train == 1


def test_a_copied_line_must_be_whole_before_it_grows(line: Path, tmp_path: Path) -> None:
    images = images_of(load_line(line, "lids"))
    new = new_images(tmp_path / "new", 100)
    before = line.read_text()
    (images / "train" / "good" / "000.png").unlink()
    with pytest.raises(UserError, match=r"1 catalogued images are missing or changed: train/good/000\.png.*dvc pull"):
        run(line, new)
    photograph(images / "train" / "good" / "000.png", 4711)
    with pytest.raises(UserError, match=r"its bytes have changed.*dvc checkout"):
        run(line, new, drop_missing=True)
    assert line.read_text() == before
    photograph(images / "train" / "good" / "000.png", 0)
    assert run(line, new).train == 1


def test_referenced_images(params: Path, dataset: Path, tmp_path: Path) -> None:
    add_line(params, NewLine("lids", dataset, copy=False))
    photograph(dataset / "train" / "good" / "900.png", 900)
    done = run(params)
    assert (done.batch, done.train, done.known) == (1, 1, 10)
    assert [row.path for row in catalog_of(params, "lids").rows if row.batch] == ["train/good/900.png"]
    assert not (params.parent / "data" / "lines" / "lids" / "images").exists()
    with pytest.raises(UserError, match="uses its images where they are; put the new ones into"):
        run(params, new_images(tmp_path / "new", 100))
    with pytest.raises(UserError, match="--format folder: the line uses its images where they are, in format mvtec"):
        run(params, layout="folder")
    (dataset / "train" / "good" / "001.png").unlink()
    photograph(dataset / "train" / "good" / "002.png", 4711)
    with pytest.raises(UserError, match=r"2 catalogued images are missing or changed.*--drop-missing"):
        run(params)
    old = catalog_of(params, "lids")
    done = run(params, drop_missing=True)
    assert (done.dropped, done.train) == (("train/good/001.png", "train/good/002.png"), 1)
    assert test_rows(catalog_of(params, "lids")) == test_rows(old)
    assert is_sound(params)
    (dataset / "test" / "good" / "001.png").unlink()
    with pytest.raises(UserError, match=r"1 images of the frozen test set are missing or changed: test/good/001\.png"):
        run(params, drop_missing=True)


def test_a_folder_called_like_a_batch_is_no_batch(params: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "photos"
    new_images(dataset / "batch-001", 1, 2, 3)
    add_line(params, NewLine("lids", dataset, "folder"))
    assert run(params, new_images(tmp_path / "new", 100)).batch == 2
    assert is_sound(params)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "line.json").unlink(), "line.json: cannot be read"),
        (lambda folder: (folder / "line.json").write_text("[]"), "line.json: not a JSON object"),
        (lambda folder: (folder / "line.json").write_text('{"version": 1}'), "not the description of a line's imports"),
        (lambda folder: (folder / "catalog.csv").unlink(), "catalog.csv: no such file"),
        (lambda folder: (folder / "catalog.csv").write_text("x"), "catalog.csv: not a catalogue"),
    ],
)
def test_damaged_records_are_refused(line: Path, change: Any, reason: str) -> None:
    change(line.parent / "data" / "lines" / "lids")
    with pytest.raises(UserError, match=reason):
        run(line)


def test_a_line_without_a_catalogue_cannot_be_updated(params: Path) -> None:
    with pytest.raises(UserError, match=r"line `sample` has no catalogue.*stlm lines add sample --from FOLDER --force"):
        update_line(params, "sample", Update(), params.parent / "outputs")


KILLS = [
    ("stlm_core.steps.line_import", "copy_file", 2, False),
    ("stlm_core.steps.line_update", "Importer.publish", 1, False),
    ("stlm_core.steps.line_update", "Importer.publish", 1, True),
    ("stlm_core.steps.line_files", "write_json_atomic", 1, True),
    ("stlm_core.data.catalog", "Catalog.stage", 1, True),
    ("stlm_core.steps.line_update", "write_params", 1, True),
    ("stlm_core.steps.line_update", "publish", 2, True),
]


@pytest.mark.parametrize(("module", "name", "nth", "after"), KILLS)
def test_killed_at_any_point_the_line_is_the_old_or_the_new_one(
    line: Path, tmp_path: Path, module: str, name: str, nth: int, after: bool
) -> None:
    new = new_images(tmp_path / "new", 100, 101, 102)
    old, expected = catalog_of(line, "lids"), run(line, new, dry_run=True).catalog_sha256
    call = f"""
from stlm_core.steps.line_update import Update, update_line
update_line(Path("params.yaml"), "lids", Update(Path({str(new)!r}), "folder"), Path("outputs"))
"""
    run_killed(call, module, name, nth, after=after, folder=line.parent)
    found = catalog_of(line, "lids")
    finished = module == "stlm_core.steps.line_update" and name in ("write_params", "publish")
    assert found.digest() == (expected if finished else old.digest())
    assert is_sound(line)
    done = run(line, new)
    assert done.catalog_sha256 == expected == catalog_of(line, "lids").digest()
    assert (done.batch is None) == finished
    folder = line.parent / "data" / "lines" / "lids"
    assert sorted(path.name for path in folder.iterdir()) == ["catalog.csv", "images", "line.json"]
    assert sha256_file(folder / "catalog.csv") == expected
    assert len(json.loads((folder / "line.json").read_text())["imports"]) == 2
    assert is_sound(line)


def test_two_updates_at_once_both_count(line: Path, tmp_path: Path) -> None:
    processes = []
    for number in (1, 2):
        new = new_images(tmp_path / f"new{number}", *range(100 * number, 100 * number + 5))
        call = f"""
from pathlib import Path
from stlm_core.steps.line_update import Update, update_line
update_line(Path("params.yaml"), "lids", Update(Path({str(new)!r}), "folder"), Path("outputs"))
"""
        processes.append(start_python(call, line.parent))
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    rows = catalog_of(line, "lids").rows
    assert sorted(row.batch for row in rows if row.batch) == [1] * 5 + [2] * 5
    assert is_sound(line)


def train(params: Path) -> None:
    """Leave what a training of the line as it is now leaves: the images it knew, the bank, and what names both."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    outputs = params.parent / "outputs" / "lids"
    manifest = build_manifest(load_line(params, "lids"))
    learned = [row.sha256 for row in (*manifest.train(), *manifest.validation())]
    (outputs / "validate").mkdir(parents=True, exist_ok=True)
    manifest.write(outputs / "validate" / "manifest.parquet")
    write_quarantine(outputs / "validate" / "quarantine.csv", ())
    read = {"inputs": {"manifest": sha256_file(outputs / "validate" / "manifest.parquet")}}
    write_json_atomic(outputs / "synthesize" / "manifest.json", read)
    (outputs / "synthesize").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"image": learned, "variant": [0] * len(learned)}), outputs / "synthesize" / "index.parquet"
    )
    bank = sha256_file(outputs / "synthesize" / "index.parquet")
    write_json_atomic(outputs / "train-fa" / "manifest.json", {"step": "train-fa", "inputs": {"bank": bank}})


def test_retraining_is_due_when_enough_has_changed(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset", train=20)
    add_line(params, NewLine("lids", dataset))
    assert run(params).retraining.reasons == ("never trained",)
    train(params)
    idle = run(params).retraining
    assert (idle.due, idle.new_share, idle.drift) == (False, 0, None)
    assert idle.reasons == (
        "0 good images since the last training, which had 20: less than `data.retrain_share` = 0.1",
    )
    one = run(params, new_images(tmp_path / "one", 100)).retraining
    assert (one.due, one.new_share) == (False, 0.05)
    two = run(params, new_images(tmp_path / "two", 101)).retraining
    assert (two.due, two.new_share) == (True, 0.1)
    assert two.reasons == ("2 good images since the last training, which had 20: at least `data.retrain_share` = 0.1",)
    train(params)
    assert not run(params).retraining.due
    photograph(dataset / "test" / "good" / "900.png", 900)
    assert "1 test images are newer than the last training" in run(params, extend_test=True).retraining.reasons
    train(params)
    assert not run(params).retraining.due  # a batch of test images only is in no bank
    (params.parent / "outputs" / "lids" / "synthesize" / "index.parquet").write_bytes(b"x")
    assert run(params).retraining.reasons == ("the data of the last training are not there any more",)


def test_a_batch_that_is_all_for_calibration_is_known_after_training(params: Path, tmp_path: Path) -> None:
    add_line(params, NewLine("lids", mvtec_dataset(tmp_path / "dataset", train=20)))
    for seed in range(100, 130):
        run(params, new_images(tmp_path / str(seed), seed))
        rows = build_manifest(load_line(params, "lids")).rows
        if next(row for row in rows if row.path.endswith(f"/shot{seed}.png")).split == "calibration":
            break
    else:
        pytest.fail("no image fell into calibration")
    train(params)
    assert run(params).retraining.new_share == 0


def test_without_the_manifest_of_the_training_later_batches_count_as_new(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset", train=20)
    add_line(params, NewLine("lids", dataset))
    photograph(dataset / "test" / "good" / "900.png", 900)
    run(params, extend_test=True)
    run(params, new_images(tmp_path / "new", *range(100, 110)))
    train(params)
    run(params, new_images(tmp_path / "newer", 200))
    manifest = params.parent / "outputs" / "lids" / "validate" / "manifest.parquet"
    build_manifest(load_line(params, "lids")).write(manifest)  # validated again, not trained
    found = run(params).retraining
    assert (found.due, found.reasons) == (
        False,
        ("1 good images since the last training, which had 30: less than `data.retrain_share` = 0.1",),
    )


def test_an_image_in_quarantine_at_the_last_training_is_not_new(params: Path, tmp_path: Path) -> None:
    add_line(params, NewLine("lids", mvtec_dataset(tmp_path / "dataset", train=4)))
    train(params)
    folder = params.parent / "outputs" / "lids"
    manifest = build_manifest(load_line(params, "lids"))
    gone = manifest.calibration()[0]
    replace(manifest, rows=tuple(row for row in manifest.rows if row != gone)).write(
        folder / "validate" / "manifest.parquet"
    )
    read = {"inputs": {"manifest": sha256_file(folder / "validate" / "manifest.parquet")}}
    write_json_atomic(folder / "synthesize" / "manifest.json", read)
    assert run(params).retraining.new_share == pytest.approx(1 / 3)
    entry = Unusable(gone.path, "blank", "contrast 0", gone.sha256)
    write_quarantine(folder / "validate" / "quarantine.csv", (entry,))
    assert run(params).retraining.new_share == 0


def test_drift_makes_retraining_due(params: Path, tmp_path: Path) -> None:
    dataset = mvtec_dataset(tmp_path / "dataset", train=40)
    add_line(params, NewLine("lids", dataset))
    train(params)
    rows = [row for row in inspect_line(load_line(params, "lids")).rows if row.split != "test"]
    TrainingStatistics.of(rows).write(params.parent / "data" / "lines" / "lids" / "reference.json")
    alike = run(params, new_images(tmp_path / "alike", 100, 101, 102), dry_run=True).retraining
    assert (alike.due, alike.drift) == (False, ())
    dark = tmp_path / "dark"
    for seed in (200, 201, 202):
        image = photograph(dark / f"{seed}.png", seed)
        Image.open(image).point(lambda level: level // 4).save(image)
    found = run(params, dark).retraining
    assert found.due
    assert found.drift is not None
    assert found.drift[0].startswith("brightness 0.1")
    assert any(
        reason.startswith("the new images differ from the training images: brightness") for reason in found.reasons
    )


def test_command_prints_json_for_a_scheduler(line: Path, tmp_path: Path) -> None:
    new = new_images(tmp_path / "new", 100)
    (new / "broken.png").write_bytes(b"x")
    options = ["update", "lids", "--from", str(new), "--format", "folder", "--params", str(line)]
    leave_out_unusable(line, 0.5)
    dry = CliRunner().invoke(lines_app, [*options, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "1 good training images and 0 test images would be added as batch 1" in dry.output
    assert "left out, unusable: 1\n  broken.png: not an image" in dry.output
    assert "retraining is due: never trained" in dry.output
    done = CliRunner().invoke(lines_app, [*options, "--json"])
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert (value["batch"], value["train"], value["left_out_by_kind"]) == (1, 1, {"unusable": 1})
    assert value["retraining"]["due"] is True
    assert value["catalog_sha256"] == load_line(line, "lids").data.catalog_sha256


IMAGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)), min_size=1, max_size=5)  # seed, part


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=st.tuples(IMAGES, IMAGES),
    steps=st.lists(st.tuples(st.sampled_from(["source", "folder"]), IMAGES, IMAGES, st.booleans()), max_size=4),
)
def test_any_history_keeps_the_sides_apart(
    tmp_path_factory: pytest.TempPathFactory,
    first: tuple[list[tuple[int, int]], list[tuple[int, int]]],
    steps: list[tuple[str, list[tuple[int, int]], list[tuple[int, int]], bool]],
) -> None:
    root = tmp_path_factory.mktemp("history")
    params = root / "checkout" / "params.yaml"
    params.parent.mkdir()
    params.write_text(PARAMS)
    dataset = root / "dataset"

    def fill(folder: Path, wanted: list[tuple[int, int]], step: int) -> None:
        for seed, part in wanted:
            photograph(folder / f"p{part}_{seed}_{step}.png", seed)

    train_parts = [(seed, part) for seed, part in first[0] if part < 3]
    fill(dataset / "train" / "good", train_parts or [(0, 0)], 0)
    fill(dataset / "test" / "good", [(seed + 20, 4) for seed, _ in first[1]], 0)
    add_line(params, NewLine("lids", dataset, group_pattern=r"p(\d+)_"))
    catalog = catalog_of(params, "lids")
    for number, (kind, train_new, test_new, extend) in enumerate(steps, start=1):
        if kind == "source":
            fill(dataset / "train" / "good", train_new, number)
            fill(dataset / "test" / "good", test_new, number)
            run(params, extend_test=extend)
        else:
            fill(root / f"new{number}", train_new, number)
            run(params, root / f"new{number}", extend_test=extend)
        before, catalog = catalog, catalog_of(params, "lids")
        assert set(before.rows) <= set(catalog.rows)
        if not extend:
            assert test_rows(before) == test_rows(catalog)
        train_side = [row for row in catalog.rows if row.split == "train"]
        for key in ("sha256", "group"):
            of_train = {getattr(row, key) for row in train_side}
            assert not of_train & {getattr(row, key) for row in test_rows(catalog)}
        if number > 1 or kind == "folder":
            fresh = [row.sha256 for row in catalog.rows if row.batch]
            assert len(fresh) == len(set(fresh))
        assert is_sound(params)
