"""The sample line: same seed same pixels, exact masks, and not too easy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from stlm_core.data.adapters import find_adapter
from stlm_core.data.images import read_image, read_mask, resize_to
from stlm_core.data.sample_defects import DEFECT_TYPES, MASK_LEVELS, apply_defect
from stlm_core.data.sample_line import defective_image, good_image, write_sample_line
from stlm_core.data.sample_scene import Damage, make_part, photograph, render
from stlm_core.errors import UserError
from stlm_core.seeding import derive_rng

# Means of the image's quarters, levels: a change of the generator or of a library's arithmetic shows here.
GOLDEN = {
    "good": [[108.211966, 99.878008], [101.724180, 107.827760]],
    "scratch": [[108.221445, 99.881380], [101.710469, 107.828984]],
}


def quarters(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64).reshape(2, 160, 2, 160, 3).mean(axis=(1, 3, 4))


def test_layout_and_numbers(sample_folder: Path) -> None:
    scan = find_adapter("mvtec").scan(sample_folder)
    assert not [record for record in scan.records if record.problem]
    assert sum(record.split == "train" for record in scan.records) == 30
    anomalous = [record for record in scan.records if record.label]
    assert {record.defect_type for record in anomalous} == set(DEFECT_TYPES)
    assert len(DEFECT_TYPES) >= 5
    assert all(record.mask_path for record in anomalous)
    assert json.loads((sample_folder / "sample.json").read_text())["seed"] == 0


def test_pixels_depend_on_the_seed_alone(sample_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_sample_line(again, 0, train_good=2, test_good=1, per_defect=1)
    names = [path.relative_to(again) for path in again.rglob("*.png")]
    assert len(names) == 2 + 1 + 2 * len(DEFECT_TYPES)
    for name in names:
        digests = {hashlib.sha256((root / name).read_bytes()).hexdigest() for root in (again, sample_folder)}
        assert len(digests) == 1, name
    assert not np.array_equal(good_image(0, "train", "good", 0), good_image(1, "train", "good", 0))
    assert not np.array_equal(good_image(0, "train", "good", 0), good_image(0, "train", "good", 1))


def test_pixels_are_those_of_every_machine() -> None:
    np.testing.assert_allclose(quarters(good_image(0, "golden")), GOLDEN["good"], atol=1e-3)
    image, mask = defective_image("scratch", 0, "golden")
    np.testing.assert_allclose(quarters(image), GOLDEN["scratch"], atol=1e-3)
    assert mask.sum() > 100


@pytest.mark.parametrize("kind", DEFECT_TYPES)
def test_masks_are_exact(kind: str) -> None:
    name = ("mask", kind)
    part = make_part(derive_rng(0, "part", *name))
    photo, mask = apply_defect(kind, part, derive_rng(0, "defect", kind, *name))
    change = np.abs(photo - photograph(render(part, Damage()), part)).max(axis=2)
    changed = change > MASK_LEVELS
    for wrong, structure in ((changed & ~mask, np.ones((3, 3))), (mask & ~changed, None)):
        labels, count = ndimage.label(wrong, structure)  # dropped islands, filled holes: all small
        assert all((labels == index).sum() < 12 for index in range(1, count + 1))
    assert (mask & changed).sum() > 0.8 * changed.sum()
    assert change[mask].mean() > 1.5 * MASK_LEVELS  # visible
    assert 60 <= mask.sum() <= 0.1 * mask.size
    rows, columns = np.nonzero(mask)
    assert max(np.ptp(rows), np.ptp(columns)) >= 12  # 10 pixels at 256


def test_good_and_defective_image_share_part_and_grain() -> None:
    image, mask = defective_image("dent", 3, "x")
    difference = np.abs(image.astype(int) - good_image(3, "x").astype(int)).max(axis=2)
    assert difference[mask].mean() > MASK_LEVELS
    assert difference[~mask].max() <= MASK_LEVELS + 2  # rounding, and grain that grows with the light


def test_replaces_a_sample_line_and_nothing_else(sample_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    write_sample_line(folder, 0, train_good=2, test_good=1, per_defect=1)
    write_sample_line(folder, 1, train_good=1, test_good=1, per_defect=1)
    assert json.loads((folder / "sample.json").read_text())["seed"] == 1
    assert len(list((folder / "train" / "good").iterdir())) == 1
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a sample line"):
        write_sample_line(other, 0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_per_pixel_statistics_do_not_solve_it(sample_folder: Path) -> None:
    """Deviation from the mean image in units of the pixel's own deviation, at 256 pixels: below 0.85 pixel AUROC."""

    def load(path: Path) -> np.ndarray:
        return resize_to(read_image(path), 256).astype(np.float32)

    train = np.stack([load(path) for path in sorted((sample_folder / "train" / "good").iterdir())])
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    labels, scores = [], []
    for record in find_adapter("mvtec").scan(sample_folder).records:
        if record.split != "test":
            continue
        scores.append((np.abs(load(sample_folder / record.path) - mean) / deviation).mean(axis=2))
        mask = np.zeros((320, 320), bool)
        if record.label:
            mask = read_mask(sample_folder / record.mask_path, (320, 320))
        labels.append(resize_to(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2), 256)[..., 0] > 127)
    auroc = roc_auc_score(np.stack(labels).ravel(), np.stack(scores).ravel())
    assert 0.4 < auroc < 0.85
