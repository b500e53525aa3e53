"""SAM-format checkpoints with a TinyViT encoder: the file to module weights, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stlm_core.errors import UserError
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.tiny_vit import Stem, TinyViT

# Parts of a SAM checkpoint that the null prompt and the image tokens do not use.
_UNUSED = re.compile(
    r"mask_decoder\.(output_upscaling|output_hypernetworks_mlps|iou_prediction_head)\."
    r"|mask_decoder\.transformer\.(final_attn_token_to_image|norm_final_attn)\."
    r"|prompt_encoder\.(point_embeddings|not_a_point_embed|mask_downscaling)\."
    r"|image_encoder\.(norm_head|head)\."
    r"|.*\.attention_bias_idxs$"
)
_PROMPT_NAMES = {
    "prompt_encoder.no_mask_embed.weight": "no_mask_embed.weight",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": "positional_encoding_gaussian_matrix",
}


@dataclass(frozen=True)
class SamWeights:
    """Weights of the two parts that STLM uses, by their own parameter names."""

    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file, read without unpickling code; a ``model`` wrapper is unpacked.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such weight file") from None
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError ... for bad bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable weight file: {reason}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError(f"{path}: holds something else than named tensors")
    return {str(key): value for key, value in loaded.items()}


def split_checkpoint(state: Mapping[str, Tensor], source: str) -> SamWeights:
    """Sort a SAM checkpoint into encoder and decoder weights; every key must be known.

    Raises:
        UserError: a key is neither used nor one of SAM's known unused parts.
    """
    encoder: dict[str, Tensor] = {}
    decoder: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        if key in _PROMPT_NAMES:
            decoder[_PROMPT_NAMES[key]] = value
        elif _UNUSED.match(key):
            continue
        elif key.startswith("image_encoder."):
            encoder[key.removeprefix("image_encoder.")] = value
        elif key.startswith("mask_decoder."):
            decoder[key.removeprefix("mask_decoder.")] = value
        else:
            unknown.append(key)
    if unknown:
        raise UserError(f"{source}: not a SAM checkpoint: unknown entries {_some(unknown)}")
    return SamWeights(encoder, decoder)


def load_strict(module: torch.nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load ``weights`` into ``module``; missing, surplus or misshapen entries are refused by name.

    Raises:
        UserError: the weights are not of this architecture.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in weights]
    surplus = [key for key in weights if key not in own]
    misshapen = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    for names, what in ((missing, "missing"), (surplus, "unexpected"), (misshapen, "of another shape")):
        if names:
            raise UserError(f"{source}: does not fit {type(module).__name__}: {what}: {_some(names)}")
    module.load_state_dict(dict(weights), strict=True)


def build_sam_parts(path: Path, stem: Stem) -> tuple[TinyViT, PromptFreeDecoder]:
    """Encoder and decoder of a TinyViT SAM checkpoint (``lite_medsam``: ``conv1x1``; MobileSAM: ``conv3x3``)."""
    weights = split_checkpoint(read_state_dict(path), str(path))
    encoder, decoder = TinyViT(stem), PromptFreeDecoder()
    load_strict(encoder, weights.encoder, str(path))
    load_strict(decoder, weights.decoder, str(path))
    return encoder, decoder


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
