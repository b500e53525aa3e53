"""Reading a COCO-style JSON file. Nothing in it is trusted."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stlm_core.data.adapters.base import printable, stays_inside
from stlm_core.data.adapters.coco_masks import Polygon, Runs, read_shapes
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.data.images import DEFAULT_MAX_PIXELS
from stlm_core.errors import UserError

_MAX_BYTES = 1 << 29

Id = int | str


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """One annotated region: its category's name and its shapes, or why they cannot be used."""

    category: str
    shapes: tuple[Polygon | Runs, ...]
    problem: str

    def area(self) -> float:
        """Square pixels of the shapes."""
        return sum(shape.area() for shape in self.shapes)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: ``file_name`` cannot lead out of a folder; ``width`` and ``height`` are pixels, 0 if unknown."""

    id: Id
    file_name: str
    width: int
    height: int
    annotations: tuple[CocoAnnotation, ...]


def read_coco(path: Path) -> list[CocoImage]:
    """All images of the file, in its order, with their annotations.

    Raises:
        UserError: it cannot be read, is not COCO-style JSON, or an entry does not fit the others; the message names the
            entry.
    """
    content = _load(path)
    lists = {name: content.get(name) for name in ("images", "annotations", "categories")}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise UserError(f"{path}: no list `{name}`, so not COCO-style annotations")
    categories = {
        _id(path, "category", entry, "id"): _category_name(path, entry) for entry in lists["categories"] or ()
    }
    images = {}
    for entry in lists["images"] or ():
        number = _id(path, "image", entry, "id")
        if number in images:
            raise UserError(f"{path}: image {_shown(number)} is listed twice")
        images[number] = CocoImage(number, _file_name(path, number, entry), *_size(entry), ())
    annotations: dict[Id, list[CocoAnnotation]] = defaultdict(list)
    for entry in lists["annotations"] or ():
        image = _id(path, "annotation", entry, "image_id")
        if image not in images:
            raise UserError(f"{path}: annotation {_shown(entry.get('id'))}: no image {_shown(image)}")
        annotations[image].append(_annotation(path, entry, images[image], categories))
    return [
        CocoImage(image.id, image.file_name, image.width, image.height, tuple(annotations[image.id]))
        for image in images.values()
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        if os.path.getsize(path) > _MAX_BYTES:
            raise UserError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; divide it into several files")
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested too deeply, too many digits
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object with images and annotations, so not COCO-style annotations")
    return content


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number in JSON")


def _annotation(path: Path, entry: Mapping[str, Any], image: CocoImage, categories: Mapping[Id, str]) -> CocoAnnotation:
    number = _shown(entry.get("id"))
    category = _id(path, "annotation", entry, "category_id")
    if category not in categories:
        raise UserError(f"{path}: annotation {number}: no category {_shown(category)}")
    name = categories[category]
    if name == GOOD:
        raise UserError(f"{path}: annotation {number}: category {GOOD!r}, but what is annotated is a defect here")
    if not image.width:
        problem = f"its size in {path.name} is not a width and height of at most {DEFAULT_MAX_PIXELS} pixels"
        return CocoAnnotation(name, (), problem)
    try:
        shapes = read_shapes(entry.get("segmentation", []), image.width, image.height)
    except ValueError as error:
        return CocoAnnotation(name, (), f"annotation {number} in {path.name}: {error}")
    return CocoAnnotation(name, shapes, "")


def _id(path: Path, kind: str, entry: Mapping[str, Any], key: str) -> Id:
    value = entry.get(key)
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        named = f"{kind} {_shown(entry.get('id'))}" if key != "id" else f"a {kind}"
        raise UserError(f"{path}: {named}: `{key}` is not a number or a text")
    return value


def _category_name(path: Path, entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: category {_shown(entry.get('id'))}: no name")
    return printable(name.strip()).replace("/", "-")  # defect types name folders elsewhere


def _file_name(path: Path, number: Id, entry: Mapping[str, Any]) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: image {_shown(number)}: no file_name")
    if not stays_inside(name):
        raise UserError(f"{path}: image {_shown(number)}: file_name {_shown(name)} leads out of the folder")
    return name


def _size(entry: Mapping[str, Any]) -> tuple[int, int]:
    width, height = entry.get("width"), entry.get("height")
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        return 0, 0
    return (width, height) if width * height <= DEFAULT_MAX_PIXELS else (0, 0)


def _shown(value: Any) -> str:
    """``value`` for a message: one short line, whatever it is."""
    text = printable(repr(value) if isinstance(value, str) else str(value)) if type(value) in (int, str) else "?"
    return text if len(text) <= 80 else f"{text[:77]}..."
