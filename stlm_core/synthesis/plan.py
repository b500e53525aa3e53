"""Which views a bank holds: decided from hashes and seeds alone, before any image is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stlm_core.seeding import derive_seed
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.rotation import RotationPolicy, draw_rotation


@dataclass(frozen=True)
class SourceImage:
    """A good image of the line: ``path`` relative to the data root, ``sha256`` of its bytes, ``split``."""

    path: str
    sha256: str
    split: str


@dataclass(frozen=True)
class PlannedView:
    """One row of the bank.

    ``variant`` 0 is a clean view, 1..K a pseudo-anomalous one; ``clean_view`` the row of the clean counterpart in
    the same pose; ``degrees`` that pose; ``seed`` of what was drawn, 0 for the image as it is.
    """

    row: int
    variant: int
    clean_view: int
    degrees: float
    seed: int


@dataclass(frozen=True)
class PlannedImage:
    """A source image and its views, in row order; the first is the image as it is."""

    source: SourceImage
    views: tuple[PlannedView, ...]


def plan_views(
    sources: Sequence[SourceImage], settings: SynthesizeConfig, rotation: RotationPolicy
) -> list[PlannedImage]:
    """The views of every image: the clean one, K variants, and before a variant its clean pose if that is a new one.

    With ``settings.fresh`` the training images have no variants: theirs are drawn while training. ``rotation``: that of
    ``settings``, or what was found where they say ``auto``.

    A variant's seed depends on the configured seed, the image's bytes and the variant's number, never on the other
    images or their order; only the row numbers do.
    """
    plans, row = [], 0
    for source in sorted(sources, key=lambda image: image.path):
        views = [PlannedView(row, 0, row, 0.0, 0)]
        pose_rows = {0.0: row}
        variants = 0 if settings.fresh and source.split == "train" else settings.variants
        for variant in range(1, variants + 1):
            seed = derive_seed("synthesize", settings.seed, source.sha256, variant)
            pose_seed = derive_seed("pose", seed)
            degrees = draw_rotation(rotation, np.random.default_rng(pose_seed))
            if degrees not in pose_rows:
                pose_rows[degrees] = row + len(views)
                views.append(PlannedView(row + len(views), 0, row + len(views), degrees, pose_seed))
            views.append(PlannedView(row + len(views), variant, pose_rows[degrees], degrees, seed))
        plans.append(PlannedImage(source, tuple(views)))
        row += len(views)
    return plans
