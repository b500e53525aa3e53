"""DAGM 2007's layout: ``Class<n>/Train|Test/*.PNG`` with ``Label/<stem>_label.PNG`` for the defective ones."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    count_unused,
    existing_folder,
    finish_scan,
    list_images,
    name_key,
)
from stlm_core.data.adapters.layouts import category_folder
from stlm_core.data.adapters.masks import MaskIndex, Stems, listed_masks, with_mask
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.errors import UserError

_DEFECT = "defect"
_LABELS = "Labels.txt"


class DagmAdapter:
    """DAGM 2007, categories Class1 to Class10. The masks are coarse ellipses around the defects.

    An image is defective if it has a label file, or if ``Label/Labels.txt`` says so. Training is on good images alone,
    so the defective ones of ``Train`` are passed over and counted; ``Test`` is the test split as it stands.
    """

    summary: ClassVar[str] = "DAGM 2007: Class<n>/Train and Test, each with Label/<stem>_label.PNG"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        home = category_folder(root, category, ("Train/Label",), "dagm")
        train, test = _Part.read(root, home / "Train"), _Part.read(root, home / "Test")
        ignored = Ignored()
        if train.defective:
            ignored["defective, in the training folder"] = len(train.defective)
        count_unused(root, home, train.used | test.used, ignored)
        learn = [replace(record, split="train") for record in train.good]
        records = learn + train.orphans + test.good + test.defective + test.orphans
        return finish_scan(root, records, ignored)


@dataclass(frozen=True)
class _Part:
    """``Train`` or ``Test``, all records as if for the test; ``orphans`` are masks without images.

    ``used`` are the paths of all files that the records stand for.
    """

    good: list[Record]
    defective: list[Record]
    orphans: list[Record]
    used: set[str]

    @classmethod
    def read(cls, root: Path, folder: Path) -> _Part:
        """An absent folder is an empty part."""
        labels = folder / "Label"
        masks = MaskIndex(listed_masks(list_images(root, labels)) if os.path.isdir(labels) else (), ("_label",))
        marked = _said_to_be_defective(labels / _LABELS)
        images = list(list_images(root, folder)) if os.path.isdir(folder) else []
        stems = Stems(path for path, _ in images)
        good, defective = [], []
        for path, problem in images:
            mask = masks.claim(path)
            if mask is None and name_key(PurePosixPath(path).name).lower() not in marked:
                good.append(Record(path, "test", 0, GOOD, problem=problem))
            else:
                record = with_mask(Record(path, "test", 1, _DEFECT, problem=problem), mask)
                defective.append(stems.unambiguous(record))
        orphans = masks.orphans(folder.name, _DEFECT)
        used = {record.path for record in good + defective + orphans} | masks.claimed()
        return cls(good, defective, orphans, used)


def _said_to_be_defective(path: Path) -> set[str]:
    """Names in lower case of the images that ``Labels.txt`` marks: rows of number, 0 or 1, image, 0, label file.

    Other rows, such as the first, which is a mere 1, say nothing. Without the file the label files alone decide.

    Raises:
        UserError: the file cannot be read.
    """
    if not os.path.isfile(path):
        return set()
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    rows = [line.split() for line in text.splitlines()]
    return {name_key(row[2]).lower() for row in rows if len(row) > 2 and row[1] == "1"}
