"""KolektorSDD and KolektorSDD2: every image has a mask beside it, and only the mask tells whether the part is good."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
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
    folders,
    list_images,
    no_category,
    printable,
    with_problem,
)
from stlm_core.data.adapters.layouts import wrong_layout
from stlm_core.data.adapters.masks import Mask, MaskIndex, Stems, listed_masks, with_mask
from stlm_core.data.adapters.mvtec import GOOD
from stlm_core.data.images import image_size, read_mask
from stlm_core.errors import UserError

_DEFECT = "defect"
_TEST_SHARE = 0.2
_ITEM = re.compile(r"kos\d+", re.IGNORECASE)
_COPY = re.compile(r"(?P<original>.+) \(copy\)")


class KolektorAdapter:
    """KolektorSDD: commutators kos01 to kos50, each ``Part<n>.jpg`` with ``Part<n>_label.bmp``, 0 where it is good.

    There is no official split. All defective images are for the test, and about a fifth of the good ones, chosen by
    the hashes of their paths without suffix: the same images on every machine and whatever else is added.
    """

    summary: ClassVar[str] = "KolektorSDD: kos<n>/Part<n>.jpg with Part<n>_label.bmp"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`; reads all masks."""
        root = existing_folder(root)
        no_category(root, category)
        items = [folder for folder in folders(root) if _ITEM.fullmatch(folder.name)]
        if not items:
            raise wrong_layout(root, "no folder kos01", "kolektor")
        records: list[Record] = []
        used: set[str] = set()
        # The item is not a group: nearly every commutator has exactly one defective image, all of which are for the
        # test, so that its good images could not be for training. The images show different parts of its surface
        # that do not overlap, and each stands for itself.
        for item in items:
            pairs = _Pairs.read(root, item, "_label", list(list_images(root, item)))
            records += pairs.records
            used |= pairs.used
        records = [replace(record, split="train") if _is_for_training(record) else record for record in records]
        ignored = Ignored()
        count_unused(root, root, used, ignored)
        return finish_scan(root, records, ignored)


class Kolektor2Adapter:
    """KolektorSDD2: ``train`` and ``test`` with ``10000.png`` and its mask ``10000_GT.png``, 0 where it is good.

    Training is on good images alone, so the defective ones of ``train`` are passed over and counted. So are the
    stray copies in the published archive, ``10301 (copy).png`` and its mask.
    """

    summary: ClassVar[str] = "KolektorSDD2: train and test, each <n>.png with <n>_GT.png"
    masks: ClassVar[bool] = True

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`; reads all masks."""
        root = existing_folder(root)
        no_category(root, category)
        if not os.path.isdir(root / "train"):
            raise wrong_layout(root, "no folder train", "kolektor2")
        listed = list(list_images(root, root / "train"))
        if not any(PurePosixPath(path).stem.endswith("_GT") for path, _ in listed):
            raise wrong_layout(root, "no mask <n>_GT.png in the folder train", "kolektor2")
        ignored = Ignored()
        parts = []
        for name in ("train", "test"):
            if os.path.isdir(root / name):
                parts.append(_Pairs.read(root, root / name, "_GT", list(list_images(root, root / name)), ignored))
        train = [record for record in parts[0].records if not record.label or record.problem]
        if len(train) < len(parts[0].records):
            ignored["defective, in the training folder"] = len(parts[0].records) - len(train)
        records = [record if record.label else replace(record, split="train") for record in train]
        records += [record for part in parts[1:] for record in part.records]
        count_unused(root, root, {path for part in parts for path in part.used}, ignored)
        return finish_scan(root, records, ignored)


@dataclass(frozen=True)
class _Pairs:
    """Images of a folder with the label that their masks give, all as if for the test, and the paths they use."""

    records: list[Record]
    used: set[str]

    @classmethod
    def read(
        cls, root: Path, folder: Path, ending: str, listed: Sequence[tuple[str, str]], ignored: Ignored | None = None
    ) -> _Pairs:
        """Pair the files ``listed`` in ``folder``; a mask is called as its image, and then ``ending``.

        Where ``ignored`` is given, copies of files that are there too are passed over and counted in it.
        """
        names = {path for path, _ in listed}
        copies = {path for path in names if ignored is not None and _original(path) in names}
        if ignored is not None and copies:
            ignored["copy of another file"] += len(copies)
        files = [(path, problem) for path, problem in listed if path not in copies]
        is_mask = [PurePosixPath(path).stem.endswith(ending) for path, _ in files]
        masks = MaskIndex(listed_masks(file for file, mask in zip(files, is_mask, strict=True) if mask), (ending,))
        images = [file for file, mask in zip(files, is_mask, strict=True) if not mask]
        stems = Stems(path for path, _ in images)
        records = []
        for path, problem in images:
            record = _labelled(root, Record(path, "test", 1, _DEFECT, problem=problem), masks.claim(path), ending)
            records.append(stems.unambiguous(record))
        records += masks.orphans(printable(folder.relative_to(root).as_posix()), _DEFECT)
        return cls(records, {record.path for record in records} | masks.claimed() | copies)


def _labelled(root: Path, record: Record, mask: Mask | None, ending: str) -> Record:
    """``record`` as good if its mask is 0 everywhere; with a problem if the mask cannot tell."""
    if mask is None:
        stem = PurePosixPath(record.path).stem
        return with_problem(record, f"no mask {stem}{ending}.*, which would tell whether it is good")
    record = with_mask(record, mask)
    if record.problem:
        return record
    path = root / mask.path
    try:
        width, height = image_size(path)
        defective = read_mask(path, (height, width)).any()
    except UserError as error:
        return with_problem(record, f"its mask {mask.path}: {str(error).removeprefix(f'{path}: ')}")
    return record if defective else replace(record, label=0, defect_type=GOOD, mask_path="")


def _is_for_training(record: Record) -> bool:
    if record.label:
        return False
    name = PurePosixPath(record.path).with_suffix("").as_posix()
    hashed = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(hashed[:8], "big") >= _TEST_SHARE * 2**64


def _original(path: str) -> str:
    """Path of the file of which ``path`` is named a copy; "" if it is not."""
    place = PurePosixPath(path)
    copy = _COPY.fullmatch(place.stem)
    return place.with_stem(copy["original"]).as_posix() if copy else ""
