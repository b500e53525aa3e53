"""The bank: what it holds, that it is repeatable and independent of order, and that damage is found."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.models.preprocessing import Preprocess
from stlm_core.seeding import derive_seed
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.bank import INDEX_COLUMNS, ArrayReader, ArrayWriter, Bank
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.plan import SourceImage, plan_views
from stlm_core.synthesis.pose import read_pose
from stlm_core.synthesis.preview import write_preview
from stlm_core.synthesis.rotation import rotate
from stlm_core.synthesis.textures import ProceduralTextures

from .conftest import pointing_part

Line = tuple[Path, list[SourceImage]]
_counter = itertools.count()


def build(
    line: Line, size: int = 64, workers: int = 2, sources: list[SourceImage] | None = None, **settings: object
) -> Bank:
    root, all_sources = line
    folder = root.parent / f"bank{next(_counter)}"
    folder.mkdir()
    given = SynthesizeConfig.model_validate({"variants": 3, **settings})
    chosen = all_sources if sources is None else sources
    return build_bank(
        folder, root, chosen, ProceduralTextures(size), given, size=size, max_pixels=10**6, workers=workers
    )


def contents(bank: Bank) -> dict[tuple[str, int, float], tuple[str, bytes]]:
    rows = bank.index.itertuples()
    return {(row.image, row.variant, row.degrees): (row.view_sha256, bank.masks([row.view]).tobytes()) for row in rows}


def test_index_tells_what_the_arrays_hold(line: Line) -> None:
    bank = build(line)
    assert len(bank) == 6 * 4
    assert bank.size == 64
    assert list(bank.index.columns) == list(INDEX_COLUMNS)
    assert set(bank.index["split"]) == {"train", "validation"}
    views, masks = bank.views(range(len(bank))), bank.masks(range(len(bank)))
    for row in bank.index.itertuples():
        assert row.view_sha256 == hashlib.sha256(views[row.view].tobytes()).hexdigest()
        assert row.mask_fraction == pytest.approx(masks[row.view].mean())
        assert (row.variant == 0) == (row.mask_fraction == 0)
        assert (row.clean_view == row.view) == (row.variant == 0)
        outside = ~masks[row.view]
        np.testing.assert_array_equal(views[row.view][outside], views[row.clean_view][outside])
        expected = derive_seed("synthesize", 0, row.image, row.variant) if row.variant else 0
        assert row.seed == expected


def test_clean_views_are_the_resized_images(line: Line) -> None:
    bank = build(line)
    root, sources = line
    for source in sources:
        row = bank.index.query("path == @source.path and variant == 0")["view"].item()
        expected = Image.open(root / source.path).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(bank.views([row])[0], np.asarray(expected))


def test_same_seed_same_files_whatever_the_workers(line: Line) -> None:
    first, second = build(line, workers=1), build(line, workers=4)
    for name in ("views.npy", "masks.npy", "fractions.npy", "index.parquet"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_seed_changes_every_variant_and_no_clean_view(line: Line) -> None:
    first, second = contents(build(line)), contents(build(line, seed=1))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]) == (key[1] == 0) for key in first)


def test_variants_do_not_depend_on_the_other_images_or_their_order(line: Line) -> None:
    whole = contents(build(line, rotation="quarter"))
    part = contents(build(line, rotation="quarter", sources=[line[1][4], line[1][1]]))
    assert part
    assert all(whole[key] == part[key] for key in part)
    more = contents(build(line, rotation="quarter", variants=5))
    assert all(more[key] == whole[key] for key in whole)


@pytest.mark.parametrize("policy", ["small", "quarter", "any"])
def test_rotated_variants_have_a_clean_counterpart_in_their_pose(line: Line, policy: str) -> None:
    bank = build(line, rotation=policy, variants=4)
    index = bank.index
    assert index["degrees"].nunique() > 3
    for row in index[index["variant"] > 0].itertuples():
        clean = index.iloc[row.clean_view]
        assert (clean["variant"], clean["image"], clean["degrees"]) == (0, row.image, row.degrees)
        outside = ~bank.masks([row.view])[0]
        np.testing.assert_array_equal(bank.views([row.view])[0][outside], bank.views([row.clean_view])[0][outside])
    for _, rows in index[index["variant"] == 0].groupby("path"):
        assert rows["degrees"].is_unique  # a pose is stored once
        upright = bank.views([rows["view"].iloc[0]])[0]
        assert rows["degrees"].iloc[0] == 0
        for row in rows.itertuples():
            np.testing.assert_array_equal(bank.views([row.view])[0], rotate(upright, row.degrees))


@pytest.mark.parametrize(("by", "policy"), [(0.0, "none"), (90.0, "quarter"), (37.0, "any")])
def test_auto_turns_the_parts_as_they_lie(tmp_path: Path, by: float, policy: str) -> None:
    root = tmp_path / "turned"
    root.mkdir()
    sources = []
    for number in range(12):
        Image.fromarray(rotate(pointing_part(), by * number)).save(root / f"{number:02}.png")
        sources.append(SourceImage(f"{number:02}.png", sha256_file(root / f"{number:02}.png"), "train"))
    bank = build((root, sources), rotation="auto")
    assert read_pose(bank.folder).policy == policy
    assert (bank.index["degrees"].nunique() > 1) == (policy != "none")
    if policy != "none":
        assert (bank.index["degrees"] % 90 == 0).all() == (policy == "quarter")
        said = contents(build((root, sources), rotation=policy))
        assert contents(bank) == said  # as if the setting had said so


def test_auto_does_not_depend_on_workers_order_or_names(tmp_path: Path) -> None:
    """Every part is seen from four sides: names in step with the sides must not hide three of them."""
    root = tmp_path / "sides"
    root.mkdir()
    sources = []
    for number in range(128):
        image = pointing_part()
        image[0, 0] = number  # other bytes
        Image.fromarray(rotate(image, 90.0 * (number % 4))).save(root / f"{number:03}.png")
        sources.append(SourceImage(f"{number:03}.png", sha256_file(root / f"{number:03}.png"), "train"))
    first = build((root, sources), rotation="auto", variants=1, workers=1)
    second = build((root, sources[::-1]), rotation="auto", variants=1, workers=4)
    assert read_pose(first.folder) == read_pose(second.folder)
    assert read_pose(first.folder).policy == "quarter"


def test_plan_needs_no_image() -> None:
    sources = [SourceImage(f"{number}.png", f"{number:064x}", "train") for number in range(5)]
    plans = plan_views(sources[::-1], SynthesizeConfig(variants=2), "any")
    rows = [view.row for plan in plans for view in plan.views]
    assert rows == list(range(25))
    assert [plan.source for plan in plans] == sources


def test_sizes_that_do_not_fill_a_byte_round_trip(line: Line) -> None:
    bank = build(line, size=70)
    masks = bank.masks(range(len(bank)))
    assert masks.shape == (len(bank), 70, 70)
    np.testing.assert_allclose(masks.mean(axis=(1, 2)), bank.index["mask_fraction"])


def test_views_come_in_the_order_asked_for(line: Line) -> None:
    bank = build(line)
    rows = [7, 0, 7, 23]
    picked = bank.views(rows)
    for view, row in zip(picked, rows, strict=True):
        np.testing.assert_array_equal(view, bank.views([row])[0])
    for wrong in (-1, 24):
        with pytest.raises(IndexError):
            bank.views([wrong])


@pytest.mark.parametrize("name", ["views.npy", "masks.npy", "fractions.npy"])
@pytest.mark.parametrize("damage", ["truncate", "extend", "empty", "text", "remove"])
def test_damaged_arrays_are_named(line: Line, name: str, damage: str) -> None:
    bank = build(line)
    path = bank.folder / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(
            {"truncate": content[:-1], "extend": content + b"x", "empty": b"", "text": b"not an array at all"}[damage]
        )
    with pytest.raises(UserError, match=rf"{name}: .*stlm synthesize --force"):
        Bank.open(bank.folder)


def test_arrays_of_another_kind_are_refused(line: Line) -> None:
    folder = build(line).folder
    np.save(folder / "views.npy", np.zeros((24, 64, 64, 3), np.float32))
    with pytest.raises(UserError, match="float32"):
        Bank.open(folder)
    np.save(folder / "views.npy", np.array([{"pickled": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"views\.npy"):
        Bank.open(folder)


def test_files_of_different_banks_do_not_fit(line: Line) -> None:
    folder, other = build(line).folder, build(line, variants=4).folder
    (folder / "masks.npy").write_bytes((other / "masks.npy").read_bytes())
    with pytest.raises(UserError, match="do not fit together"):
        Bank.open(folder)


def test_fractions_of_other_images_do_not_fit(line: Line) -> None:
    folder = build(line).folder
    fewer = np.load(folder / "fractions.npy")[1:]
    np.save(folder / "fractions.npy", fewer)
    with pytest.raises(UserError, match="do not fit together"):
        Bank.open(folder)


def test_images_as_they_are_can_be_had_as_the_detector_sees_them(line: Line) -> None:
    bank = build(line, rotation="quarter")
    root, sources = line
    for source in sources:
        row = bank.index.query("path == @source.path and seed == 0")["view"].item()
        pixels = torch.from_numpy(np.asarray(Image.open(root / source.path).convert("RGB")).copy())[None]
        expected = Preprocess(64, "unit")(pixels)[0].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(bank.exact([row])[0], expected, rtol=0, atol=0.01)
    turned = bank.index.query("seed != 0")["view"].iloc[0]
    with pytest.raises(KeyError):
        bank.exact([int(turned)])


def test_damaged_index_is_named(line: Line) -> None:
    folder = build(line).folder
    path = folder / "index.parquet"
    good = pd.read_parquet(path)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            Bank.open(folder)

    path.write_bytes(path.read_bytes()[:-20])
    refused("not a readable parquet file")
    good.drop(columns="clean_view").to_parquet(path)
    refused("`clean_view` is missing")
    good.assign(seed="abc").to_parquet(path)
    refused("another type")
    good.assign(clean_view=1).to_parquet(path)
    refused("contradict")
    good.iloc[::-1].to_parquet(path)
    refused("contradict")
    path.unlink()
    refused("missing")


def test_writer_refuses_another_number_of_items(tmp_path: Path) -> None:
    def write(count: int) -> None:
        with ArrayWriter(tmp_path / "a.npy", (3, 2, 2)) as writer:
            writer.append(np.zeros((count, 2, 2), np.uint8))

    with pytest.raises(ValueError, match="2 items written instead of 3"):
        write(2)
    write(3)
    assert np.load(tmp_path / "a.npy").shape == (3, 2, 2)


def test_reader_notices_a_file_that_shrinks_under_it(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "a.npy", (3, 64, 64)) as writer:
        writer.append(np.zeros((3, 64, 64), np.uint8))
    reader = ArrayReader(tmp_path / "a.npy", 3)
    os.truncate(tmp_path / "a.npy", 5000)
    with pytest.raises(UserError, match="changed while it was read"):
        reader.read([2])


def test_changed_image_is_named(line: Line) -> None:
    root, sources = line
    (root / sources[2].path).write_bytes((root / sources[3].path).read_bytes())
    with pytest.raises(UserError, match=r"002\.png: has changed since it was validated"):
        build(line)


def test_line_without_good_images_is_an_error(line: Line) -> None:
    with pytest.raises(UserError, match="no good training or validation images"):
        build(line, sources=[])


def test_preview_shows_variants(line: Line, tmp_path: Path) -> None:
    write_preview(build(line), tmp_path / "figures" / "preview.png", count=4)
    with Image.open(tmp_path / "figures" / "preview.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] > 6 * 192
    assert pixels.std() > 20


_MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from stlm_core.settings import SynthesizeConfig
from stlm_core.files import sha256_file
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.textures import ProceduralTextures

folder, count = Path(sys.argv[1]), int(sys.argv[2])
sources = []
for number in range(count):
    path = folder / f"{number}.png"
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    sources.append(SourceImage(path.name, sha256_file(path), "train"))
build_bank(folder, folder, sources, ProceduralTextures(32), SynthesizeConfig(variants=1), size=512,
           max_pixels=10**6, workers=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_line(tmp_path: Path) -> None:
    """60 images are 94 MB of views at 512 px; peak memory must not know."""
    peaks = []
    for count in (6, 60):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", _MEMORY_SCRIPT, str(folder), str(count)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 25, peaks
