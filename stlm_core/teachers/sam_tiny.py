"""SAM-family teachers with a TinyViT encoder: LiteMedSAM and MobileSAM."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from stlm_core.models.sam_checkpoint import build_sam_parts
from stlm_core.models.tiny_vit import Stem


class TinySam(nn.Module):
    """Normalised images (N, 3, S, S) to the image embedding and the image tokens, both (N, 256, h, w).

    The image tokens are those of the two-way transformer with the null prompt (paper section 3.2).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        embedding: Tensor = self.encoder(image)
        return embedding, self.decoder(embedding)


def load_tiny_sam(path: Path, stem: Stem) -> TinySam:
    """Read a SAM-format checkpoint strictly.

    Raises:
        UserError: not a checkpoint of this architecture; missing and unknown entries are named.
    """
    return TinySam(*build_sam_parts(path, stem))
