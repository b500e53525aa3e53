"""What an adapter of a dataset layout finds, and the rules all adapters share about names and links."""

from __future__ import annotations

import os
import posixpath
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stlm_core.data.images import IMAGE_SUFFIXES
from stlm_core.errors import UserError

_IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class Record:
    """One image as its place in the folder, or a table beside it, describes it; nothing of it has been decoded.

    ``path`` and ``mask_path`` are posix paths relative to the scanned folder ("" for no mask; a folder as ``mask_path``
    stands for the union of the masks in it). ``split`` is "train" for good images to learn from, "test" for the rest.
    A non-empty ``problem`` says why the file cannot be used. ``group`` names the physical part where the layout does.

    Where an image cannot be read at ``path`` (a table names a file elsewhere, or one in S3), ``source`` and
    ``mask_source`` are an absolute path or ``s3://`` address to copy from; where a mask is not a file at all,
    ``mask_shape`` draws it. A record with any of these can be imported, not referenced.
    """

    path: str
    split: Literal["train", "test"]
    label: int
    defect_type: str
    mask_path: str = ""
    problem: str = ""
    group: str = ""
    source: str = ""
    mask_source: str = ""
    mask_shape: MaskShape | None = None

    @property
    def must_be_imported(self) -> bool:
        """Whether image or mask are not files of the scanned folder."""
        return bool(self.source or self.mask_source or self.mask_shape)


class MaskShape(Protocol):
    """A mask that is not a file, for example COCO polygons."""

    def draw(self) -> NDArray[np.uint8]:
        """The mask, (H, W), 0 or 255.

        Raises:
            UserError: the description cannot be drawn.
        """
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """Records sorted by path, and how many files were passed over, by reason."""

    records: tuple[Record, ...]
    ignored: Mapping[str, int]


class Adapter(Protocol):
    """One dataset layout. ``summary`` is a line of help; ``masks`` is whether the layout has masks at all."""

    summary: ClassVar[str]
    masks: ClassVar[bool]

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """List the images under ``root``; of a dataset with several products, those of ``category``.

        Raises:
            UserError: ``root`` does not exist, does not have this layout, or holds no image; or there are several
                categories and none is given, or not the one given; the message lists those there are.
        """
        ...


class Ignored(Counter[str]):
    """Counts of files passed over: by reason."""


def existing_folder(root: Path) -> Path:
    """``root`` with links resolved.

    Raises:
        UserError: it is not a folder that can be listed.
    """
    try:
        resolved = root.resolve(strict=True)
    except (OSError, RuntimeError):
        raise UserError(f"{root}: no such folder") from None
    if not resolved.is_dir():
        raise UserError(f"{root}: not a folder")
    return resolved


def list_images(
    root: Path, folder: Path, *, recursive: bool = False, ignored: Ignored | None = None
) -> Iterator[tuple[str, str]]:
    """(path relative to ``root``, problem) of every image file in ``folder``, sorted; counts the rest in ``ignored``.

    A file whose name or link cannot be trusted is listed with its ``problem``; its path then has control and
    undecodable characters escaped. Linked folders are such a problem, for they can lead anywhere or in circles.

    Raises:
        UserError: a folder cannot be listed.
    """
    passed = Ignored() if ignored is None else ignored
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    here = folder.relative_to(root)
    inside = folder.resolve().is_relative_to(root)
    for entry in entries:
        path = entry.name if here == Path() else f"{here.as_posix()}/{entry.name}"
        if is_hidden(entry.name):
            passed["hidden"] += 1
        elif _is_folder(entry):
            if entry.is_symlink():
                yield printable(path), "a link to a folder; put the images there or point --from at its target"
            elif recursive:
                yield from list_images(root, Path(entry.path), recursive=True, ignored=passed)
        elif Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
            passed["not an image"] += 1
        elif inside and entry.is_file(follow_symlinks=False):  # no link: the slow look-up is not needed
            yield printable(path), _name_problem(path)
        else:
            yield printable(path), _name_problem(path) or _link_problem(root, Path(entry.path))


def folders(folder: Path) -> list[Path]:
    """Visible subfolders, sorted by name; none when ``folder`` does not exist.

    Raises:
        UserError: ``folder`` cannot be listed.
    """
    if not os.path.isdir(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not is_hidden(entry.name) and _is_folder(entry))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    return [folder / name for name in names]


def count_unused(root: Path, folder: Path, used: Collection[str], ignored: Ignored) -> None:
    """Count in ``ignored`` everything below ``folder`` but the files (or files of folders) that are ``used``.

    ``used`` are paths relative to ``root``, as :func:`list_images` gives them.

    Raises:
        UserError: a folder cannot be listed.
    """
    listed = list_images(root, folder, recursive=True, ignored=ignored)
    unused = sum(path not in used and posixpath.dirname(path) not in used for path, _ in listed)
    if unused:
        ignored["outside the layout"] += unused


def is_hidden(name: str) -> bool:
    """Whether operating systems put the file there rather than a camera."""
    return name.startswith(".") or name.lower() in _IGNORED_NAMES


def printable(path: str) -> str:
    """``path`` with control and undecodable characters escaped, safe to print and to store as UTF-8."""
    if path.isprintable():
        return path
    return "".join(char if _is_printable(char) else char.encode("unicode_escape").decode() for char in path)


def name_key(name: str) -> str:
    """``name`` in the form used to compare names: composed Unicode, whatever the operating system wrote."""
    return unicodedata.normalize("NFC", name)


def finish_scan(root: Path, records: list[Record], ignored: Ignored) -> Scan:
    """The scan, sorted, once there is at least one image to learn from.

    Raises:
        UserError: no image at all, or none for training.
    """
    if not any(record.split == "train" for record in records):
        passed = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()))
        seen = f" (passed over: {passed})" if passed else ""
        raise UserError(f"{root}: no good training images found{seen}; wrong folder or wrong --format?")
    return Scan(tuple(sorted(records, key=lambda record: record.path)), dict(sorted(ignored.items())))


def with_problem(record: Record, problem: str) -> Record:
    """``record`` with ``problem`` unless it has one already."""
    return record if record.problem else replace(record, problem=problem)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_printable(char: str) -> bool:
    return unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}


def _name_problem(path: str) -> str:
    if not path.isprintable() and any(not _is_printable(char) for char in path):
        return "control or undecodable characters in the name; rename the file"
    return ""


def _link_problem(root: Path, path: Path) -> str:
    try:
        target = path.resolve(strict=True)
        if not stat.S_ISREG(target.stat().st_mode):
            return "not a regular file"
    except (OSError, RuntimeError):
        return "a link to nothing"
    if not target.is_relative_to(root):
        return f"a link out of the folder, to {printable(str(target))}; copy the file instead"
    return ""


def choose_category(root: Path, categories: Sequence[str], category: str | None) -> str:
    """``category``, or the only one there is.

    Raises:
        UserError: ``category`` is not one of ``categories``, or is not given where there are several.
    """
    known = ", ".join(printable(name) for name in sorted(categories))
    if category is None:
        if len(categories) != 1:
            raise UserError(f"{root}: several categories; choose one with --category: {known}")
        return categories[0]
    if category not in categories:
        raise UserError(f"{root}: no category {category!r} (there are: {known})")
    return category


def no_category(root: Path, category: str | None) -> None:
    """For layouts of a single product.

    Raises:
        UserError: a ``category`` is given.
    """
    if category is not None:
        raise UserError(f"{root}: this format has no categories; leave --category out")


def path_problem(root: Path, path: str) -> str:
    """Why the file that a table names by the posix ``path`` relative to ``root`` cannot be used; "" if it can."""
    if not stays_inside(path):
        return "leads out of the folder"
    if problem := _name_problem(path):
        return problem
    return _link_problem(root, root / path) if os.path.lexists(root / path) else "no such file"


def stays_inside(path: str) -> bool:
    """Whether the posix ``path`` is relative and cannot lead out of the folder it starts from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path
