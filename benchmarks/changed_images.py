"""Images of a line as they are and as something changed them, measured; used by `data_checks.py`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stlm_core.data.adapters import Record, find_adapter
from stlm_core.data.images import (
    DEFAULT_MAX_PIXELS,
    open_image,
    read_content,
    stored_orientation,
    to_eight_bit,
    upright,
)
from stlm_core.data.inspection import Inspected
from stlm_core.data.statistics import image_statistics
from stlm_core.files import sha256_bytes
from stlm_core.settings import Format

COPIED = 60  # images of a line

Change = Callable[[Image.Image], Image.Image]


def light(factor: float) -> Change:
    """Levels times ``factor``, clipped."""
    return lambda image: image.point(lambda level: min(255, round(level * factor)))


def blur(sigma: float) -> Change:
    """Gaussian blur, in pixels of the full image."""
    return lambda image: Image.fromarray(cv2.GaussianBlur(np.asarray(image), (0, 0), sigma))


def jpeg(image: Image.Image) -> Image.Image:
    """Saved as JPEG of quality 75."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    saved = Image.open(stream)
    saved.load()
    return saved


def resize(image: Image.Image) -> Image.Image:
    """Both sides times 0.9."""
    return image.resize((round(image.width * 0.9), round(image.height * 0.9)), Image.Resampling.BILINEAR)


def crop(share: float) -> Change:
    """Without ``share`` of either side, half of it at each border, at least one pixel."""

    def cut(image: Image.Image) -> Image.Image:
        x, y = (max(1, round(side * share / 2)) for side in image.size)
        return image.crop((x, y, image.width - x, image.height - y))

    return cut


COPIES: dict[str, Change] = {
    "JPEG 75": jpeg,
    "5% lighter": light(1.05),
    "5% darker": light(0.95),
    "blur, sigma 1": blur(1),
    "resize 0.9": resize,
    "resize 0.9, JPEG 75": lambda image: jpeg(resize(image)),
    "crop 1%": crop(0.01),
    "crop 4%": crop(0.04),
}
DRIFTS: dict[str, Change] = {
    "5% lighter": light(1.05),
    "20% lighter": light(1.2),
    "20% darker": light(0.8),
    "blur, sigma 1": blur(1),
    "blur, sigma 2": blur(2),
}


@dataclass(frozen=True)
class Line:
    """A line's rows, and by the name of a change what the changed good training images look like, by their index."""

    name: str
    rows: list[Inspected]
    changed: Mapping[str, Mapping[int, Inspected]]

    @property
    def learnt(self) -> list[int]:
        """Indices of the good training images."""
        return [index for index, row in enumerate(self.rows) if row.split == "train"]

    @property
    def copied(self) -> list[int]:
        """Indices of the images that copies are made of."""
        return evenly(self.learnt, COPIED)


def load(name: str, root: Path, layout: Format) -> Line:
    """Decode and measure all images of a line, and the changed ones."""
    records = [record for record in find_adapter(layout).scan(root).records if not record.problem]
    learnt = [index for index, record in enumerate(records) if record.split == "train"]
    copied = set(evenly(learnt, COPIED))
    wanted = [
        {**(DRIFTS if record.split == "train" else {}), **(COPIES if index in copied else {})}
        for index, record in enumerate(records)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(lambda record, changes: measure(root, record, changes), records, wanted))
    changed = {
        change: {index: found[change] for index, (_, found) in enumerate(measured) if change in found}
        for change in {**COPIES, **DRIFTS}
    }
    return Line(name, [row for row, _ in measured], changed)


def measure(root: Path, record: Record, changes: Mapping[str, Change]) -> tuple[Inspected, dict[str, Inspected]]:
    """The row of an image, and by name what it is after each of the changes."""
    content = read_content(root / record.path)
    with open_image(root / record.path, content, DEFAULT_MAX_PIXELS) as stored:
        image = upright(to_eight_bit(root / record.path, stored), stored_orientation(stored))
        image.load()
        row = Inspected(record.path, record.split, record.label, record.defect_type, "", record.group)
        found = {
            name: seen(row, change(image), f"{name} of {record.path}".encode()) for name, change in changes.items()
        }
        return seen(row, image, content), found


def seen(row: Inspected, image: Image.Image, content: bytes) -> Inspected:
    """``row`` with the statistics of ``image``."""
    facts = asdict(image_statistics(image))
    return replace(row, sha256=sha256_bytes(content), width=image.width, height=image.height, **facts)


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """``count`` of the indices, at equal distances."""
    return [indices[at] for at in np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)]
