"""Telling the layouts of folders apart, so that a wrong ``--format`` is named, and finding the folder of a category."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stlm_core.data.adapters.base import choose_category, folders
from stlm_core.data.images import IMAGE_SUFFIXES
from stlm_core.errors import UserError

# Many datasets hold their categories one level down; more folders than this are not looked into for a hint.
_SUBFOLDERS_LOOKED_INTO = 20


def category_folder(root: Path, category: str | None, needed: Sequence[str], layout: str) -> Path:
    """The folder of the product: ``root`` itself, or its subfolder ``category``, or the only one there is.

    ``needed`` are the subfolders, as posix paths, that make a folder one of this ``layout``.

    Raises:
        UserError: neither ``root`` nor a subfolder has this layout, a category is asked for where there are none, or
            it is not one of several.
    """
    if _has(root, needed):
        if category is not None:
            raise UserError(f"{root}: one product, not several categories; leave --category out")
        return root
    categories = [folder.name for folder in folders(root) if _has(folder, needed)]
    if not categories:
        raise wrong_layout(root, f"no folder {' and '.join(needed)}, neither here nor in a subfolder", layout)
    return root / choose_category(root, categories, category)


def wrong_layout(root: Path, missing: str, layout: str) -> UserError:
    """The error for a ``root`` that lacks what ``layout`` needs; it names the format that fits, if one does."""
    guess = guess_layout(root)
    if guess is None and _has_images(root):
        guess = "folder"
    hint = f"it looks like --format {guess}" if guess not in (None, layout) else "wrong folder or wrong --format?"
    if guess == "folder":
        hint = "images lie in it directly: if all of them are good ones, use --format folder"
    return UserError(f"{root}: {missing}; {hint}")


def guess_layout(root: Path) -> str | None:
    """Format that the folder, or one of its first subfolders, looks like from the names in it; None if like none.

    Raises:
        UserError: a folder cannot be listed.
    """
    for folder in (root, *folders(root)[:_SUBFOLDERS_LOOKED_INTO]):
        for layout, fits in _SIGNS.items():
            if fits(folder):
                return layout
    return None


def _has(folder: Path, needed: Sequence[str]) -> bool:
    return all(os.path.isdir(folder / name) for name in needed)


def _has_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES for entry in entries)
    except OSError:
        return False


def _holds(folder: Path, pattern: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(re.fullmatch(pattern, entry.name) for entry in entries)
    except OSError:
        return False


# In this order: the first that fits is the guess.
_SIGNS: Mapping[str, Callable[[Path], bool]] = {
    "visa": lambda folder: os.path.isfile(folder / "split_csv" / "1cls.csv"),
    "mvtec_loco": lambda folder: _has(folder, ("train/good", "validation/good")),
    "mvtec": lambda folder: _has(folder, ("train/good",)),
    "btad": lambda folder: _has(folder, ("train/ok",)),
    "dagm": lambda folder: _has(folder, ("Train/Label",)),
    "kolektor": lambda folder: _holds(folder, r"Part\d+_label\..+"),
    "kolektor2": lambda folder: _holds(folder / "train", r".+_GT\.png"),
    "magnetic_tile": lambda folder: _has(folder, ("MT_Free",)),
}
