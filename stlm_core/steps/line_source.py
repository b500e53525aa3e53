"""A dataset that a line's images come from: what its adapter finds, and which of it can be used."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from stlm_core.data.adapters import Record, Scan, find_adapter
from stlm_core.errors import UserError

_PACKAGES = {"elpv": "elpv_dataset"}  # formats whose images an installed package holds


@dataclass(frozen=True, slots=True)
class Source:
    """A scanned dataset. ``place`` is the folder or table, ``root`` the folder that paths of records start from."""

    place: Path
    root: Path
    scan: Scan

    @property
    def to_import(self) -> list[Record]:
        """The records that are more than files of the folder."""
        return [record for record in self.scan.records if record.must_be_imported]

    @property
    def has_masks(self) -> bool:
        """Whether any anomalous image has a mask."""
        return any(record.label and record.mask_path for record in self.scan.records)

    def only(self, records: list[Record]) -> Source:
        """The same dataset with some of its records."""
        return replace(self, scan=Scan(tuple(records), self.scan.ignored))


def open_source(place: Path | None, layout: str, category: str | None) -> Source:
    """Scan a dataset; ``place`` None is the one in the package installed for the format.

    Raises:
        UserError: there is no such dataset, package, format or category.
    """
    adapter = find_adapter(layout)
    if place is None:
        place = _package_folder(layout)
    scan = adapter.scan(place, category)
    root = place.resolve()
    records = tuple(map(_with_mask_path, scan.records))
    return Source(place, root if root.is_dir() else root.parent, Scan(records, scan.ignored))


def in_s3(record: Record) -> bool:
    """Whether image or mask are in S3."""
    return record.source.startswith("s3://") or record.mask_source.startswith("s3://")


def _package_folder(layout: str) -> Path:
    package = _PACKAGES.get(layout)
    if package is None:
        raise UserError(f"--from: say where the images are; format {layout} comes with no package")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"--from: say where the images are, or install the package: pip install {package.replace('_', '-')}"
        )
    return Path(spec.submodule_search_locations[0])


def _with_mask_path(record: Record) -> Record:
    """``record`` with a place for a mask that is drawn or comes from elsewhere and has none."""
    if record.mask_path or not (record.mask_shape or record.mask_source):
        return record
    suffix = ".png" if record.mask_shape else PurePosixPath(record.mask_source).suffix
    return replace(record, mask_path=f"masks/{record.path}{suffix}")
