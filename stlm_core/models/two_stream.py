"""The two-stream lightweight model, TLM (paper section 3.3).

Two TinyViT encoders and one two-way transformer that both share. The plain stream imitates the teacher on the
image as it is, the denoising stream imitates the teacher on the clean image; where the two disagree, something
is wrong with the part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.tiny_vit import EMBED_DIM, Stem, TinyViT

MAPS = 2  # feature maps a stream yields: image embedding, image tokens
LARGEST_DISCREPANCY = 2.0**MAPS  # opposed features in every map


class StreamFeatures(NamedTuple):
    """Per stream its maps, two of (N, 256, h, w) in the paper, L2-normalised over channels; empty for a stream that
    there is not. ``context``: the plain stream's maps as they are, for a feature aggregation that sees them."""

    plain: list[Tensor]
    denoising: list[Tensor]
    context: Sequence[Tensor] = ()


class TwoStreamModel(nn.Module):
    """Normalised images (N, 3, S, S), float, to :class:`StreamFeatures`; 14.6 M parameters.

    ``centre`` (maps, 256) is subtracted from the L2-normalised features before they are normalised again. Zero, as in
    the paper, changes nothing. Set to the teacher's mean over the line's good images it removes what all positions
    have in common, which otherwise leaves almost no room for a difference: image tokens of different
    positions have a mean cosine of 0.98.
    """

    centre: Tensor

    def __init__(self, stem: Stem = "conv3x3") -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(MAPS, EMBED_DIM))
        self.plain = TinyViT(stem)
        self.denoising = TinyViT(stem)
        self.decoder = PromptFreeDecoder()

    def forward(self, image: Tensor) -> StreamFeatures:
        embeddings = torch.cat([self.plain(image), self.denoising(image)])  # (2N, 256, h, w)
        tokens = self.decoder(embeddings)
        maps = self.recentre(F.normalize(torch.stack([embeddings, tokens], 1).float(), dim=2))  # (2N, maps, C, h, w)
        count = image.shape[0]  # slices, not chunk(): the exporter can only keep N dynamic through these
        plain, denoising = maps[:count], maps[count:]
        return StreamFeatures(list(plain.unbind(1)), list(denoising.unbind(1)))

    def students(self, image: Tensor) -> StreamFeatures:
        """Features of the streams that are trained: both."""
        out: StreamFeatures = self(image)
        return out

    def targets(self, observed: Tensor, clean: Tensor) -> StreamFeatures:
        """What :meth:`students` should yield, from the teacher's features of the image as it is and of its clean
        counterpart, each (N, maps, C, h, w)."""
        return StreamFeatures(list(self.recentre(observed).unbind(1)), list(self.recentre(clean).unbind(1)))

    def anomaly_map(self, features: StreamFeatures) -> Tensor:
        """The streams' discrepancy over its largest possible value, (N, h, w) in [0, 1]."""
        return discrepancy_map(features) / LARGEST_DISCREPANCY

    def set_statistics(self, mean: Tensor, mean_square: Tensor) -> None:
        """Compare relative to the teacher's mean (maps, C) over the good images; ``mean_square`` is not used."""
        self.centre.copy_(mean)

    def recentre(self, features: Tensor) -> Tensor:
        """L2-normalised features (N, maps, C, h, w) relative to ``centre``, L2-normalised again over C."""
        return F.normalize(features - self.centre[None, :, :, None, None], dim=2)

    @torch.no_grad()
    def start_from(self, encoder: TinyViT, decoder: PromptFreeDecoder) -> None:
        """Copy a teacher's weights into both streams and the shared decoder.

        A ``conv3x3`` stem that starts from a teacher's ``conv1x1`` stem gets each 1x1 kernel spread evenly over
        its nine taps: the stem then averages where the teacher looks at one pixel, and the stream starts as the
        teacher sees a four times smaller image.
        """
        weights = encoder.state_dict()
        for stream in (self.plain, self.denoising):
            own = stream.state_dict()
            stream.load_state_dict({key: spread(weights[key], value) for key, value in own.items()})
        self.decoder.load_state_dict(decoder.state_dict())


def spread(weight: Tensor, target: Tensor) -> Tensor:
    """A 1x1 kernel evenly over the taps of ``target``; any other weight as it is."""
    if weight.shape == target.shape:
        return weight
    taps = target.shape[-1] * target.shape[-2]
    return (weight / taps).expand_as(target).clone()


def discrepancy_map(features: StreamFeatures) -> Tensor:
    """Anomaly map without FA (paper section 3.4): product over the maps of 1 - cosine, (N, h, w) in [0, 4]."""
    product = None
    for plain, denoising in zip(features.plain, features.denoising, strict=True):
        distance = 1 - (plain * denoising).sum(1)
        product = distance if product is None else product * distance
    assert product is not None
    return product.clamp_min(0)
