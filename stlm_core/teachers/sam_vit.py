"""SAM with its ViT encoders, run through the segment-anything package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stlm_core.errors import UserError
from stlm_core.models.sam_checkpoint import load_strict, read_state_dict

Variant = Literal["vit_b", "vit_l", "vit_h"]


class SamVit(nn.Module):
    """Normalised images (N, 3, 1024, 1024) to the image embedding and the image tokens, both (N, 256, 64, 64).

    Encoder, prompt encoder and transformer are the package's own; the decoder stops after the transformer
    (paper section 3.2: the null prompt, no masks).
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.image_encoder: nn.Module = sam.image_encoder
        self.prompt_encoder: Any = sam.prompt_encoder
        self.mask_decoder: Any = sam.mask_decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        embedding: Tensor = self.image_encoder(image)
        n, channels, h, w = embedding.shape
        _, no_mask = self.prompt_encoder(points=None, boxes=None, masks=None)  # (1, 256, h, w)
        position = self.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
        learned = torch.cat([self.mask_decoder.iou_token.weight, self.mask_decoder.mask_tokens.weight])  # (5, 256)
        _, tokens = self.mask_decoder.transformer(embedding + no_mask, position, learned.expand(n, -1, -1))
        return embedding, tokens.transpose(1, 2).reshape(n, channels, h, w)  # (N, h*w, 256) -> (N, 256, h, w)


def load_sam_vit(path: Path, variant: Variant) -> SamVit:
    """Build the variant and read its checkpoint strictly. Peak memory is twice the checkpoint's size.

    Raises:
        UserError: segment-anything or torchvision is missing, or the file is not a checkpoint of this variant.
    """
    build = _segment_anything(variant).sam_model_registry[variant]
    with torch.device("meta"):  # no time or memory for random weights that are overwritten
        sam = build()
    sam = sam.to_empty(device="cpu")
    load_strict(sam, read_state_dict(path), str(path))
    return SamVit(sam)


def _segment_anything(variant: Variant) -> Any:
    try:
        return importlib.import_module("segment_anything")
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside a torch it was not built for
        raise UserError(
            f"teacher.name: sam_{variant} needs the packages segment-anything and torchvision "
            f"(pip install 'stlm[teachers]'): {str(error).splitlines()[0]}"
        ) from None
