"""What the training steps are given: the features must be those of the bank at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stlm_core.cache.store import fill, write_index
from stlm_core.config import CACHED_SECTIONS, LineConfig, load_line
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.steps.contract import run_step
from stlm_core.steps.synthesize import synthesize
from stlm_core.steps.training import open_data, training_inputs
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank
from stlm_core.training.distributed import ALONE

WEIGHTS = "teacher.pth"


def configure(root: Path, seed: int) -> LineConfig:
    line = {
        "profile": "fast",
        "image": {"size": 64},
        "data": {"path": "discs"},
        "synthesize": {"seed": seed},
        "teacher": {"weights": WEIGHTS},
    }
    (root / "params.yaml").write_text(
        yaml.safe_dump({"defaults": {}, "profiles": {"fast": {}}, "lines": {"discs": line}})
    )
    return load_line(root / "params.yaml", "discs")


@pytest.fixture(params=[False, True], ids=["at home", "in a container"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    """Three validated images; in a container the folders are elsewhere."""
    (tmp_path / WEIGHTS).write_bytes(b"one teacher")
    data, rows = tmp_path / "discs", []
    data.mkdir()
    for number, split in enumerate(("train", "train", "validation")):
        image = data / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(image)
        size = image.stat().st_size
        rows.append(ManifestRow(image.name, split, 0, "good", "", "", sha256_file(image), size, 64, 64, "RGB"))
    given = {"synthesize": tmp_path / "run" / "bank", "cache-teacher": tmp_path / "run" / "features"}
    found = Workspace(tmp_path / "outputs", "discs", given if request.param else {})
    Manifest(data, tuple(rows)).write(found.folder("validate") / "manifest.parquet")
    return found


def cache(config: LineConfig, workspace: Workspace) -> None:
    """What cache-teacher leaves behind, with features of nothing."""

    def work(folder: Path) -> str:
        keys = [f"{number:064x}" for number in range(len(Bank.open(workspace.folder("synthesize"))))]
        fill(folder, keys, lambda wanted: np.zeros((len(wanted), 1, 4, 2, 2), np.float16))
        write_index(folder, keys)
        return "cached"

    inputs = {"bank": workspace.need("synthesize", "index.parquet"), "teacher": config.resolve(WEIGHTS)}
    run_step("cache-teacher", config, CACHED_SECTIONS, inputs, workspace.folder("cache-teacher"), work)


def test_features_of_another_bank_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    config = configure(tmp_path, seed=0)
    synthesize(config, workspace)
    cache(config, workspace)
    bank, pairs = open_data(config, workspace, ALONE)
    assert (len(bank), pairs.images) == (15, 2)

    config = configure(tmp_path, seed=1)
    synthesize(config, workspace)  # as many views
    with pytest.raises(UserError, match=r"features of another bank .* run `stlm cache-teacher` again"):
        open_data(config, workspace, ALONE)

    cache(config, workspace)
    open_data(config, workspace, ALONE)


def test_features_of_another_teacher_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    config = configure(tmp_path, seed=0)
    synthesize(config, workspace)
    cache(config, workspace)
    (tmp_path / WEIGHTS).write_bytes(b"another teacher")
    with pytest.raises(UserError, match=r"features of another teacher .* run `stlm cache-teacher` again"):
        open_data(config, workspace, ALONE)


def test_features_of_another_size_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    config = configure(tmp_path, seed=0)
    synthesize(config, workspace)
    cache(config, workspace)
    changed = config.model_copy(update={"teacher": config.teacher.model_copy(update={"input_size": 96})})
    with pytest.raises(UserError, match=r"features of another size .* run `stlm cache-teacher` again"):
        open_data(changed, workspace, ALONE)


@pytest.mark.parametrize("fresh", [False, True])
def test_other_textures_train_another_detector_where_training_draws_from_them(
    tmp_path: Path, workspace: Workspace, fresh: bool
) -> None:
    config = configure(tmp_path, seed=0)
    config = config.model_copy(update={"synthesize": config.synthesize.model_copy(update={"fresh": fresh})})
    synthesize(config, workspace)
    cache(config, workspace)
    inputs = training_inputs(config, workspace)
    assert ("textures" in inputs) == fresh
    if fresh:
        assert inputs["textures"] == workspace.folder("synthesize") / "textures.npy"
        assert inputs["textures"].is_file()


def test_features_that_do_not_say_whose_they_are_are_refused(tmp_path: Path, workspace: Workspace) -> None:
    config = configure(tmp_path, seed=0)
    synthesize(config, workspace)
    cache(config, workspace)
    (workspace.folder("cache-teacher") / "manifest.json").write_text('{"inputs": []}')
    with pytest.raises(UserError, match="run `stlm cache-teacher` again"):
        open_data(config, workspace, ALONE)
