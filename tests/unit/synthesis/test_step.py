"""The step: manifest in, bank and preview out, rerun only when something it reads has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.data.splits import assign_splits
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.steps.synthesize import synthesize
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank
from stlm_core.synthesis.pose import POSE
from stlm_core.synthesis.rotation import rotate

from .conftest import part_image, pointing_part


def configure(root: Path, data: Path, **settings: object) -> LineConfig:
    line = {"profile": "fast", "image": {"size": 64}, "data": {"path": str(data)}, "synthesize": settings}
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"discs": line}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_line(root / "params.yaml", "discs")


def manifest_row(root: Path, path: Path, split: str) -> ManifestRow:
    with Image.open(path) as image:
        width, height, mode = *image.size, image.mode
    name, size = path.relative_to(root).as_posix(), path.stat().st_size
    return ManifestRow(name, split, 0, "good", "", "", sha256_file(path), size, width, height, mode or "RGB")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Five validated images: two of train, one of each other split."""
    data = tmp_path / "discs"
    data.mkdir()
    rows = []
    for number, split in enumerate(("train", "validation", "calibration", "test", "train")):
        Image.fromarray(part_image(number)).save(data / f"{number}.png")
        rows.append(manifest_row(data, data / f"{number}.png", split))
    workspace = Workspace(tmp_path / "outputs", "discs")
    Manifest(data, tuple(rows)).write(workspace.folder("validate") / "manifest.parquet")
    return workspace


def test_only_training_and_validation_images_get_variants(tmp_path: Path, workspace: Workspace) -> None:
    result = synthesize(configure(tmp_path, tmp_path / "discs", variants=2), workspace)
    bank = Bank.open(workspace.folder("synthesize"))
    assert bank.index.groupby("path")["split"].first().to_dict() == {
        "0.png": "train",
        "1.png": "validation",
        "4.png": "train",
    }
    assert result.summary.startswith("9 views of 3 images, 6 of them pseudo-anomalous")
    assert (result.folder / "figures" / "preview.png").is_file()


def test_fresh_views_without_a_validation_image_are_refused_before_anything_is_made(
    tmp_path: Path, workspace: Workspace
) -> None:
    config, path = configure(tmp_path, tmp_path / "discs", fresh=True), workspace.folder("validate")
    manifest = Manifest.read(path / "manifest.parquet", tmp_path / "discs")
    parts = tuple(row for row in manifest.rows if row.split != "validation")
    Manifest(tmp_path / "discs", parts).write(path / "manifest.parquet")
    with pytest.raises(UserError, match=r"synthesize\.fresh: the manifest has no `validation` images"):
        synthesize(config, workspace)
    assert not workspace.folder("synthesize").exists()


def test_a_line_of_twenty_images_has_fresh_views(tmp_path: Path) -> None:
    data, workspace = tmp_path / "discs", Workspace(tmp_path / "outputs", "discs")
    data.mkdir()
    splits = assign_splits(
        [str(number) for number in range(20)], [""] * 20, validation_fraction=0.1, calibration_fraction=0.2, seed=0
    )
    rows = []
    for number, split in enumerate(splits):
        Image.fromarray(part_image(number)).save(data / f"{number:02}.png")
        rows.append(manifest_row(data, data / f"{number:02}.png", split))
    Manifest(data, tuple(rows)).write(workspace.folder("validate") / "manifest.parquet")
    summary = synthesize(configure(tmp_path, data, fresh=True, variants=3), workspace).summary
    assert summary.startswith("22 views of 16 images, 6 of them pseudo-anomalous")


@pytest.mark.parametrize(
    ("images", "by", "said"),
    [
        (3, 0.0, "too few images to see how the parts lie: not turned"),
        (12, 0.0, "the parts lie one way, or look the same from all sides: not turned"),
        (12, 90.0, "the parts are turned by quarters: turned so, too"),
        (12, 37.0, "the parts lie in any direction: turned at random"),
    ],
)
def test_it_says_how_it_found_the_parts_to_lie(tmp_path: Path, images: int, by: float, said: str) -> None:
    data, workspace = tmp_path / "discs", Workspace(tmp_path / "outputs", "discs")
    data.mkdir()
    rows = []
    for number in range(images):
        Image.fromarray(rotate(pointing_part(), by * number)).save(data / f"{number:02}.png")
        rows.append(manifest_row(data, data / f"{number:02}.png", "train"))
    Manifest(data, tuple(rows)).write(workspace.folder("validate") / "manifest.parquet")
    result = synthesize(configure(tmp_path, data, rotation="auto"), workspace)
    assert result.summary.endswith(f"; {said}")
    assert (result.folder / POSE).is_file()


def test_reruns_only_for_what_it_reads(tmp_path: Path, workspace: Workspace) -> None:
    textures = tmp_path / "textures"
    textures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(textures / "a.png")

    def run(**settings: object) -> bool:
        return synthesize(configure(tmp_path, tmp_path / "discs", textures="textures", **settings), workspace).reused

    assert not run()
    assert run()
    assert not run(seed=1)
    assert run(seed=1)
    Image.fromarray(255 - noise).save(textures / "a.png")
    assert not run(seed=1)


def test_missing_inputs_are_named(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(UserError, match="nowhere"):
        synthesize(configure(tmp_path, tmp_path / "discs", textures="nowhere"), workspace)
    empty = Workspace(tmp_path / "other", "discs")
    with pytest.raises(UserError, match="stlm validate --line discs"):
        synthesize(configure(tmp_path, tmp_path / "discs"), empty)


@pytest.mark.parametrize("textures", [None, "dtd_textures"])
def test_real_bottles(tmp_path: Path, datasets_root: Path, textures: str | None) -> None:
    data = datasets_root / "mvtec_ad" / "bottle"
    images = sorted((data / "train" / "good").iterdir())[:6]
    workspace = Workspace(tmp_path / "outputs", "discs")
    rows = tuple(manifest_row(data, path, "train") for path in images)
    Manifest(data, rows).write(workspace.folder("validate") / "manifest.parquet")
    folder = None if textures is None else str(datasets_root / textures)
    synthesize(configure(tmp_path, data, textures=folder, variants=4), workspace)
    bank = Bank.open(workspace.folder("synthesize"))
    pseudo = bank.index[bank.index["variant"] > 0]
    views, masks = bank.views(pseudo["view"]), bank.masks(pseudo["view"])
    change = np.abs(views.astype(int) - bank.views(pseudo["clean_view"])).max(axis=-1)
    assert (change[~masks] == 0).all()
    assert change[masks].mean() > 15
    assert 0.005 < pseudo["mask_fraction"].mean() < 0.2
