"""Inspection of a line: with and without a catalogue, groups, masks, and what is not read twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import stlm_core.data.facts as facts_module
from stlm_core.config import LineConfig
from stlm_core.data.adapters.base import Scan
from stlm_core.data.catalog import Catalog, CatalogRow, scan_folder
from stlm_core.data.facts import FOLDER, FactStore
from stlm_core.data.images import mask_sha256
from stlm_core.data.inspection import Inspection, inspect_line, inspect_scan
from stlm_core.data.manifest import build_manifest, manifest_of
from stlm_core.data.probe import probe_image
from stlm_core.files import sha256_file

Configure = Callable[..., LineConfig]


def catalogue(root: Path, config: LineConfig) -> Catalog:
    """What the folder holds, as a catalogue."""
    return Catalog.of(
        CatalogRow(
            record.path,
            record.split,
            record.label,
            record.defect_type,
            record.mask_path,
            f"part {record.path}",
            sha256_file(root / record.path),
            mask_sha256(root / record.mask_path) if record.mask_path else "",
            0,
        )
        for record in scan_folder(config).records
    )


@pytest.fixture
def catalogued(line_folder: Path, configure: Configure, tmp_path: Path) -> LineConfig:
    """The line of ``line_folder`` with a catalogue."""
    catalog = catalogue(line_folder, configure(line_folder))
    catalog.write(tmp_path / "catalog.csv")
    return configure(line_folder, catalog="catalog.csv", catalog_sha256=catalog.digest())


def problems(inspection: Inspection) -> dict[str, str]:
    return {row.path: row.problem or row.mask_problem for row in inspection.rows if row.problem or row.mask_problem}


def test_rows_carry_the_facts_of_the_files(line_folder: Path, configure: Configure) -> None:
    inspection = inspect_line(configure(line_folder))
    for row in inspection.rows:
        facts = probe_image(line_folder / row.path)
        for name in ("sha256", "bytes", "width", "height", "mode", "phash", "brightness", "contrast", "sharpness"):
            assert getattr(row, name) == getattr(facts, name)
        assert (row.saturated, row.thumbnail) == (facts.saturated, facts.thumbnail)
        expected = sha256_file(line_folder / row.mask_path) if row.mask_path else ""
        assert row.mask_sha256 == expected


def test_the_second_run_reads_no_file(
    line_folder: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(facts_module, "_UNSETTLED_NS", -(10**18))
    config = configure(line_folder)
    first = inspect_line(config)
    assert (tmp_path / FOLDER / "line.parquet").is_file()

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a file was read: {arguments[0]}")

    for name in ("read_content", "mask_sha256", "probe_mask"):
        monkeypatch.setattr(facts_module, name, refuse)
    assert inspect_line(config) == first


def test_what_was_read_before_an_interrupt_is_remembered(
    line_folder: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(line_folder)
    store = FactStore.of_line(config, line_folder)
    original = store.image

    def image(name: str, max_pixels: int) -> Any:
        if name.startswith("train/good/02"):
            raise KeyboardInterrupt
        return original(name, max_pixels)

    monkeypatch.setattr(store, "image", image)
    with pytest.raises(KeyboardInterrupt):
        inspect_scan(config, line_folder, scan_folder(config), store)
    seen: list[str] = []
    monkeypatch.setattr(facts_module, "probe_content", lambda path, *rest: seen.append(path.name) or probe_image(path))
    inspect_line(config)
    assert "020.png" in seen
    assert len(seen) < 30


def test_only_what_is_catalogued_belongs_to_the_line(catalogued: LineConfig, line_folder: Path) -> None:
    shutil.copy(line_folder / "train/good/000.png", line_folder / "train/good/new.png")
    inspection = inspect_line(catalogued)
    assert problems(inspection) == {}
    assert "train/good/new.png" not in {row.path for row in inspection.rows}
    assert len(manifest_of(inspection).rows) == 30
    assert inspection.rows[0].group == f"part {inspection.rows[0].path}"


def test_changed_bytes_are_a_problem(catalogued: LineConfig, line_folder: Path) -> None:
    shutil.copy(line_folder / "train/good/000.png", line_folder / "train/good/001.png")
    mask = np.zeros((40, 48), np.uint8)
    mask[0, 0] = 1
    Image.fromarray(mask).save(line_folder / "ground_truth/dent/000_mask.png")
    (line_folder / "train/good/002.png").unlink()
    found = problems(inspect_line(catalogued))
    assert found == {
        "test/dent/000.png": "ground_truth/dent/000_mask.png: its bytes have changed since it was catalogued; get the "
        "file back, or add the new one with `stlm lines update`",
        "train/good/001.png": "its bytes have changed since it was catalogued; get the file back, or add the new one "
        "with `stlm lines update`",
        "train/good/002.png": "cannot be read: No such file or directory",
    }


def test_the_settings_groups_win_where_there_is_no_catalogue(line_folder: Path, configure: Configure) -> None:
    config = configure(line_folder, group_pattern=r"^(\d\d)")
    scan = scan_folder(config)
    records = tuple(replace(record, group="of the layout") for record in scan.records)
    rows = inspect_scan(config, line_folder, Scan(records, scan.ignored)).rows
    assert {row.group for row in rows} == {"00", "01", "02"}


def test_the_catalogues_groups_win_over_the_settings(catalogued: LineConfig) -> None:
    data = catalogued.data.model_copy(update={"group_pattern": r"^(\d\d)"})
    rows = inspect_line(catalogued.model_copy(update={"data": data})).rows
    assert all(row.group == f"part {row.path}" for row in rows)


def test_what_is_no_file_of_the_folder_can_only_be_imported(
    line_folder: Path, configure: Configure, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    shutil.copytree(line_folder / "train", table / "train")
    names = [f"train/good/{number:03d}.png" for number in range(23)]
    outside = line_folder / "train/good/023.png"
    (table / "images.csv").write_text("\n".join(["path", *names, str(outside)]) + "\n")
    inspection = inspect_line(configure(table, format="table"))
    assert len(inspection.rows) == 24
    assert list(problems(inspection).values()) == ["can only be imported; use `stlm lines add` without --reference"]


def test_a_scan_of_any_folder(line_folder: Path, configure: Configure, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(line_folder, elsewhere)
    config = configure(line_folder)
    scan = scan_folder(config)
    shutil.rmtree(line_folder)
    inspection = inspect_scan(config, elsewhere, scan)
    assert inspection.root == elsewhere
    assert problems(inspection) == {}
    assert {row.split for row in inspection.rows} == {"train", "validation", "calibration", "test"}
    assert not (tmp_path / FOLDER).exists()


def test_groups_of_the_records_keep_images_together(line_folder: Path, configure: Configure) -> None:
    config = configure(line_folder)
    scan = scan_folder(config)
    records = tuple(replace(record, group=f"part {index // 6}") for index, record in enumerate(scan.records))
    rows = inspect_scan(config, line_folder, Scan(records, scan.ignored)).rows
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.split != "test":
            splits.setdefault(row.group, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len(set().union(*splits.values())) > 1


def test_mask_of_a_good_image(line_folder: Path, configure: Configure) -> None:
    config = configure(line_folder)
    scan = scan_folder(config)
    masks = {"test/good/000.png": "ground_truth/dent/000_mask.png", "test/good/001.png": "empty.png"}
    Image.new("L", (48, 40)).save(line_folder / "empty.png")
    records = tuple(replace(record, mask_path=masks.get(record.path, record.mask_path)) for record in scan.records)
    found = problems(inspect_scan(config, line_folder, Scan(records, scan.ignored)))
    assert found == {"test/good/000.png": "ground_truth/dent/000_mask.png: the mask of a good image has pixels above 0"}


def test_a_folder_of_masks(line_folder: Path, configure: Configure) -> None:
    config = configure(line_folder)
    folder = line_folder / "ground_truth/dent/000"
    folder.mkdir()
    os.replace(line_folder / "ground_truth/dent/000_mask.png", folder / "000.png")
    scan = scan_folder(config)
    records = tuple(
        replace(record, mask_path="ground_truth/dent/000") if record.path == "test/dent/000.png" else record
        for record in scan.records
    )
    inspection = inspect_scan(config, line_folder, Scan(records, scan.ignored))
    assert problems(inspection) == {}
    assert inspection.rows[0].mask_sha256 == mask_sha256(folder)
    (folder / "000.png").unlink()
    assert problems(inspect_scan(config, line_folder, Scan(records, scan.ignored))) == {
        "test/dent/000.png": "ground_truth/dent/000: no mask in the folder"
    }


def test_digest_covers_bytes_roles_and_problems_but_not_the_place(
    line_folder: Path, configure: Configure, tmp_path: Path
) -> None:
    digest = inspect_line(configure(line_folder)).digest()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(line_folder, elsewhere)
    assert inspect_line(configure(elsewhere)).digest() == digest
    seen = {digest}

    def differs() -> None:
        found = inspect_line(configure(elsewhere)).digest()
        assert found not in seen
        seen.add(found)

    shutil.copy(elsewhere / "train/good/000.png", elsewhere / "train/good/001.png")
    differs()
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(elsewhere / "ground_truth/dent/000_mask.png")
    differs()
    (elsewhere / "test/good/000.png").write_bytes(b"broken")
    differs()
    (elsewhere / "train/good/000.png").rename(elsewhere / "train/good/renamed.png")
    differs()
    (elsewhere / "notes.txt").write_text("passed over")
    (elsewhere / "train/good/notes.txt").write_text("passed over")
    differs()


def test_manifest_digest_is_of_identity(line_folder: Path, configure: Configure) -> None:
    manifest = build_manifest(configure(line_folder))
    row = manifest.rows[0]

    def digest(**changes: Any) -> str:
        return replace(manifest, rows=(replace(row, **changes), *manifest.rows[1:])).digest()

    assert digest(brightness=0.5, phash="f" * 16, bytes=1, width=9) == manifest.digest()
    assert len({digest(), digest(mask_sha256="0" * 64), digest(group="x"), digest(split="train")}) == 4
