"""Lines of ``params.yaml``: add one from a folder of images, list them, remove one."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from stlm_core.config import LINE_NAME, SECTIONS, LineConfig, load_line, load_params
from stlm_core.data.manifest import SPLITS, Manifest, build_manifest
from stlm_core.errors import UserError
from stlm_core.files import exclusive_lock, write_bytes_atomic

RECORDS = Path("data") / "lines"  # relative to the folder of params.yaml


@dataclass(frozen=True, slots=True)
class NewLine:
    """What the images are and where: the ``data`` settings and the profile of a line to add.

    ``source`` is the folder of images; ``copy`` copies those of them that are used beside ``params.yaml``.
    """

    name: str
    source: Path
    layout: str = "mvtec"
    profile: str = "cpu"
    copy: bool = False
    group_pattern: str | None = None
    group_file: Path | None = None
    license: str = "unknown"


@dataclass(frozen=True, slots=True)
class AddedLine:
    """``entry``: YAML text of the line; ``counts``: images a split; ``record``: the manifest, unless a dry run."""

    entry: str
    counts: dict[str, int]
    record: Path


@dataclass(frozen=True, slots=True)
class ListedLine:
    """One line of ``params.yaml``; ``present``: whether its folder of images exists."""

    name: str
    profile: str
    layout: str
    path: str
    license: str
    present: bool


def add_line(params: Path, line: NewLine, *, force: bool = False, dry_run: bool = False) -> AddedLine:
    """Read all images of ``line``, record their manifest under ``data/lines/<name>``, and add it to ``params``.

    Comments and the other lines of ``params`` stay. The folder of images is stored relative to that of
    ``params``, so a checkout can move together with its data. With ``force`` a line of that name gets the new
    profile and ``data`` settings and keeps its other settings.

    Raises:
        UserError: a bad or taken name, an unknown profile, a folder not in the layout, or images that cannot be
            used; ``params`` is then as it was.
    """
    if not LINE_NAME.fullmatch(line.name):
        raise UserError(f"line name {line.name!r}: use lower-case letters, digits, - and _, at most 64")
    with exclusive_lock(_project(params)):
        tree = load_params(params)
        if line.name in tree["lines"] and not force:
            raise UserError(f"{params}: line `{line.name}` is already there; choose another name or pass --force")
        root = params.resolve().parent
        record = root / RECORDS / line.name / "manifest.parquet"
        images = record.parent / "images" if line.copy else line.source.resolve()
        text = _with_entry(params, line, os.path.relpath(images, root) if _same_drive(images, root) else str(images))
        config = _checked(params, text, line.name)
        source = config.model_copy(update={"data": config.data.model_copy(update={"path": str(line.source.resolve())})})
        manifest = build_manifest(source)
        if not dry_run:
            if line.copy:
                _copy_images(manifest, images)
            manifest.write(record)
            write_bytes_atomic(params, text.encode())
    counts = Counter(row.split for row in manifest.rows)
    entry = yaml.safe_load(text)["lines"][line.name]
    return AddedLine(
        yaml.safe_dump({line.name: entry}, sort_keys=False, allow_unicode=True),
        {split: counts[split] for split in SPLITS},
        record,
    )


def list_lines(params: Path) -> list[ListedLine]:
    """All lines in file order.

    Raises:
        UserError: ``params`` cannot be read or a line's settings are wrong.
    """
    listed = []
    for name in load_params(params)["lines"]:
        config = load_line(params, name)
        data = config.data
        present = config.resolve(data.path).is_dir()
        listed.append(ListedLine(name, config.profile, data.format, data.path, data.license, present))
    return listed


def remove_line(params: Path, name: str) -> list[Path]:
    """Take the line out of ``params`` and delete its record under ``data/lines``; images and outputs stay.

    Returns:
        Folders of the line that were left: its images (also when ``add_line`` copied them), if they exist.

    Raises:
        UserError: there is no such line, or its entry cannot be cut out of the file.
    """
    with exclusive_lock(_project(params)):
        tree = load_params(params)
        if name not in tree["lines"]:
            raise UserError(f"{params}: no line `{name}` (known: {', '.join(tree['lines']) or 'none'})")
        settings = (tree["lines"][name] or {}).get("data") or {}
        text = _without_entry(params.read_text(encoding="utf-8"), name)
        del tree["lines"][name]
        if text is None or (yaml.safe_load(text) or {}) != tree:
            raise UserError(f"{params}: the entry of `{name}` is not laid out as a block; remove it by hand")
        write_bytes_atomic(params, text.encode())
    root = params.resolve().parent
    folder = root / RECORDS / name
    (folder / "manifest.parquet").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    images = (root / str(settings.get("path", ""))).resolve()
    return [images] if "path" in settings and images.is_dir() else []


def _with_entry(params: Path, line: NewLine, path: str) -> str:
    """Text of ``params`` with the line's entry, everything else as it was."""
    round_trip = YAML(typ="rt")
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    tree = round_trip.load(params.read_text(encoding="utf-8"))
    lines = tree["lines"]
    if not lines:
        lines.fa.set_block_style()
    entry = lines.get(line.name)
    if entry is None:
        entry = lines[line.name] = CommentedMap(
            {"profile": line.profile, **{name: CommentedMap() for name in SECTIONS}}
        )
        for section in SECTIONS:
            entry[section].fa.set_flow_style()
    entry["profile"] = line.profile
    data = CommentedMap(entry.get("data") or {})
    for key in ("group_pattern", "group_file"):
        data.pop(key, None)
    data.update({"path": Path(path).as_posix(), "format": line.layout, "license": line.license})
    if line.group_pattern is not None:
        data["group_pattern"] = line.group_pattern
    if line.group_file is not None:
        root = params.resolve().parent
        data["group_file"] = Path(os.path.relpath(line.group_file.resolve(), root)).as_posix()
    entry["data"] = data
    stream = io.StringIO()
    round_trip.dump(tree, stream)
    return stream.getvalue()


def _checked(params: Path, text: str, name: str) -> LineConfig:
    """The new line's configuration, read from ``text`` as it will be read from the file."""
    handle, temporary = tempfile.mkstemp(dir=params.resolve().parent, prefix=".params.", suffix=".yaml")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        return load_line(Path(temporary), name)
    except UserError as error:
        raise UserError(str(error).replace(temporary, str(params))) from None
    finally:
        Path(temporary).unlink()


def _without_entry(text: str, name: str) -> str | None:
    """``text`` without the block of one line; None when it is not a block of its own.

    Cut out as text, because a comment above the next entry belongs to that one, and a YAML library would drop it
    with this one.
    """
    rows = text.splitlines(keepends=True)
    lines = YAML(typ="rt").load(text)["lines"]
    start, indent = lines.lc.key(name)
    if not re.match(rf"\s*['\"]?{re.escape(name)}['\"]?\s*:", rows[start]):
        return None
    end = start + 1
    for number in range(start + 1, len(rows)):
        content = rows[number].strip()
        depth = len(rows[number]) - len(rows[number].lstrip())
        if content and not content.startswith("#"):
            if depth <= indent:
                break
            end = number + 1
    if len(lines) == 1:
        rows[start] = ""
        header = _lines_header(rows, start)
        rows[header] = rows[header].replace("lines:", "lines: {}", 1)
        start += 1
    return "".join(rows[:start] + rows[end:])


def _lines_header(rows: list[str], before: int) -> int:
    """Index of the row ``lines:`` above row ``before``."""
    return max(number for number in range(before) if rows[number].startswith("lines:"))


def _copy_images(manifest: Manifest, images: Path) -> None:
    """Copy the images and masks of ``manifest`` to ``images``, which appears when it is whole."""
    images.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=images.parent, prefix=".images.", suffix=".tmp") as name:
            partial = Path(name) / "images"
            for row in manifest.rows:
                for path in filter(None, (row.path, row.mask_path)):
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(manifest.root / path, partial / path)
            if images.exists():
                shutil.rmtree(images)
            os.rename(partial, images)
    except OSError as error:
        raise UserError(f"{images}: images cannot be copied: {error.strerror or error}") from None


def _same_drive(first: Path, second: Path) -> bool:
    return first.drive == second.drive


def _project(params: Path) -> Path:
    """Folder of ``params``."""
    folder = params.resolve().parent
    if not folder.is_dir():
        raise UserError(f"{params}: no such file; run from the project folder or pass --params")
    return folder
