"""Images and masks on their way into a line: copied byte for byte, fetched from S3, or drawn."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from stlm_core.data.adapters import Record, Scan
from stlm_core.data.adapters.base import MaskShape
from stlm_core.data.images import mask_sha256 as hash_of_mask
from stlm_core.data.inspection import Inspected
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrations.s3 import ObjectCopier
from stlm_core.progress import progress
from stlm_core.steps.line_jobs import Job, jobs_of, size_of
from stlm_core.steps.line_source import Source

_CHUNK = 1 << 20
_WORKERS = 8  # mostly waiting: for the disk or for the store
_ROUND = 256  # files handed to the workers at a time: bounds the queue
_PARTIAL = ".import.partial"
_FETCHED = ".import.fetched"
Item = TypeVar("Item")


class Importer:
    """Collects the files of records in a folder of its own beside the line's images, to rename it when it is whole.

    The folder is cleared at the beginning, so nothing is taken over from an import that was killed; only objects that
    were fetched from S3 as a whole are kept for the next attempt, which uses those that have not changed since.
    """

    def __init__(self, line_folder: Path, label: str) -> None:
        self.folder = line_folder / _PARTIAL
        self._old = line_folder / f"{_PARTIAL}.old"
        self._fetched = line_folder / _FETCHED
        self._label = label
        self._made = [path for path in (line_folder, *line_folder.parents[:2]) if not path.exists()]

    def localise(self, source: Source) -> Source:
        """``source`` with its S3 objects fetched, so that all of it is on this machine.

        Raises:
            UserError: an object cannot be had; those that were fetched are kept for the next attempt.
        """
        records = source.scan.records
        needed = (
            address
            for record in records
            for address in (record.source, record.mask_source)
            if address.startswith("s3://")
        )
        addresses = list(dict.fromkeys(needed))
        if not addresses:
            return source
        copier = ObjectCopier()

        def fetch(address: str) -> str:
            return str(self._fetch(copier, address))

        local = dict(zip(addresses, _in_threads(fetch, addresses, f"{self._label} from S3"), strict=True))
        return source.only(
            [
                replace(
                    record,
                    source=local.get(record.source, record.source),
                    mask_source=local.get(record.mask_source, record.mask_source),
                )
                for record in records
            ]
        )

    def _fetch(self, copier: ObjectCopier, address: str) -> Path:
        """The object's copy: that of an earlier attempt if the object is still the same, else a fresh one.

        The ETag in the file beside a copy tells. It is removed before the copy changes and written after, so that a
        kill leaves no copy with the ETag of another.
        """
        kept = self._fetched / sha256_bytes(address.encode())[:32]
        mark = kept.with_suffix(".etag")
        if kept.is_file() and mark.is_file() and copier.is_same(address, kept, mark.read_text("utf-8", "replace")):
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        mark.write_text(copier.copy(address, kept), encoding="utf-8")
        return kept

    def take(self, rows: Sequence[Inspected], source: Source) -> list[Inspected]:
        """Copy image and mask of every inspected row to :attr:`folder`, at the same paths.

        Returns:
            The rows; the hash of a folder of masks is that of the files which were copied.

        Raises:
            UserError: a file cannot be read or is not the one that was inspected any more, or the disk is too small.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        wanted = {row.path for row in rows}
        records = (record for record in source.scan.records if record.path in wanted)
        jobs = list({job.target: job for record in records for job in jobs_of(record, source.root)}.values())
        self.folder.mkdir(parents=True)
        _need_room(self.folder, jobs)

        def run(job: Job) -> str:
            target = self.folder / job.target
            target.parent.mkdir(parents=True, exist_ok=True)
            return copy_file(job.source, target) if isinstance(job.source, Path) else _draw(job.source, target)

        done = _in_threads(run, jobs, f"{self._label}: copying")
        hashes = {job.target: sha256 for job, sha256 in zip(jobs, done, strict=True)}
        taken = []
        for row in rows:
            mask_sha256 = row.mask_sha256
            if mask_sha256 and row.mask_path not in hashes:
                mask_sha256 = hash_of_mask(self.folder / row.mask_path)
            elif mask_sha256 and hashes[row.mask_path] != mask_sha256:
                raise _changed(source, row.mask_path)
            if hashes[row.path] != row.sha256:
                raise _changed(source, row.path)
            taken.append(replace(row, mask_sha256=mask_sha256))
        return taken

    def publish(self, target: Path, aside: Path | None = None) -> None:
        """Rename the collected files to the folder ``target``; one that is there is renamed to ``aside``.

        Without ``aside`` what is there is what a killed import left, and :meth:`finish` removes it.

        Raises:
            UserError: it cannot be written.
        """
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(target):
                if aside is None:
                    shutil.rmtree(self._old, ignore_errors=True)
                os.rename(target, aside or self._old)
            os.rename(self.folder, target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None

    def finish(self) -> None:
        """Remove what was only needed on the way."""
        for folder in (self._old, self._fetched):
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove what was collected, and the folders that were made for it, unless there is something in them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self._fetched, *self._made):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def importing(line_folder: Path, label: str) -> Iterator[Importer]:
    """An importer whose files are removed when the block fails.

    Raises:
        UserError: instead of the operating system's error when the disk is full or cannot be written.
    """
    importer = Importer(line_folder, label)
    try:
        yield importer
    except OSError as error:
        importer.discard()
        raise UserError(f"{line_folder}: cannot be written: {error.strerror or error}") from None
    except BaseException:
        importer.discard()
        raise


def copy_file(source: Path, target: Path) -> str:
    """Copy the bytes; gives their sha256.

    Raises:
        UserError: ``source`` cannot be read, or ``target`` not be written.
    """
    digest = hashlib.sha256()
    try:
        # Non-blocking, because opening a FIFO with an image's name would otherwise wait for ever.
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror or error}") from None
    with open(handle, "rb", buffering=0) as stream, target.open("wb") as sink:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"{source}: not a regular file")
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            sink.write(chunk)
    return digest.hexdigest()


@contextmanager
def readable(source: Source) -> Iterator[tuple[Path, Scan]]:
    """A folder in which all images and masks of ``source`` can be read, and the scan of it.

    It is the source's own where that will do, otherwise a temporary one with links and drawn masks.
    """
    if not source.to_import:
        yield source.root, source.scan
        return
    with tempfile.TemporaryDirectory(prefix="stlm-") as name:
        folder = Path(name)
        yield (
            folder,
            Scan(tuple(_link(record, source.root, folder) for record in source.scan.records), source.scan.ignored),
        )


def _link(record: Record, root: Path, folder: Path) -> Record:
    try:
        for job in () if record.problem else jobs_of(record, root):
            target = folder / job.target
            target.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(job.source, Path):
                _draw(job.source, target)
            elif not target.is_symlink():
                target.symlink_to(job.source)
    except UserError as error:
        return replace(record, problem=str(error))
    return record


def _draw(shape: MaskShape, target: Path) -> str:
    stream = io.BytesIO()
    Image.fromarray(shape.draw()).save(stream, "PNG")
    target.write_bytes(stream.getvalue())
    return sha256_bytes(stream.getvalue())


def _need_room(folder: Path, jobs: Sequence[Job]) -> None:
    needed, free = sum(map(size_of, jobs)), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; make room, or leave "
            "the images where they are with --reference"
        )


def _in_threads(run: Callable[[Item], str], items: Sequence[Item], label: str) -> Iterator[str]:
    """``map`` on threads, in order; after a failure nothing new is begun."""
    with progress(label, len(items)) as shown, ThreadPoolExecutor(_WORKERS) as pool:
        for start in range(0, len(items), _ROUND):
            futures = [pool.submit(run, item) for item in items[start : start + _ROUND]]
            try:
                for future in futures:
                    yield future.result()
                    shown.advance()
            finally:
                for future in futures:
                    future.cancel()


def _changed(source: Source, path: str) -> UserError:
    return UserError(f"{source.place}: {path} has changed while it was read; run the command again")
