"""The catalogue of bad input: what is wrong, how it is made, and the sentence that a person then reads.

Every case starts from the same valid project and spoils one thing. ``message`` must stand in the one line that goes to
standard error; ``{root}`` is the project's folder.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

GOOD = Path("images/train/good")
DENT = Path("images/test/dent")
MASKS = Path("images/ground_truth/dent")
VALIDATE = ("validate", "--line", "line")


@dataclass(frozen=True)
class BadInput:
    """``spoil`` gets the project's folder; ``exit_code`` 2 is the user's mistake."""

    name: str
    spoil: Callable[[Path], object]
    message: str
    command: tuple[str, ...] = VALIDATE
    exit_code: int = 2
    needs: Callable[[], bool] = lambda: True


def noise(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """An RGB image that differs from that of every other seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_project(root: Path) -> None:
    """A line in MVTec layout: 24 good training images, 3 good and 3 dented test images with masks."""
    for folder in (GOOD, Path("images/test/good"), DENT, MASKS):
        (root / folder).mkdir(parents=True)
    for index in range(24):
        noise(index).save(root / GOOD / f"{index:03d}.png")
    mask = np.zeros((40, 48), np.uint8)
    mask[5:9, 5:9] = 255
    for index in range(3):
        noise(100 + index).save(root / "images/test/good" / f"{index:03d}.png")
        noise(200 + index).save(root / DENT / f"{index:03d}.png")
        Image.fromarray(mask).save(root / MASKS / f"{index:03d}_mask.png")
    line = {"profile": "fast", "data": {"path": "images"}}
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def write(path: Path | str, content: bytes) -> Callable[[Path], object]:
    """Spoil by putting ``content`` at ``path``."""
    return lambda root: (root / path).write_bytes(content)


def image(path: Path | str, picture: Callable[[], Image.Image], **options: object) -> Callable[[Path], object]:
    """Spoil by saving another picture at ``path``."""
    return lambda root: picture().save(root / path, **options)


def edit(path: Path | str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Spoil by changing a file's bytes."""
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


def setting(section: str, key: str, value: object) -> Callable[[Path], object]:
    """Spoil a setting of the line."""

    def spoil(root: Path) -> None:
        tree = yaml.safe_load((root / "params.yaml").read_text())
        tree["lines"]["line"].setdefault(section, {})[key] = value
        (root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    return spoil


def both(*spoils: Callable[[Path], object]) -> Callable[[Path], object]:
    """Several things at once."""

    def spoil(root: Path) -> None:
        for one in spoils:
            one(root)

    return spoil


def flat_png(width: int, height: int) -> bytes:
    """A valid 1-bit PNG of any size; black compresses a thousandfold, so 20,000 x 20,000 pixels are 49 KB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rotated(orientation: int) -> Callable[[Path], object]:
    """A photograph with an EXIF orientation, its mask drawn on the pixels as stored."""

    def spoil(root: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        noise(200).save(root / DENT / "000.png", exif=exif)

    return spoil


def in_place_of(path: Path | str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Spoil by something else than a file under a file's name."""

    def spoil(root: Path) -> None:
        (root / path).unlink()
        make(root / path)

    return spoil


def remove(path: Path | str) -> Callable[[Path], object]:
    """Spoil by taking a file or folder away."""
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def not_root() -> bool:
    """Whether file permissions mean anything to this process."""
    return os.geteuid() != 0
