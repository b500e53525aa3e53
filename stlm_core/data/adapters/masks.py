"""Pairing images with the mask files beside them by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from stlm_core.data.adapters.base import Record, name_key, with_problem


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask: a file, or a folder of files whose union it is.

    ``name`` is what it is called, without a suffix; ``path`` is relative to the scanned folder; a ``problem`` says why
    it cannot be used.
    """

    name: str
    path: str
    problem: str = ""


def listed_masks(listed: Iterable[tuple[str, str]]) -> list[Mask]:
    """The masks that :func:`stlm_core.data.adapters.base.list_images` found."""
    return [Mask(PurePosixPath(path).stem, path, problem) for path, problem in listed]


class MaskIndex:
    """Masks called ``<stem of the image><ending>``; where several endings are found, the first one counts.

    Names that differ only in their Unicode form are the same name.
    """

    def __init__(self, masks: Iterable[Mask], endings: Sequence[str]) -> None:
        self._endings = tuple(endings)
        self._by_name: dict[str, list[Mask]] = {}
        for mask in masks:
            self._by_name.setdefault(name_key(mask.name), []).append(mask)
        self._claimed: set[str] = set()

    def claim(self, image: str) -> Mask | None:
        """The mask of the image at the path ``image``, None if it has none; several are a problem."""
        stem = name_key(PurePosixPath(image).stem)
        for ending in self._endings:
            found = self._by_name.get(stem + ending, [])
            if found:
                self._claimed.add(stem + ending)
                names = ", ".join(mask.path for mask in found)
                return found[0] if len(found) == 1 else replace(found[0], problem=f"one of several: {names}")
        return None

    def claimed(self) -> set[str]:
        """Paths of the masks that images have claimed."""
        return {mask.path for name in self._claimed for mask in self._by_name[name]}

    def unclaimed(self) -> list[Mask]:
        """The masks that no image has claimed, sorted by path."""
        rest = [mask for name, masks in self._by_name.items() if name not in self._claimed for mask in masks]
        return sorted(rest, key=lambda mask: mask.path)

    def orphans(self, images: str, defect: str) -> list[Record]:
        """A record with a problem for every unclaimed mask; ``images`` is the folder the images would be in."""
        return [
            Record(mask.path, "test", 1, defect, problem=f"mask without its image {images}/{self._image_of(mask)}.*")
            for mask in self.unclaimed()
        ]

    def _image_of(self, mask: Mask) -> str:
        ending = next((ending for ending in self._endings if mask.name.endswith(ending)), "")
        return mask.name.removesuffix(ending)


def with_mask(record: Record, mask: Mask | None) -> Record:
    """``record`` with its mask, and with the mask's problem unless it has one itself."""
    if mask is None:
        return record
    record = replace(record, mask_path=mask.path)
    return with_problem(record, f"its mask {mask.path}: {mask.problem}") if mask.problem else record


class Stems:
    """How often each name occurs among images, whatever the suffix."""

    def __init__(self, images: Iterable[str]) -> None:
        self._counts = Counter(name_key(PurePosixPath(path).stem) for path in images)

    def unambiguous(self, record: Record) -> Record:
        """``record``, with a problem if another image shares its name and so its mask."""
        stem = name_key(PurePosixPath(record.path).stem)
        count = self._counts[stem]
        if count < 2:
            return record
        return with_problem(record, f"{count} images are named {stem}.*, so their mask is ambiguous")
