"""MVTec AD's layout: ``train/good``, ``test/<good|defect>``, ``ground_truth/<defect>/<stem>_mask.png``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from stlm_core.data.adapters.base import (
    Ignored,
    Record,
    Scan,
    existing_folder,
    finish_scan,
    folders,
    list_images,
    name_key,
    no_category,
    printable,
    with_problem,
)
from stlm_core.errors import UserError

GOOD = "good"


class MvtecAdapter:
    """Masks may also be named ``<stem>.png``. ``test`` and ``ground_truth`` may be absent.

    Masks of good images and image files elsewhere in the folder are passed over and counted.
    """

    summary: ClassVar[str] = "train/good, test/<good|defect>, ground_truth/<defect>/<stem>_mask.png"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        no_category(root, category)
        if not (root / "train" / GOOD).is_dir():
            raise UserError(f"{root}: no folder train/good, so not in MVTec layout; wrong folder or wrong --format?")
        ignored = Ignored()
        found = sum(1 for _ in list_images(root, root, recursive=True, ignored=ignored))
        records = _good(root, root / "train" / GOOD, "train")
        for folder in folders(root / "test"):
            records += _good(root, folder, "test") if folder.name == GOOD else _defects(root, folder)
        for folder in folders(root / "ground_truth"):
            if folder.name != GOOD and not (root / "test" / folder.name).is_dir():
                records += _masks_without_images(root, folder)
        used = len(records) + len({record.mask_path for record in records if record.mask_path})
        if found > used:
            ignored["outside the layout"] = found - used
        return finish_scan(root, records, ignored)


def _good(root: Path, folder: Path, split: Literal["train", "test"]) -> list[Record]:
    return [Record(path, split, 0, GOOD, problem=problem) for path, problem in list_images(root, folder)]


def _defects(root: Path, folder: Path) -> list[Record]:
    """Anomalous images of one type with their masks, and the masks that no image claims."""
    defect = printable(folder.name)
    truth = root / "ground_truth" / folder.name
    listed = list_images(root, truth) if truth.is_dir() else ()
    masks = {name_key(PurePosixPath(path).name): (path, problem) for path, problem in listed}
    images = list(list_images(root, folder))
    stems = Counter(name_key(PurePosixPath(path).stem) for path, _ in images)
    records, claimed = [], set()
    for path, problem in images:
        stem = name_key(PurePosixPath(path).stem)
        name = next((name for name in (f"{stem}_mask.png", f"{stem}.png") if name in masks), "")
        claimed.add(name)
        mask_path, mask_problem = masks.get(name, ("", ""))
        record = Record(path, "test", 1, defect, mask_path, problem)
        if mask_problem:
            record = with_problem(record, f"its mask {mask_path}: {mask_problem}")
        if stems[stem] > 1:
            record = with_problem(record, f"{stems[stem]} images are named {stem}.*, so their mask is ambiguous")
        records.append(record)
    for name in sorted(masks.keys() - claimed):
        image = f"test/{defect}/{PurePosixPath(name).stem.removesuffix('_mask')}.*"
        records.append(Record(masks[name][0], "test", 1, defect, problem=f"mask without its image {image}"))
    return records


def _masks_without_images(root: Path, folder: Path) -> list[Record]:
    defect = printable(folder.name)
    problem = f"mask without an image: there is no folder test/{defect}"
    return [Record(path, "test", 1, defect, problem=problem) for path, _ in list_images(root, folder)]
