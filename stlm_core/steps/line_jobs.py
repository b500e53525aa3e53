"""What an import has to bring: one job for every image and mask of a record, from a file, S3 or a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stlm_core.data.adapters import Record
from stlm_core.data.adapters.base import MaskShape
from stlm_core.data.images import mask_files
from stlm_core.steps.line_source import Source, in_s3


@dataclass(frozen=True, slots=True)
class Job:
    """A file to make at the posix path ``target``, from a file or a shape."""

    target: str
    source: Path | MaskShape


def jobs_of(record: Record, root: Path) -> Iterator[Job]:
    """The files to make for a record whose images are under ``root`` or on this machine."""
    yield Job(record.path, Path(record.source) if record.source else root / record.path)
    if record.mask_shape is not None:
        yield Job(record.mask_path, record.mask_shape)
    elif record.mask_source:
        yield Job(record.mask_path, Path(record.mask_source))
    elif record.mask_path:
        whole = root / record.mask_path
        for file in mask_files(whole):
            yield Job(record.mask_path if file == whole else f"{record.mask_path}/{file.name}", file)


def size_of(job: Job) -> int:
    """Bytes that the job's file takes; 0 for a drawing, or where they cannot be told."""
    try:
        return job.source.stat().st_size if isinstance(job.source, Path) else 0
    except OSError:
        return 0


def files_inside(source: Source, folder: Path) -> list[str]:
    """Paths of the records whose image or mask is a file in ``folder``."""
    place = folder.resolve()
    records = (record for record in source.scan.records if not record.problem and not in_s3(record))
    return [
        record.path
        for record in records
        if any(
            isinstance(job.source, Path) and job.source.resolve().is_relative_to(place)
            for job in jobs_of(record, source.root)
        )
    ]


def local_bytes(source: Source) -> int:
    """Size of the images and masks that are on this machine and have no problem."""
    records = (record for record in source.scan.records if not record.problem and not in_s3(record))
    jobs = {job.target: job for record in records for job in jobs_of(record, source.root)}
    return sum(size_of(job) for job in jobs.values())
