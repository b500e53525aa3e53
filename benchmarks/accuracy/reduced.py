"""Lines as they are found in a factory: few good images, or defects that nobody marked among them."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from pathlib import Path

from stlm_core.errors import UserError

_CHANGE = re.compile(r"(?P<count>[1-9]\d*)(?P<percent>%?)")


def reduce_line(folder: Path, change: str, target: Path) -> Path:
    """A copy of an MVTec ``folder`` as ``target``, changed: ``20`` keeps 20 good training images; ``2%`` puts as many
    defective test images among the good training images as makes two in a hundred of them, and takes them out of the
    test.

    Which images follows from their names alone. A copy that is there already is kept.

    Raises:
        UserError: another change is asked for, or the folder has too few images for it.
    """
    asked = _CHANGE.fullmatch(change)
    if asked is None:
        raise UserError(f"`@{change}`: `@20` keeps 20 good images, `@2%` hides defects among them")
    if target.exists():
        return target
    good = _shuffled(folder / "train" / "good")
    defective = _shuffled(folder / "test", but="good")
    count = int(asked["count"])
    hidden: list[Path] = []
    if not asked["percent"]:
        if count > len(good):
            raise UserError(f"`@{change}`: {folder} has {len(good)} good training images")
        good = good[:count]
    elif count < 100 and (needed := math.ceil(len(good) * count / (100 - count))) < len(defective):
        hidden = defective[:needed]
    else:
        raise UserError(f"`@{change}`: {folder} has only {len(defective)} defective test images")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("test", "ground_truth"):
        shutil.copytree(folder / part, partial / part)
    training = partial / "train" / "good"
    training.mkdir(parents=True)
    for image in good:
        shutil.copy(image, training / image.name)
    for image in hidden:
        kind = image.parent.name
        shutil.copy(image, training / f"unmarked_{kind}_{image.name}")
        (partial / "test" / kind / image.name).unlink()
        for mask in (partial / "ground_truth" / kind).glob(f"{image.stem}_mask.*"):
            mask.unlink()
    partial.rename(target)
    return target


def _shuffled(folder: Path, but: str | None = None) -> list[Path]:
    """The files under ``folder`` but those in a folder ``but``, in an order that says nothing of what they show."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != but]
    return sorted(files, key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())
