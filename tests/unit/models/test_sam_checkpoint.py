"""Strict loading: what does not belong is refused by name."""

from __future__ import annotations

import pytest
import torch

from stlm_core.errors import UserError
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.sam_checkpoint import build_sam_parts, read_state_dict, split_checkpoint
from stlm_core.models.tiny_vit import TinyViT


def checkpoint() -> dict[str, torch.Tensor]:
    state = {f"image_encoder.{key}": value for key, value in TinyViT("conv1x1").state_dict().items()}
    renamed = {
        "no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
        "positional_encoding_gaussian_matrix": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    }
    for key, value in PromptFreeDecoder().state_dict().items():
        state[renamed.get(key, f"mask_decoder.{key}")] = value
    return state


def test_parts_round_trip(tmp_path):
    state = checkpoint()
    state["mask_decoder.iou_prediction_head.layers.0.weight"] = torch.zeros(1)  # SAM has it, the null prompt does not
    torch.save({"model": state}, tmp_path / "sam.pth")
    encoder, _ = build_sam_parts(tmp_path / "sam.pth", "conv1x1")
    assert torch.equal(encoder.state_dict()["neck.0.weight"], state["image_encoder.neck.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("image_encoder.neck.0.weight"), "missing: neck.0.weight"),
        (lambda s: s.update({"image_encoder.extra": torch.zeros(1)}), "unexpected: extra"),
        (lambda s: s.update({"image_encoder.neck.0.weight": torch.zeros(2, 2)}), "of another shape: neck.0.weight"),
        (lambda s: s.update({"backbone.layer": torch.zeros(1)}), "unknown entries backbone.layer"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = checkpoint()
    change(state)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(UserError, match=message):
        build_sam_parts(tmp_path / "sam.pth", "conv1x1")


def test_a_checkpoint_of_the_other_stem_is_refused(tmp_path):
    torch.save(checkpoint(), tmp_path / "sam.pth")
    with pytest.raises(UserError, match="of another shape: patch_embed"):
        build_sam_parts(tmp_path / "sam.pth", "conv3x3")


def test_code_in_a_pickle_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "run.txt"), "w"))

    torch.save({"model": Bomb()}, tmp_path / "sam.pth")
    with pytest.raises(UserError, match="not a readable weight file"):
        read_state_dict(tmp_path / "sam.pth")
    assert not (tmp_path / "run.txt").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_damaged_bytes_are_named(tmp_path, content):
    (tmp_path / "sam.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"sam\.pth: not a readable weight file"):
        read_state_dict(tmp_path / "sam.pth")


def test_anything_but_tensors_is_refused():
    with pytest.raises(UserError, match="unknown entries epoch"):
        split_checkpoint({"epoch": torch.zeros(1)}, "x.pth")
