"""Views drawn while training: repeatable, independent of how a batch is divided, and honest about what is clean."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stlm_core.cache.store import FeatureCache, fill, write_index
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.models.detector import Detector, DetectorFacts
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.packed_textures import TEXTURES, PackedTextures
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.pose import Pose
from stlm_core.synthesis.textures import FolderTextures, ProceduralTextures, held_back
from stlm_core.training.fresh import FreshViews
from stlm_core.training.pairs import TrainingPairs, targets_of

SIZE, VALIDATION, VARIANTS = 64, 2, 3
SETTINGS = SynthesizeConfig(
    variants=VARIANTS, fresh=True, light=0.1, rotation="any", families=("patch", "paste", "scratch", "stain")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bank of five images, two of them for validation, and a cache over it."""
    root, folder = tmp_path_factory.mktemp("line"), tmp_path_factory.mktemp("bank")
    sources = []
    for number in range(5):
        image = np.full((SIZE, SIZE, 3), 200, np.uint8)
        cv2.circle(image, (32, 32), 20 + number, (90, 60, 40), -1)
        Image.fromarray(image).save(root / f"{number}.png")
        split = "validation" if number < VALIDATION else "train"
        sources.append(SourceImage(f"{number}.png", sha256_file(root / f"{number}.png"), split))
    bank = build_bank(folder, root, sources, ProceduralTextures(SIZE), SETTINGS, size=SIZE, max_pixels=10**6)
    keys = [f"{number:064x}" for number in range(len(bank.index))]
    fill(folder, keys, lambda wanted: np.zeros((len(wanted), 1, 4, 1, 1), np.float16))
    write_index(folder, keys)
    return folder


def pairs(folder, settings=SETTINGS):
    from stlm_core.synthesis.bank import Bank

    return TrainingPairs(
        Bank.open(folder), FeatureCache.open(folder), "train", 0.5, clean_only=True, fresh=FreshViews(folder, settings)
    )


def test_only_validation_images_have_variants_in_the_bank(folder):
    source = pairs(folder)
    index = source._bank.index
    assert set(index.loc[index["variant"] > 0, "split"]) == {"validation"}
    assert (index["variant"] > 0).sum() == VALIDATION * VARIANTS
    assert source.images == 3


def test_the_same_step_gives_the_same_views_whatever_was_drawn_before(folder):
    one, other = pairs(folder), pairs(folder)
    one.draw(0, 0, 6), one.draw(0, 1, 6)
    after, alone = one.draw(0, 2, 6), other.draw(0, 2, 6)
    assert torch.equal(after.images, alone.images)
    assert torch.equal(after.masks, alone.masks)
    assert not torch.equal(alone.images, other.draw(0, 3, 6).images)
    assert not torch.equal(alone.images, other.draw(1, 2, 6).images)


def test_two_halves_of_a_batch_are_the_batch(folder):
    source = pairs(folder)
    whole = source.draw(3, 5, 6)
    halves = [source.draw(3, 5, 6, part) for part in (slice(0, 3), slice(3, 6))]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert torch.equal(torch.cat([half.masks for half in halves]), whole.masks)


def test_shown_and_clean_differ_where_the_mask_says(folder):
    source = pairs(folder)
    for step in range(6):
        batch = source.draw(0, step, 4)
        differs = (batch.images != batch.clean_images).any(-1)
        assert not (differs & (batch.masks == 0)).any()
        anomalous = batch.masks.flatten(1).any(1)
        assert torch.equal(anomalous, differs.flatten(1).any(1))


def test_a_defect_goes_through_the_same_camera_as_the_part(folder):
    """Beside the defect, farther than the blur and the compression's blocks reach, both views are the same."""
    camera = SETTINGS.model_copy(update={"light": 0.2, "shift": 0.1, "blur": 2.0, "jpeg_quality": 60})
    source = pairs(folder, camera)
    changed = 0
    for step in range(6):
        batch, as_it_was = source.draw(0, step, 4), pairs(folder).draw(0, step, 4)
        changed += int((batch.clean_images != as_it_was.clean_images).any())
        for shown, clean, mask in zip(
            batch.images.numpy(), batch.clean_images.numpy(), batch.masks.numpy(), strict=True
        ):
            near = cv2.dilate(mask, np.ones((49, 49), np.uint8)) > 0
            np.testing.assert_array_equal(shown[~near], clean[~near])
            assert (shown != clean).any() == mask.any()
    assert changed == 6


def test_a_line_whose_camera_and_pose_never_change_has_no_other_views(folder):
    still = SynthesizeConfig(fresh=True)
    assert not FreshViews(folder, still).varied
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    np.testing.assert_array_equal(FreshViews(folder, still).again(image, rng), image)
    for change in ({"rotation": "small"}, {"light": 0.1}, {"shift": 0.1}, {"blur": 1.0}, {"jpeg_quality": 40}):
        views = FreshViews(folder, still.model_copy(update=change))
        assert views.varied
        assert any((views.again(image, rng) != image).any() for _ in range(20))


def test_auto_turns_as_the_bank_found_the_parts(folder, tmp_path):
    (tmp_path / TEXTURES).write_bytes((folder / TEXTURES).read_bytes())
    found = SynthesizeConfig(fresh=True, rotation="auto")
    missing = r"pose\.json: cannot be read: No such file or directory; run `stlm synthesize --force` again"
    with pytest.raises(UserError, match=missing):
        FreshViews(tmp_path, found)
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    Pose("none").write(tmp_path)
    assert not FreshViews(tmp_path, found).varied
    Pose("quarter").write(tmp_path)
    views = FreshViews(tmp_path, found)
    assert views.varied
    for seed in range(8):
        seen = views.again(image, np.random.default_rng(seed))
        assert any(np.array_equal(seen, np.rot90(image, turn)) for turn in range(4))


def test_the_plain_stream_says_what_the_clean_view_is(folder):
    torch.manual_seed(0)
    detector = Detector(DetectorFacts(SIZE, "conv3x3", "unit", plain_stream="teacher")).eval()
    batch = pairs(folder).draw(0, 0, 2)
    with torch.no_grad():
        expected = detector.streams(detector.preprocess(batch.clean_images)).plain
        found = targets_of(batch, detector).denoising
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_validation_and_training_share_no_texture(tmp_path):
    source = ProceduralTextures(32)
    training, validation = held_back(source)
    assert len(training) + len(validation) == len(source)
    seen = [{part.texture(number).tobytes() for number in range(len(part))} for part in (training, validation)]
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    few = FolderTextures(tmp_path, 8)
    assert held_back(few) == (few, few)


def test_a_bank_without_packed_textures_says_so(tmp_path):
    with pytest.raises(UserError, match="synthesize --force"):
        FreshViews(tmp_path, SETTINGS)


def test_packed_textures_are_squares_of_the_training_set(folder):
    packed = PackedTextures(folder / TEXTURES)
    training, _ = held_back(ProceduralTextures(SIZE))
    assert len(packed) == len(training)
    assert packed.texture(0).shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(packed.texture(3), training.texture(3))
