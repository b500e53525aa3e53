"""Magnetic tile: the authors' folders, the same images in MVTec's layout, and which images show one physical tile."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.adapters.held_out import held_out
from stlm_core.data.adapters.tile_groups import tile_groups
from stlm_core.errors import UserError


def tile(root: Path, kind: str, first: int, size: tuple[int, int], exposures: int = 6, mask: int = 0) -> None:
    """Exposures of one tile, 20 frames apart, with the masks that the authors put beside all images."""
    folder = root / f"MT_{kind}" / "Imgs"
    folder.mkdir(parents=True, exist_ok=True)
    for exposure in range(1, exposures + 1):
        stem = f"exp{exposure}_num_{first + 20 * exposure}"
        crop = (size[0] + exposure, size[1] - exposure)
        Image.new("L", crop, 40 * exposure).save(folder / f"{stem}.jpg")
        pixels = np.zeros(crop[::-1], np.uint8)
        pixels[2:5, 2:5] = mask
        Image.fromarray(pixels).save(folder / f"{stem}.png")


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    """Ten good tiles and four defective ones, in the authors' layout."""
    root = tmp_path / "tiles"
    for index in range(10):
        tile(root, "Free", 400_000 + 1000 * index, (48, 36))
    tile(root, "Blowhole", 500_000, (48, 36), mask=255)
    for index, kind in enumerate(("Break", "Crack", "Fray", "Uneven")):
        tile(root, kind, 510_000 + 1000 * index, (60, 24), mask=255)
    (root / "README.md").write_text("cite the paper")
    return root


def in_mvtec_layout(authors: Path, tested: set[str]) -> Path:
    """The same files in MVTec's layout; good images with a name in ``tested`` are in its test split."""
    root = authors.parent / "mvtec"
    for image in sorted(authors.glob("MT_*/Imgs/*.jpg")):
        kind = image.parent.parent.name.removeprefix("MT_").lower()
        side = "test/good" if image.name in tested else "train/good" if kind == "free" else f"test/{kind}"
        target = root / side / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(image, target)
        if kind != "free":
            mask = root / "ground_truth" / kind / f"{image.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            os.link(image.with_suffix(".png"), mask)
    return root


def sides(records: tuple[Record, ...]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        found[record.group].add(record.split)
    return found


def test_authors_layout(authors: Path) -> None:
    scan = find_adapter("magnetic_tile").scan(authors)
    by_path = {record.path: record for record in scan.records}
    assert by_path["MT_Blowhole/Imgs/exp1_num_500020.jpg"] == Record(
        "MT_Blowhole/Imgs/exp1_num_500020.jpg",
        "test",
        1,
        "blowhole",
        "MT_Blowhole/Imgs/exp1_num_500020.png",
        group="tile-500020",
    )
    assert Counter(record.defect_type for record in scan.records) == {
        **dict.fromkeys(("blowhole", "break", "crack", "fray", "uneven"), 6),
        "good": 60,
    }
    assert set(Counter(record.group for record in scan.records).values()) == {6}
    assert not any(record.problem for record in scan.records)
    assert scan.ignored == {"mask of a good image": 60}


def test_split_is_by_tile_and_does_not_change(authors: Path) -> None:
    first = find_adapter("magnetic_tile").scan(authors)
    assert all(len(found) == 1 for found in sides(first.records).values())
    good = {record.group: record.split for record in first.records if not record.label}
    assert set(good.values()) == {"train", "test"}
    assert all((split == "test") == held_out(group) for group, split in good.items())
    tile(authors, "Free", 600_000, (48, 36))
    more = {record.path: record.split for record in find_adapter("magnetic_tile").scan(authors).records}
    assert all(more[record.path] == record.split for record in first.records)


def test_good_exposures_of_a_defective_tile_are_for_the_test(authors: Path) -> None:
    for exposure in (1, 2):
        for suffix in (".jpg", ".png"):
            name = f"exp{exposure}_num_{500_000 + 20 * exposure}{suffix}"
            os.rename(authors / "MT_Blowhole" / "Imgs" / name, authors / "MT_Free" / "Imgs" / name)
    found = [record for record in find_adapter("magnetic_tile").scan(authors).records if record.group == "tile-500020"]
    assert Counter((record.split, record.label) for record in found) == {("test", 0): 2, ("test", 1): 4}


def test_mvtec_layout_keeps_its_split_but_shares_no_tile(authors: Path) -> None:
    root = in_mvtec_layout(
        authors, {"exp6_num_400120.jpg", *(f"exp{n}_num_{401000 + 20 * n}.jpg" for n in range(1, 7))}
    )
    scan = find_adapter("magnetic_tile").scan(root)
    assert scan.ignored == {"good, of a tile that the test split shows too": 5}
    assert Counter((record.split, record.label) for record in scan.records) == {
        ("train", 0): 48,
        ("test", 0): 7,
        ("test", 1): 30,
    }
    assert all(len(found) == 1 for found in sides(scan.records).values())
    masked = next(record for record in scan.records if record.defect_type == "crack")
    assert masked.mask_path == "ground_truth/crack/exp1_num_511020_mask.png"


def test_what_cannot_be_used_is_a_problem_of_its_file(authors: Path) -> None:
    free, crack = authors / "MT_Free" / "Imgs", authors / "MT_Crack" / "Imgs"
    Image.new("L", (40, 30)).save(free / "photo.jpg")
    (free / "exp1_num_700000.jpg").write_bytes(b"no image")
    (crack / "exp1_num_511020.jpg").unlink()
    (crack / "exp2_num_511040.png").unlink()
    (authors / "extra").mkdir()
    Image.new("L", (40, 30)).save(authors / "extra" / "exp1_num_1.jpg")
    scan = find_adapter("magnetic_tile").scan(authors)
    problems = {record.path: record.problem for record in scan.records if record.problem}
    assert problems.pop("MT_Free/Imgs/photo.jpg").startswith("its name is not exp<exposure>_num_<number>")
    assert problems.pop("MT_Free/Imgs/exp1_num_700000.jpg").startswith("not an image in a known format")
    assert problems.pop("MT_Crack/Imgs/exp1_num_511020.png").startswith("mask without its image MT_Crack/Imgs/exp1_")
    assert problems == {}
    masks = {record.path: record.mask_path for record in scan.records}
    assert masks["MT_Crack/Imgs/exp2_num_511040.jpg"] == ""  # found by the validation, which knows if masks are needed
    assert scan.ignored["outside the layout"] == 1


def test_wrong_folders_are_named(tmp_path: Path, line_folder: Path) -> None:
    with pytest.raises(UserError, match="no folder MT_Free"):
        find_adapter("magnetic_tile").scan(tmp_path / "line" / "train")
    with pytest.raises(UserError, match=r"no image is named exp<exposure>_num_<number>; it looks like --format mvtec"):
        find_adapter("magnetic_tile").scan(line_folder)
    (tmp_path / "tiles" / "MT_Free" / "Imgs").mkdir(parents=True)
    (tmp_path / "tiles" / "MT_Crack").mkdir()
    with pytest.raises(UserError, match="MT_Crack: no folder Imgs"):
        find_adapter("magnetic_tile").scan(tmp_path / "tiles")


def test_interleaved_tiles_are_told_apart_by_size() -> None:
    small = {f"exp{n}_num_{1000 + 20 * n}.jpg": (120 + n, 280) for n in range(1, 7)}
    large = {f"exp{n}_num_{1005 + 20 * n}.jpg": (500 - n, 380) for n in range(1, 7)}
    groups = tile_groups({**small, **large})
    assert {groups[name] for name in small} == {"tile-1020"}
    assert {groups[name] for name in large} == {"tile-1025"}


def test_a_copy_of_a_photograph_shows_the_same_tile() -> None:
    sizes = {f"a/exp{n}_num_{2000 + 20 * n}.jpg": (120, 280) for n in range(1, 7)}
    copies = {path.replace("a/", "b/"): size for path, size in sizes.items() if "exp1" not in path}
    assert set(tile_groups({**sizes, **copies}).values()) == {"tile-2020"}


def test_an_exposure_that_occurs_again_is_another_tile() -> None:
    sizes = {f"exp{n}_num_{n + start}.jpg": (120, 280) for start in (2000, 2050) for n in range(1, 7)}
    assert set(Counter(tile_groups(sizes).values()).values()) == {6}


def test_tiles_that_came_back_are_known() -> None:
    groups = tile_groups({"a/exp5_num_5874.jpg": (525, 331), "b/exp1_num_13526.jpg": (505, 323), "c/other.jpg": (5, 3)})
    assert groups == {"a/exp5_num_5874.jpg": "tile-5874", "b/exp1_num_13526.jpg": "tile-5874"}


def test_real_tiles(datasets_root: Path) -> None:
    scan = find_adapter("magnetic_tile").scan(datasets_root / "magnetic_tile")
    assert Counter((record.split, record.label) for record in scan.records) == {
        ("train", 0): 732,
        ("test", 0): 188,
        ("test", 1): 388,
    }
    assert scan.ignored == {"good, of a tile that the test split shows too": 32}
    assert not any(record.problem for record in scan.records)
    assert all(record.group for record in scan.records)
    assert all(len(found) == 1 for found in sides(scan.records).values())
    assert len(sides(scan.records)) == 218


def spectrum(path: Path) -> NDArray[np.complex64]:
    """Of the texture at half size: no shading, local contrast and energy 1; padded, so that shifts do not wrap."""
    with Image.open(path) as image:
        half = image.convert("L").resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    light = np.log1p(np.asarray(half, np.float32))
    texture = blurred(light, 1) - blurred(light, 6)
    texture /= np.sqrt(blurred(texture**2, 10)) + 0.01
    texture = np.clip(texture, -3, 3)[6:-6, 6:-6]
    texture -= texture.mean()
    padded = np.zeros((256, 384), np.float32)
    padded[: texture.shape[0], : texture.shape[1]] = texture / np.linalg.norm(texture)
    return np.fft.rfft2(padded).astype(np.complex64)


def blurred(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels, sigma)


def likeness(one: NDArray[np.complex64], others: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Largest correlation over shifts of up to 30 pixels down and 60 across; 1 for the same texture."""
    correlation = np.fft.irfft2(one[None] * others.conj(), s=(256, 384))
    near = np.r_[0:31, 256 - 30 : 256]
    across = np.r_[0:61, 384 - 60 : 384]
    return correlation[:, near][:, :, across].reshape(len(others), -1).max(axis=1)


@pytest.mark.slow
def test_real_tiles_agree_with_their_pixels(datasets_root: Path) -> None:
    """Images of one tile have the same texture; images of neighbouring tiles do not."""
    root = datasets_root / "magnetic_tile"
    sizes = {}
    for path in sorted(root.glob("t*/*/*.jpg")):
        with Image.open(path) as image:
            sizes[path.relative_to(root).as_posix()] = image.size
    groups = tile_groups(sizes)
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(sizes, key=lambda name: int(Path(name).stem.split("_")[-1])):
        members[groups[name]].append(name)
    assert len(sizes) == 1340
    assert len(members) == 218
    spectra = {name: spectrum(root / name) for name in sizes}
    alone, alike = [], []
    tiles = list(members)
    for index, tile in enumerate(tiles):
        own = members[tile]
        for name in own:
            others = np.stack([spectra[other] for other in own if other != name])
            if likeness(spectra[name], others).max() < 0.7:
                alone.append(name)
        near = [other for neighbour in tiles[index + 1 : index + 9] for other in members[neighbour][::3]]
        if near and likeness(spectra[own[0]], np.stack([spectra[other] for other in near])).max() > 0.7:
            alike.append(tile)
    # Crops that share too little of the tile with the others for a correlation; they were compared by eye.
    assert {Path(name).stem for name in alone} <= {
        *("exp1_num_98080", "exp1_num_124236", "exp6_num_9594", "exp5_num_339932", "exp6_num_339965")
    }
    assert alike == []
