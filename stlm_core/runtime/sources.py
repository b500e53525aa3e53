"""Which files a `stlm predict` command line means, and what their outputs are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stlm_core.data.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Source:
    """An image to look at. ``key``: its output name without suffix, relative, unique within one command."""

    path: Path
    key: PurePosixPath


@dataclass(frozen=True)
class Problem:
    """An argument or image that could not be used, with one sentence that names it."""

    path: Path
    message: str


def find_sources(arguments: Sequence[str], *, exclude: Collection[Path]) -> tuple[list[Source], list[Problem]]:
    """Expand files, folders and glob patterns into images in a stable order, each once.

    A folder means all images under it by their suffix, hidden ones left out; symbolic links to folders are not
    followed. Of folders and patterns, what is one of ``exclude`` or lies under it (the files that the command itself
    writes, so that a second run does not look at the first one's heat maps) is left out. A file that is named outright
    is taken whatever its suffix.

    Returns:
        The sources, and one problem per argument that means no image.
    """
    excluded = tuple(os.path.realpath(path) for path in exclude)
    found: dict[Path, None] = {}
    problems: list[Problem] = []
    for argument in arguments:
        paths = _expand(argument, excluded)
        if isinstance(paths, Problem):
            problems.append(paths)
        else:
            found.update(dict.fromkeys(paths))
    return _with_keys(list(found)), problems


def _expand(argument: str, excluded: Collection[str]) -> list[Path] | Problem:
    path = Path(argument)
    try:
        if path.is_file():
            return [_normal(path)]
        matches = [path] if path.is_dir() else []
        if not path.exists():
            matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]
        wanted = [match for match in map(_normal, matches) if not _is_excluded(match, excluded)]
        images = [
            image for match in wanted for image in (_images_under(match, excluded) if match.is_dir() else [match])
        ]
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return Problem(path, f"{path!s}: cannot be read: {error}")
    if images:
        return images
    if matches and not wanted:
        return Problem(path, f"{path}: only files that this command itself writes; choose another output folder")
    if path.is_dir():
        return Problem(path, f"{path}: no images in this folder")
    if glob.has_magic(argument):
        return Problem(path, f"{path}: no file matches this pattern")
    return Problem(path, f"{path}: not a file or folder" if path.exists() else f"{path}: no such file or folder")


def _images_under(folder: Path, excluded: Collection[str]) -> list[Path]:
    images: list[Path] = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _is_excluded(here / name, excluded)
        )
        images += [
            here / name
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return images


def _is_excluded(path: Path, excluded: Collection[str]) -> bool:
    """Whether ``path`` lies there, whichever symbolic links lead to it."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(each) for each in excluded)


def _normal(path: Path) -> Path:
    """Absolute, without ``..``, symbolic links kept: what was asked for names the output."""
    return Path(os.path.normpath(path.absolute()))


def _with_keys(paths: list[Path]) -> list[Source]:
    """Keys repeat the folders below the images' common folder, so equal stems of different folders stay apart."""
    if not paths:
        return []
    try:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError:  # different drives
        root = None
    taken: set[str] = set()
    sources = []
    for path in paths:
        folder = PurePosixPath(path.parent.relative_to(root).as_posix()) if root else PurePosixPath()
        key = _free_key(folder, path, taken)
        taken.add(str(key).casefold())
        sources.append(Source(path, key))
    return sources


def _free_key(folder: PurePosixPath, path: Path, taken: set[str]) -> PurePosixPath:
    """``part``, else ``part_png`` (part.jpg came first), else ``part_png_2``; case does not tell files apart."""
    stem = path.stem if path.stem.strip(".") else path.name.replace(".", "_")  # the stem of "...a" is ".."
    names = [stem, f"{stem}_{path.suffix.lstrip('.')}"]
    for name in names:
        if str(folder / name).casefold() not in taken:
            return folder / name
    count = 2
    while str(folder / f"{names[1]}_{count}").casefold() in taken:
        count += 1
    return folder / f"{names[1]}_{count}"
