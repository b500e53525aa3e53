"""Where the texture of a pseudo anomaly comes from, and how it is varied."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from stlm_core.data.images import IMAGE_SUFFIXES, read_image
from stlm_core.errors import UserError
from stlm_core.seeding import derive_rng
from stlm_core.synthesis.procedural import FAMILIES, procedural_texture

Texture = npt.NDArray[np.uint8]

_CACHE_BYTES = 256 << 20
_PER_FAMILY = 16
_LONGEST = 32_766  # pixels of a texture's side that OpenCV can address
_FOLD = 1024


class TextureSource(Protocol):
    """A numbered set of textures; the same number is always the same texture. Safe to use from threads."""

    def __len__(self) -> int: ...

    def texture(self, number: int) -> Texture:
        """uint8 RGB of shape (h, w, 3), any size; read-only."""
        ...


class _BoundedCache:
    """Least recently used textures, at most ``_CACHE_BYTES`` of them."""

    def __init__(self) -> None:
        self._items: OrderedDict[int, Texture] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, number: int, make: Callable[[int], Texture]) -> Texture:
        with self._lock:
            if number in self._items:
                self._items.move_to_end(number)
                return self._items[number]
        made = make(number)
        made.flags.writeable = False
        with self._lock:
            if number not in self._items:
                self._items[number] = made
                self._bytes += made.nbytes
                while self._bytes > _CACHE_BYTES and len(self._items) > 1:
                    self._bytes -= self._items.popitem(last=False)[1].nbytes
        return made


@dataclass(frozen=True)
class SomeTextures:
    """The textures ``numbers`` of ``source``."""

    source: TextureSource
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def texture(self, number: int) -> Texture:
        return self.source.texture(self.numbers[number])


def held_back(source: TextureSource) -> tuple[TextureSource, TextureSource]:
    """Two sets that share no texture: four of five for training, every fifth for validation.

    A source of fewer than five has none to spare and is both.
    """
    every_fifth = tuple(range(0, len(source), 5))
    if len(source) < 5:
        return source, source
    others = tuple(number for number in range(len(source)) if number % 5)
    return SomeTextures(source, others), SomeTextures(source, every_fifth)


class FolderTextures:
    """All images under ``folder``, DTD for example, read when first drawn and kept at most ``side`` pixels long.

    Raises:
        UserError: the folder is missing or holds no image; later, a drawn file is not a readable image.
    """

    def __init__(self, folder: Path, side: int) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder}: synthesize.textures is no folder; give one with images, or null")
        self._files = sorted(
            file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        )
        if not self._files:
            raise UserError(f"{folder}: synthesize.textures holds no image; give a folder with images, or null")
        self._side = side
        self._cache = _BoundedCache()

    def __len__(self) -> int:
        return len(self._files)

    def texture(self, number: int) -> Texture:
        return self._cache.get(number, self._read)

    def _read(self, number: int) -> Texture:
        image = read_image(self._files[number])
        height, width = image.shape[:2]
        shrink = self._side / min(height, width)
        if shrink >= 1:
            return np.ascontiguousarray(image)
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


class ProceduralTextures:
    """The embedded set: 16 seeded members of each family of :mod:`stlm_core.synthesis.procedural`."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._cache = _BoundedCache()

    def __len__(self) -> int:
        return _PER_FAMILY * len(FAMILIES)

    def texture(self, number: int) -> Texture:
        return self._cache.get(number, self._make)

    def _make(self, number: int) -> Texture:
        family = sorted(FAMILIES)[number % len(FAMILIES)]
        return procedural_texture(family, derive_rng("procedural-texture", family, number), self._side)


def open_textures(folder: Path | None, size: int) -> TextureSource:
    """The textures of ``folder``, or the embedded procedural set for None, for images of ``size`` pixels a side."""
    side = min(size, 512)
    return ProceduralTextures(side) if folder is None else FolderTextures(folder, side)


@dataclass(frozen=True)
class Colouring:
    """A change of colour: made grey or not, then a table of new levels, uint8 (1, 256, 3)."""

    grey: bool
    table: Texture

    def apply(self, pixels: Texture) -> Texture:
        """``pixels`` (h, w, 3) in the new colours."""
        return np.asarray(cv2.LUT(to_grey(pixels) if self.grey else pixels, self.table), np.uint8)


@dataclass(frozen=True)
class DrawnTexture:
    """A texture in a pose over an image of ``size`` pixels a side, looked up where it is needed.

    A mask covers a twentieth of an image, so that the rest of the texture is never computed. ``pose``: float32
    (2, 3), from the image's (x, y, 1) to the texture's (x, y).
    """

    texture: Texture
    pose: npt.NDArray[np.float32]
    colouring: Colouring
    size: int

    def at(self, inside: npt.NDArray[np.intp]) -> Texture:
        """Colours at the image's pixels ``inside`` (N,), numbered row by row; uint8 (N, 3)."""
        # OpenCV takes no image longer than 32,766 pixels, so the list is folded; what fills the last row is cut off.
        columns = max(1, min(len(inside), _FOLD))
        rows = max(1, -(-len(inside) // columns))
        folded = np.zeros(rows * columns, np.intp)
        folded[: len(inside)] = inside
        y, x = np.divmod(folded.reshape(rows, columns), self.size)
        # The product is exact in float64, so that each sum is rounded once, as by a fused multiply-add: these are to
        # the last bit the coordinates with which warpAffine would make the whole texture.
        left, top = (
            (float(a) * x + (b * np.arange(self.size, dtype=np.float32) + c)[y]).astype(np.float32)
            for a, b, c in self.pose
        )
        found = cv2.remap(self.texture, left, top, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return self.colouring.apply(np.asarray(found, np.uint8)).reshape(-1, 3)[: len(inside)]


def draw_texture(source: TextureSource, rng: np.random.Generator, size: int) -> DrawnTexture:
    """A random texture of ``source`` for an image of ``size`` pixels a side, varied in pose and colour.

    Pose: mirrored, rotated by +-45 degrees, shifted, and scaled so that 0.6 to 1.4 of it spans the image (uncovered
    parts by reflection). Colour: see :func:`draw_colouring`.
    """
    texture = source.texture(int(rng.integers(len(source))))[:_LONGEST, :_LONGEST]
    height, width = texture.shape[:2]
    scale = size / min(height, width) / rng.uniform(0.6, 1.4)
    pose = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-45, 45), scale), np.float64)
    pose[:, 2] += size / 2 - np.array([width / 2, height / 2]) + rng.uniform(-0.25, 0.25, 2) * size
    if rng.random() < 0.5:
        pose[0] = -pose[0]
        pose[0, 2] += size
    back = np.asarray(cv2.invertAffineTransform(pose), np.float32)
    return DrawnTexture(texture, back, draw_colouring(rng), size)


def draw_colouring(rng: np.random.Generator) -> Colouring:
    """Random gamma, contrast, brightness and tint; sometimes inverted, sometimes grey."""
    grey = rng.random() < 0.25
    level = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.5, 0.5))  # (256,)
    level = (level - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.2, 0.2)
    if rng.random() < 0.2:
        level = 1 - level
    curves = level[:, None] * rng.uniform(0.8, 1.2, size=3)  # (256, 3)
    return Colouring(grey, np.rint(np.clip(curves, 0, 1) * 255).astype(np.uint8)[None])


def to_grey(pixels: Texture) -> Texture:
    """``pixels`` (h, w, 3) with all three channels at their luminance."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
