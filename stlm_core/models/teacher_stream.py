"""The teacher as the plain stream, and one denoising student of it (beyond the paper, docs/decisions).

The plain stream of the paper learns to repeat the teacher on the image as it is. A teacher as small as the student
need not be repeated: it is the plain stream, exactly, and one student remains to be trained. It sees the image
and yields what the teacher would have seen on the clean counterpart, at three strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stlm_core.models.aggregation import FeatureAggregation
from stlm_core.models.efficientnet import PYRAMID, EfficientNetLite0, folded
from stlm_core.models.feature_memory import FeatureMemory, blurred
from stlm_core.models.preprocessing import NORMALISATIONS, Normalisation
from stlm_core.models.tiny_vit import EMBED_DIM, PatchMerging, Stage, TinyViT
from stlm_core.models.two_stream import StreamFeatures, spread

_GRID = PYRAMID[-1][1]  # coarsest stride
_STAGE_WIDTHS = (64, 128, EMBED_DIM)  # of the student's maps at the strides of PYRAMID
_NORMALISATION = "efficientnet_lite"
_LARGEST = 2.0  # distance of opposed features
_LOG_FLOOR = 1e-3
_BLUR_RADIUS = 3
_REFINER_WIDTH = 64
# Start of FA's skip: the product over the maps, and one in e^2 of the largest distance as likely anomalous as not.
_SLOPE, _OFFSET = 3.0, 6.0


class DenoisingStudent(nn.Module):
    """A TinyViT whose stages of strides 4, 8 and 16 each yield the teacher's map of that stride; 6.55 M parameters.

    Images (N, 3, S, S), normalised, S a multiple of 16, to three maps of the channels and strides of PYRAMID.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TinyViT("conv3x3")
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inner, inner, 3, padding=1), nn.BatchNorm2d(inner), nn.GELU(), nn.Conv2d(inner, out, 1)
            )
            for inner, (out, _) in zip(_STAGE_WIDTHS, PYRAMID, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        encoder = self.encoder
        x = encoder.patch_embed(image)
        maps = []
        for stage in encoder.layers:
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                x = block(x)
            if isinstance(stage.downsample, PatchMerging):
                if stage.downsample.conv2.c.stride[0] > 1:
                    maps.append(x)
                x = stage.downsample(x)
        maps.append(encoder.neck(x))
        return [head(one) for head, one in zip(self.heads, maps, strict=True)]


class TeacherStreams(nn.Module):
    """Normalised images (N, 3, S, S), float, to :class:`StreamFeatures` of three maps; 7.25 M parameters.

    ``normalisation``: of the images. ``mean`` and ``deviation`` of the teacher's channels over the line's good images
    standardise its maps before they are L2-normalised, so that no channel rules the cosine. The student yields
    standardised maps. The teacher stays frozen and in eval mode. Without ``denoising`` there is no student, and
    0.70 M parameters are left. ``memory``: number of features of good parts to remember, 0 for no such memory.
    """

    def __init__(self, normalisation: Normalisation, denoising: bool = True, memory: int = 0) -> None:
        super().__init__()
        self.memory = FeatureMemory(memory) if memory else None
        self.plain = EfficientNetLite0().requires_grad_(False).eval()
        self._quick: list[EfficientNetLite0] = []  # in a list, so that it is no part of the module
        self.denoising = DenoisingStudent() if denoising else None
        for number, (width, _) in enumerate(PYRAMID):
            self.register_buffer(f"mean_{number}", torch.zeros(width))
            self.register_buffer(f"deviation_{number}", torch.ones(width))
        # The teacher's own normalisation of an image that is normalised as the student wants it.
        (mean, deviation), (own_mean, own_deviation) = (
            torch.tensor(NORMALISATIONS[name]) for name in (normalisation, _NORMALISATION)
        )
        self.register_buffer("_scale", (deviation / own_deviation).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", ((mean - own_mean) / own_deviation).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """The student's mode; the teacher's batch statistics must never move."""
        super().train(mode)
        self.plain.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Whether the student is trained; the teacher never is."""
        if self.denoising is not None:
            self.denoising.requires_grad_(requires_grad)
        return self

    def forward(self, image: Tensor) -> StreamFeatures:
        finest, *maps = self._teacher_maps(image)
        context = self._standardised(maps)
        plain = [F.normalize(one, dim=1) for one in context]
        return StreamFeatures(plain, self.students(image).denoising, [finest, *context])

    def students(self, image: Tensor) -> StreamFeatures:
        """Features of the stream that is trained: the denoising one, where there is one."""
        found = [] if self.denoising is None else self.denoising(image)
        return StreamFeatures([], [F.normalize(one.float(), dim=1) for one in found])

    @torch.no_grad()
    def teach(self, clean: Tensor) -> StreamFeatures:
        """What :meth:`students` should yield, from the normalised clean counterparts (N, 3, S, S) themselves."""
        return StreamFeatures([], self.standardise(self._teacher_maps(clean)[1:]))

    def _teacher_maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """The teacher's maps of strides 2, 4, 8 and 16 of an image that is normalised as the student wants it."""
        seen = image * self.get_buffer("_scale") + self.get_buffer("_shift")
        teacher = self._quick[0] if self._quick else self.plain
        if torch.is_autocast_enabled(image.device.type):  # training: the teacher in full precision, as in the cache
            with torch.autocast(image.device.type, enabled=False):
                return teacher.with_finest(seen)
        return teacher.with_finest(seen)

    def hasten(self) -> None:
        """Compute the teacher's maps with its normalisations folded from now on, as the exported graph does; for
        training. Weights that are loaded or moved afterwards are not followed."""
        self._quick[:] = [folded(self.plain)]

    def targets(self, observed: Tensor, clean: Tensor) -> StreamFeatures:
        """What :meth:`students` should yield, from the packed features of the clean counterpart, (N, 1, C, h, w)."""
        return StreamFeatures([], self.standardise(unpack_pyramid(clean[:, 0])))

    def standardise(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's maps as both streams are compared, L2-normalised over the channels."""
        return [F.normalize(one, dim=1) for one in self._standardised(maps)]

    def _standardised(self, maps: Sequence[Tensor]) -> list[Tensor]:
        standard = []
        for number, one in enumerate(maps):
            mean, deviation = self.get_buffer(f"mean_{number}"), self.get_buffer(f"deviation_{number}")
            standard.append((one - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1))
        return standard

    def anomaly_map(self, features: StreamFeatures) -> Tensor:
        """Geometric mean over the maps of the distance over its largest value, blurred; (N, S/4, S/4) in [0, 1]."""
        return log_discrepancy(features).exp().clamp(0, 1)

    def remembered(self, features: StreamFeatures) -> list[Tensor]:
        """The maps that the memory compares: the teacher's own, but for a shift that no distance sees."""
        coarser = features.context[1:]
        return [one * self.get_buffer(f"deviation_{number}").view(1, -1, 1, 1) for number, one in enumerate(coarser)]

    def set_statistics(self, mean: Tensor, mean_square: Tensor) -> None:
        """Standardise by the packed features' mean and mean square over the good images, each (1, C)."""
        first = 0
        for number, (width, stride) in enumerate(PYRAMID):
            cells = (_GRID // stride) ** 2
            last = first + width * cells
            centre, square = (part[0, first:last].view(width, cells).double().mean(1) for part in (mean, mean_square))
            self.get_buffer(f"mean_{number}").copy_(centre)
            self.get_buffer(f"deviation_{number}").copy_((square - centre**2).clamp_min(1e-8).sqrt())
            first = last

    @torch.no_grad()
    def start_from(self, teacher: EfficientNetLite0, encoder: TinyViT | None) -> None:
        """Copy the teacher, and into the student a SAM encoder where one is given (stems as in
        :meth:`~stlm_core.models.two_stream.TwoStreamModel.start_from`)."""
        self.plain.load_state_dict(teacher.state_dict())
        if encoder is not None and self.denoising is not None:
            weights, own = encoder.state_dict(), self.denoising.encoder.state_dict()
            self.denoising.encoder.load_state_dict({key: spread(weights[key], value) for key, value in own.items()})


class PyramidAggregation(FeatureAggregation):
    """FA over three strides: the network works at stride 8, its logits are (N, S/4, S/4); 0.36 M parameters."""

    def __init__(self, discrepancy_skip: bool = True) -> None:
        super().__init__(discrepancy_skip, sum(width for width, _ in PYRAMID), _REFINER_WIDTH)
        with torch.no_grad():
            self.slope.fill_(_SLOPE)
            self.offset.fill_(_OFFSET)

    def agreement(self, features: StreamFeatures) -> Tensor:
        fine, middle, coarse = (-(p * d) for p, d in zip(features.plain, features.denoising, strict=True))
        return torch.cat([F.avg_pool2d(fine, 2), middle, _resize(coarse, middle.shape[-2:])], 1)

    def on_discrepancy(self, learned: Tensor, features: StreamFeatures) -> Tensor:
        at_stride_4 = _resize(learned[:, None], features.plain[0].shape[-2:])[:, 0]
        if not self.discrepancy_skip:
            return at_stride_4
        return at_stride_4 + self.slope * log_discrepancy(features) + self.offset


def log_discrepancy(features: StreamFeatures) -> Tensor:
    """Mean over the maps of the log of the distance over its largest value, blurred with a Gaussian of one cell;
    (N, h, w) of the finest map."""
    size = features.plain[0].shape[-2:]
    logs = [
        torch.log(_resize((1 - (p * d).sum(1, keepdim=True)).clamp_min(0) / _LARGEST, size) + _LOG_FLOOR)
        for p, d in zip(features.plain, features.denoising, strict=True)
    ]
    mean = torch.stack(logs).mean(0)
    return blurred(mean, 1.0, _BLUR_RADIUS)[:, 0]


def pack_pyramid(maps: Sequence[Tensor]) -> Tensor:
    """Maps of the strides of PYRAMID, each (N, C_k, h_k, w_k), as one (N, C, h, w) of the coarsest: every cell's
    finer cells become channels of it."""
    return torch.cat(
        [F.pixel_unshuffle(one, _GRID // stride) for one, (_, stride) in zip(maps, PYRAMID, strict=True)], 1
    )


def unpack_pyramid(packed: Tensor) -> list[Tensor]:
    """The maps that :func:`pack_pyramid` packed."""
    cells = [_GRID // stride for _, stride in PYRAMID]
    parts = packed.split([width * side**2 for (width, _), side in zip(PYRAMID, cells, strict=True)], 1)
    return [F.pixel_shuffle(part, side) for part, side in zip(parts, cells, strict=True)]


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
