"""LiteMedSAM on its real weights; MobileSAM on a generated checkpoint with the keys and shapes of its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.sam_checkpoint import read_state_dict
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.settings import TeacherConfig
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.registry import load_teacher

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)

# Parts of MobileSAM's file that no feature map needs, with their shapes there.
UNUSED: dict[str, tuple[int, ...]] = {
    "image_encoder.norm_head.weight": (320,),
    "image_encoder.norm_head.bias": (320,),
    "image_encoder.head.weight": (1000, 320),
    "image_encoder.head.bias": (1000,),
    "mask_decoder.output_upscaling.0.weight": (256, 64, 2, 2),
    "mask_decoder.output_upscaling.0.bias": (64,),
    "mask_decoder.output_upscaling.1.weight": (64,),
    "mask_decoder.output_upscaling.1.bias": (64,),
    "mask_decoder.output_upscaling.3.weight": (64, 32, 2, 2),
    "mask_decoder.output_upscaling.3.bias": (32,),
    "mask_decoder.transformer.norm_final_attn.weight": (256,),
    "mask_decoder.transformer.norm_final_attn.bias": (256,),
    "prompt_encoder.not_a_point_embed.weight": (1, 256),
    **{
        f"mask_decoder.transformer.final_attn_token_to_image.{part}.{kind}": shape
        for part, rows, columns in (
            ("q_proj", 128, 256),
            ("k_proj", 128, 256),
            ("v_proj", 128, 256),
            ("out_proj", 256, 128),
        )
        for kind, shape in (("weight", (rows, columns)), ("bias", (rows,)))
    },
    **{f"prompt_encoder.point_embeddings.{index}.weight": (1, 256) for index in range(4)},
    **{
        f"prompt_encoder.mask_downscaling.{index}.{kind}": shape
        for index, weight in ((0, (4, 1, 2, 2)), (1, (4,)), (3, (16, 4, 2, 2)), (4, (16,)), (6, (256, 16, 1, 1)))
        for kind, shape in (("weight", weight), ("bias", weight[:1]))
    },
    **{
        f"mask_decoder.{head}.layers.{layer}.{kind}": shape
        for head, last in [(f"output_hypernetworks_mlps.{index}", 32) for index in range(4)]
        + [("iou_prediction_head", 4)]
        for layer, rows in ((0, 256), (1, 256), (2, last))
        for kind, shape in (("weight", (rows, 256)), ("bias", (rows,)))
    },
}


def mobile_sam_state() -> dict[str, Tensor]:
    """Random weights under the names of MobileSAM's file."""
    torch.manual_seed(0)
    decoder = {f"mask_decoder.{key}": value for key, value in PromptFreeDecoder().state_dict().items()}
    renamed = {
        "prompt_encoder.no_mask_embed.weight": decoder.pop("mask_decoder.no_mask_embed.weight"),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": decoder.pop(
            "mask_decoder.positional_encoding_gaussian_matrix"
        ),
    }
    encoder = {f"image_encoder.{key}": value for key, value in TinyViT("conv3x3").state_dict().items()}
    return encoder | decoder | renamed | {key: torch.zeros(shape) for key, shape in UNUSED.items()}


def save(state: dict[str, Tensor], path: Path, **config: object) -> TeacherConfig:
    torch.save(state, path)
    return TeacherConfig.model_validate(
        {"name": "mobile_sam", "input_size": 64, "weights": str(path), "weights_sha256": sha256_file(path), **config}
    )


def teacher_of(state: dict[str, Tensor], folder: Path) -> Teacher:
    return load_teacher(save(state, folder / "mobile_sam.pt"), folder)


def test_generated_checkpoint_has_the_entries_of_a_real_sam_file(fetched: Callable[[str], Path]) -> None:
    """LiteMedSAM's file shares every name with MobileSAM's but the classification head."""
    real = read_state_dict(fetched("lite_medsam") / "lite_medsam.pth")
    generated = mobile_sam_state()
    head = {key for key in UNUSED if key.startswith("image_encoder.")}
    assert set(generated) - head == set(real)
    same_shape = {key for key in real if generated[key].shape == real[key].shape}
    assert set(real) - same_shape == {f"image_encoder.patch_embed.seq.{index}.c.weight" for index in (0, 2)}


@torch.no_grad()
def test_mobile_sam_runs_its_encoder_and_decoder(tmp_path: Path, images: Tensor) -> None:
    teacher = teacher_of(mobile_sam_state(), tmp_path)
    torch.manual_seed(0)
    decoder, encoder = PromptFreeDecoder(), TinyViT("conv3x3").eval()  # the order of mobile_sam_state
    x = images.permute(0, 3, 1, 2).float()
    x = (F.interpolate(x, (64, 64), mode="bilinear", antialias=True) - MEAN) / STD
    embedding = encoder(x)
    maps = teacher(images)
    assert [tuple(feature.shape) for feature in maps] == [(2, 256, 4, 4)] * 2
    torch.testing.assert_close(maps[0], F.normalize(embedding, dim=1))
    torch.testing.assert_close(maps[1], F.normalize(decoder(embedding), dim=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.neck.0.weight": None}, r"does not fit TinyViT: missing: neck\.0\.weight"),
        ({"mask_decoder.iou_token.weight": None}, r"does not fit PromptFreeDecoder: missing: iou_token\.weight"),
        ({"image_encoder.extra": (1,)}, r"does not fit TinyViT: unexpected: extra"),
        ({"text_encoder.weight": (1,)}, r"unknown entries text_encoder\.weight"),
        ({"image_encoder.neck.0.weight": (256, 192, 1, 1)}, r"of another shape: neck\.0\.weight"),
    ],
)
def test_unfit_checkpoint_is_refused_by_name(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    state = mobile_sam_state()
    for key, shape in change.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.zeros(shape)
    with pytest.raises(UserError, match=message):
        teacher_of(state, tmp_path)


def test_checkpoint_of_the_other_patch_embedding_is_refused(tmp_path: Path) -> None:
    config = save(mobile_sam_state(), tmp_path / "mobile_sam.pt", name="lite_medsam")
    with pytest.raises(UserError, match=r"of another shape: patch_embed\.seq\.0\.c\.weight"):
        load_teacher(config, tmp_path)


@pytest.fixture(scope="module")
def lite_medsam(fetched: Callable[[str], Path]) -> Teacher:
    return load_teacher(TeacherConfig(input_size=32), fetched("lite_medsam"))


def test_lite_medsam_maps(lite_medsam: Teacher, images: Tensor) -> None:
    maps = lite_medsam(images)
    assert [tuple(feature.shape) for feature in maps] == [(2, 256, 8, 8)] * 2
    for feature in maps:
        assert feature.dtype == torch.float32
        assert not feature.requires_grad
        torch.testing.assert_close(feature.norm(dim=1), torch.ones(2, 8, 8))
        assert float(feature.std(dim=(2, 3)).max()) > 0.01  # positions differ


def test_maps_do_not_depend_on_the_batch(lite_medsam: Teacher, images: Tensor) -> None:
    for together, alone in zip(lite_medsam(images), lite_medsam(images[:1]), strict=True):
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bad", [torch.zeros(1, 8, 8, 3), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_anything_but_images_is_refused(lite_medsam: Teacher, bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"takes uint8 \(N, H, W, 3\)"):
        lite_medsam(bad)


def test_frozen_whatever_is_asked(lite_medsam: Teacher) -> None:
    lite_medsam.train()
    assert not any(module.training for module in lite_medsam.modules())
    assert not any(parameter.requires_grad for parameter in lite_medsam.parameters())


def test_fingerprint_holds_all_that_decides_the_numbers(lite_medsam: Teacher, tmp_path: Path) -> None:
    network, facts, sha256 = lite_medsam.network, lite_medsam.facts, lite_medsam.sha256
    assert sha256 == "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
    same = Teacher(facts, network, sha256, 32).fingerprint()
    others = {
        Teacher(facts, network, sha256, 64).fingerprint(),
        Teacher(facts, network, "0" * 64, 32).fingerprint(),
        teacher_of(mobile_sam_state(), tmp_path).fingerprint(),
    }
    assert same == lite_medsam.fingerprint()
    assert len(others | {same}) == 4
