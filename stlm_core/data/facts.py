"""What was measured of a line's files the last time, so that unchanged files are not read again."""

from __future__ import annotations

import io
import itertools
import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stlm_core.config import LineConfig
from stlm_core.data.images import DEFAULT_MAX_PIXELS, mask_sha256, read_content
from stlm_core.data.probe import ImageFacts, MaskFacts, probe_content, probe_mask
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes, write_bytes_atomic

FOLDER = Path(".stlm") / "facts"
# A file changed this shortly before it was read can change again without a new time: clocks of file systems are coarse.
_UNSETTLED_NS = 2_000_000_000
_ROW_GROUP = 16_384
_IMAGE, _MASK = 0, 1
_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("marked", pa.float64()),  # of masks, the rest of images
        pa.field("mode", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("phash", pa.string()),
        pa.field("brightness", pa.float64()),
        pa.field("contrast", pa.float64()),
        pa.field("sharpness", pa.float64()),
        pa.field("saturated", pa.float64()),
        pa.field("thumbnail", pa.binary()),
    ]
)
_VERSION = b"1"

Facts = TypeVar("Facts", ImageFacts, MaskFacts)


@dataclass(frozen=True, slots=True)
class _Remembered(Generic[Facts]):
    """``stamp`` is that of the file before it was read, see :func:`_stamp`."""

    stamp: str
    facts: Facts


class FactStore:
    """Facts of the files under a folder, read again only where a file may have changed.

    A file with the size and times it had is not opened; one with the sha256 it had is not decoded. The store is only
    a memory: lost, damaged, of another version or of another folder, it starts empty. Safe to use from several
    threads.
    """

    def __init__(self, root: Path, file: Path | None = None) -> None:
        """``root``: the folder that names start from. ``file``: where facts are kept; None for this run only."""
        self.root = root
        self.file = file
        self._images: dict[str, _Remembered[ImageFacts]] = {}
        self._masks: dict[str, _Remembered[MaskFacts]] = {}
        self._seen_images: dict[str, _Remembered[ImageFacts]] = {}
        self._seen_masks: dict[str, _Remembered[MaskFacts]] = {}
        if file is not None:
            self._load(file)

    @classmethod
    def of_line(cls, config: LineConfig, root: Path) -> FactStore:
        """What is remembered of a line's files, which lie under ``root``."""
        return cls(root, config.root / FOLDER / f"{config.name}.parquet")

    def image(self, name: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageFacts:
        """Facts of the image ``name``, a posix path relative to ``root``.

        Raises:
            UserError: see :func:`stlm_core.data.images.read_image`.
        """
        path = self.root / name
        stamp = _stamp(path)
        known = self._seen_images.get(name) or self._images.get(name)
        if known is not None and known.facts.width * known.facts.height > max_pixels:
            known = None
        if known is None or not stamp or stamp != known.stamp:
            content = read_content(path)
            sha256 = sha256_bytes(content)
            same = known is not None and known.facts.sha256 == sha256
            facts = known.facts if known is not None and same else probe_content(path, content, sha256, max_pixels)
            known = _Remembered(stamp, facts)
        self._seen_images[name] = known
        return known.facts

    def mask(self, name: str, expected_hw: tuple[int, int], max_pixels: int = DEFAULT_MAX_PIXELS) -> MaskFacts:
        """Facts of the mask file or folder of masks ``name``, which must have the (height, width) of its image.

        Raises:
            UserError: see :func:`stlm_core.data.images.read_mask`.
        """
        path = self.root / name
        stamp = _stamp(path)
        known = self._seen_masks.get(name) or self._masks.get(name)
        if known is not None and (known.facts.height, known.facts.width) != expected_hw:
            known = None
        if known is None or not stamp or stamp != known.stamp:
            same = known is not None and path.exists() and known.facts.sha256 == mask_sha256(path)
            facts = known.facts if known is not None and same else probe_mask(path, expected_hw, max_pixels)
            known = _Remembered(stamp, facts)
        self._seen_masks[name] = known
        return known.facts

    def save(self, *, complete: bool = True) -> None:
        """Remember what was asked for, and with ``complete`` nothing else; a warning where that cannot be written."""
        if self.file is None:
            return
        images = self._seen_images if complete else {**self._images, **self._seen_images}
        masks = self._seen_masks if complete else {**self._masks, **self._seen_masks}
        if images == self._images and masks == self._masks:
            return
        try:
            write_bytes_atomic(self.file, _to_bytes(self.root, images, masks))
        except UserError as error:
            print(f"{error}; all images will be read again next time", file=sys.stderr)
        except ValueError as error:  # of Arrow: the name of an image is not UTF-8
            print(f"{self.file}: {error}; all images will be read again next time", file=sys.stderr)

    def _load(self, file: Path) -> None:
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as stored:
                if not stored.schema_arrow.equals(_schema(self.root), check_metadata=True):
                    return
                for batch in stored.iter_batches(_ROW_GROUP):
                    self._fill(batch)
        except (OSError, ValueError, pa.ArrowException):  # missing or damaged
            self._images.clear()
            self._masks.clear()

    def _fill(self, batch: pa.RecordBatch) -> None:
        for kind, path, stamp, sha256, width, height, marked, mode, *measured in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if kind == _MASK:
                self._masks[path] = _Remembered(stamp, MaskFacts(sha256, width, height, marked))
            else:
                size, *statistics = measured
                facts = ImageFacts(width, height, sys.intern(mode), size, sha256, *statistics)
                self._images[path] = _Remembered(stamp, facts)


def _schema(root: Path) -> pa.Schema:
    return _SCHEMA.with_metadata({"stlm_facts_version": _VERSION, "root": os.fsencode(root)})


def _to_bytes(
    root: Path, images: dict[str, _Remembered[ImageFacts]], masks: dict[str, _Remembered[MaskFacts]]
) -> bytes:
    rows = itertools.chain(
        (_image_row(name, known) for name, known in images.items()),
        (_mask_row(name, known) for name, known in masks.items()),
    )
    schema = _schema(root)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


def _image_row(name: str, known: _Remembered[ImageFacts]) -> tuple[Any, ...]:
    of = known.facts
    measured = (of.phash, of.brightness, of.contrast, of.sharpness, of.saturated, of.thumbnail)
    return (_IMAGE, name, known.stamp, of.sha256, of.width, of.height, None, of.mode, of.bytes, *measured)


def _mask_row(name: str, known: _Remembered[MaskFacts]) -> tuple[Any, ...]:
    of = known.facts
    return (_MASK, name, known.stamp, of.sha256, of.width, of.height, of.marked, *(None,) * 8)


def _stamp(path: Path) -> str:
    """Size and times of a file, or of all files in a folder: equal later, the bytes are those of now.

    "" where that cannot be said: the file is missing or was changed a moment ago. The time of the last change of the
    file's entry is part of it, because a tool that copies a file can set the other one.
    """
    now = time.time_ns()
    try:
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            return _file_stamp(found, now)
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        stamps = [(file.relative_to(path).as_posix(), _file_stamp(os.stat(file), now)) for file in files]
    except OSError:
        return ""
    return sha256_bytes(repr(stamps).encode()) if all(stamp for _, stamp in stamps) else ""


def _file_stamp(found: os.stat_result, now: int) -> str:
    if max(found.st_mtime_ns, found.st_ctime_ns) + _UNSETTLED_NS >= now:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
