"""Textures that travel with a bank, for steps that draw anomalies themselves and may run on another machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stlm_core.data.images import resize_to
from stlm_core.synthesis.bank import ArrayReader, ArrayWriter
from stlm_core.synthesis.textures import Texture, TextureSource

TEXTURES = "textures.npy"  # (T, side, side, 3) uint8 RGB
_LARGEST_SIDE = 512
_MOST = 512


def pack_textures(path: Path, source: TextureSource | None, size: int) -> None:
    """Write the middle squares of the first 512 textures of ``source``, for images of ``size`` pixels a side.

    Of None it writes an empty file, so that a bank always has the same files.
    """
    side, count = min(size, _LARGEST_SIDE), 0 if source is None else min(len(source), _MOST)
    with ArrayWriter(path, (count, side, side, 3)) as packed:
        if source is None:
            return
        for number in range(count):
            texture = source.texture(number)
            edge = min(texture.shape[:2])
            top, left = ((length - edge) // 2 for length in texture.shape[:2])
            square = np.ascontiguousarray(texture[top : top + edge, left : left + edge])
            packed.append(resize_to(square, side)[None])


class PackedTextures:
    """The textures that :func:`pack_textures` wrote, read when they are drawn.

    Raises:
        UserError: the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._reader = ArrayReader(path, 4)

    def __len__(self) -> int:
        return self._reader.shape[0]

    def texture(self, number: int) -> Texture:
        """Texture ``number``, uint8 RGB (side, side, 3)."""
        return self._reader.read([number])[0]
