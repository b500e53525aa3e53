"""MVTec AD's layout and those of its kind: ``train/good``, ``test/<good|defect>``, ``ground_truth/<defect>/<mask>``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    count_unused,
    existing_folder,
    finish_scan,
    folders,
    list_images,
    printable,
)
from stlm_core.data.adapters.layouts import category_folder, wrong_layout
from stlm_core.data.adapters.masks import Mask, MaskIndex, Stems, listed_masks, with_mask

GOOD = "good"


class MvtecAdapter:
    """MVTec AD. The root is one category, or a folder of categories.

    Masks are ``<stem>_mask`` or ``<stem>`` with any image suffix. ``test`` and ``ground_truth`` may be absent. Masks of
    good images and image files elsewhere in the folder are passed over and counted.
    """

    summary: ClassVar[str] = "train/good, test/<good|defect>, ground_truth/<defect>/<stem>_mask.png"
    masks: ClassVar[bool] = True

    # What layouts of this kind differ in.
    format: ClassVar[str] = "mvtec"
    good: ClassVar[str] = GOOD
    training: ClassVar[tuple[str, ...]] = ("train/good",)

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        home = category_folder(root, category, self.training, self.format)
        self._check(home)
        records = [record for name in self.training for record in _good(root, home / name, "train")]
        for folder in folders(home / "test"):
            if folder.name == self.good:
                records += _good(root, folder, "test")
            elif folder.name != GOOD:  # which as a defect's name would contradict itself
                records += self._defects(root, home, folder.name)
        for folder in folders(home / "ground_truth"):
            if folder.name not in (self.good, GOOD) and not os.path.isdir(home / "test" / folder.name):
                records += self._masks_without_images(root, folder)
        used = {record.path for record in records} | {record.mask_path for record in records}
        ignored = Ignored()
        count_unused(root, home, used, ignored)
        return finish_scan(root, records, ignored)

    def _check(self, home: Path) -> None:
        """Refuse layouts that look like this one at first sight."""
        if os.path.isdir(home / "validation" / GOOD) and os.path.isdir(home / "ground_truth" / "logical_anomalies"):
            raise wrong_layout(home, "masks in a folder for each image, and validation/good", self.format)

    def _masks(self, root: Path, folder: Path) -> list[Mask]:
        """The masks in a folder of ``ground_truth``, which may not exist."""
        return listed_masks(list_images(root, folder)) if os.path.isdir(folder) else []

    def _defects(self, root: Path, home: Path, name: str) -> list[Record]:
        """Anomalous images of one type with their masks, and the masks that no image claims."""
        defect = printable(name)
        masks = MaskIndex(self._masks(root, home / "ground_truth" / name), ("_mask", ""))
        images = list(list_images(root, home / "test" / name))
        stems = Stems(path for path, _ in images)
        records = [
            stems.unambiguous(with_mask(Record(path, "test", 1, defect, problem=problem), masks.claim(path)))
            for path, problem in images
        ]
        return records + masks.orphans(f"test/{defect}", defect)

    def _masks_without_images(self, root: Path, folder: Path) -> list[Record]:
        defect = printable(folder.name)
        problem = f"mask without an image: there is no folder test/{defect}"
        return [Record(mask.path, "test", 1, defect, problem=problem) for mask in self._masks(root, folder)]


class MpddAdapter(MvtecAdapter):
    """MPDD, painted metal parts: six categories in MVTec AD's layout."""

    summary: ClassVar[str] = "MPDD: as mvtec, categories bracket_black ... tubes"
    format: ClassVar[str] = "mpdd"


def _good(root: Path, folder: Path, split: Literal["train", "test"]) -> list[Record]:
    return [Record(path, split, 0, GOOD, problem=problem) for path, problem in list_images(root, folder)]
