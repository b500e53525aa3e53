"""``stlm fetch-images``: a published version of a line's images as one file, in a container without git or project."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stlm_core.config import SECTIONS, LineConfig
from stlm_core.data.catalog import open_catalog
from stlm_core.data.catalog_check import check_catalog
from stlm_core.data.drift import reference_path
from stlm_core.errors import UserError
from stlm_core.files import exclusive_lock, write_bytes_atomic, write_json_atomic
from stlm_core.integrations.mlflow_client import URI_VARIABLE, open_tracking
from stlm_core.integrations.mlflow_registry import Registry
from stlm_core.integrations.versioning_scratch import open_scratch, pull_patiently
from stlm_core.steps.line_versions import LATEST, LineVersion, find_version
from stlm_core.steps.packed_images import pack_images
from stlm_core.steps.promotion_records import STATISTICS_ARTIFACT


@dataclass(frozen=True)
class FetchedImages:
    """``files`` of ``bytes`` in all are in ``archive``; ``reference``: the champion's statistics are among them."""

    line: str
    revision: str
    archive: Path
    files: int
    bytes: int
    reference: bool


def fetch_images(
    line: str,
    out: Path,
    *,
    revision: str = LATEST,
    champion: str = "",
    url: str | None = None,
    scratch: Path | None = None,
    jobs: int | None = None,
) -> FetchedImages:
    """Pull a published version with DVC, check it against its catalogue, pack it into ``out``.

    Holds the line's images (all that is catalogued, or without a catalogue all of its folder), its tables, DVC's
    pointer, and what ``stlm validate`` measures drift against. The same version and champion give the same bytes.

    Args:
        champion: number of the version in service, whose training statistics are taken from MLflow; "" for none.
        url: where versions are published; None for ``STLM_DATA_URL``. A bucket's endpoint is ``AWS_ENDPOINT_URL``.
        scratch: a folder to work in, in one of its own for every line, kept so that another call continues; None for a
            temporary one.

    Raises:
        UserError: no such version, a store that stays unreachable, images that are not those of the catalogue, or
            MLflow does not answer.
    """
    version = find_version(line, revision, url)
    with _scratch(scratch, line) as folder:
        project = open_scratch(folder)
        config = _bare_config(version, project)
        reference = _write_reference(config, champion)
        write_bytes_atomic(project / version.pointer, version.files[version.pointer])
        pull_patiently(project, version.remote, project / version.pointer, jobs)
        for name, content in version.files.items():
            write_bytes_atomic(project / name, content)
        names = _names(config, version)
        if reference is not None:
            names.append(reference.relative_to(project).as_posix())
        total = pack_images(line, version.revision, project, names, out)
    return FetchedImages(line, version.revision, out, len(names), total, reference is not None)


@contextmanager
def _scratch(folder: Path | None, line: str) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="stlm-images-") as made:
            yield Path(made)
        return
    own = folder / line
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{own}: cannot be made: {error.strerror or error}") from None
    with exclusive_lock(own, f"{own}: another fetch works there; wait for it"):
        yield own


def _bare_config(version: LineVersion, root: Path) -> LineConfig:
    """A line with these data and nothing else set."""
    sections: dict[str, Any] = {section: {} for section in SECTIONS}
    sections["data"] = version.data
    return LineConfig.model_validate({**sections, "name": version.line, "profile": "fast", "root": root})


def _write_reference(config: LineConfig, champion: str) -> Path | None:
    """The champion's training statistics, as :mod:`stlm_core.steps.promote` keeps them; None where there are none."""
    if not champion:
        return None
    if not champion.isdecimal() or not os.environ.get(URI_VARIABLE):
        raise UserError(f"--champion {champion[:20]}: needs the number of a version, and {URI_VARIABLE} to be set")
    with open_tracking(config.root) as tracking:
        registry = Registry(tracking, config.name)
        version = registry.version(int(champion))
        if version is None:
            raise UserError(f"--champion {champion}: {registry.name} has no such version in {tracking.store}")
        statistics = registry.run_json(version.run_id, STATISTICS_ARTIFACT)
    if statistics is None:
        return None
    write_json_atomic(reference_path(config), statistics)
    return reference_path(config)


def _names(config: LineConfig, version: LineVersion) -> list[str]:
    """The files to pack but the reference, relative to the project."""
    root, images = config.root, config.resolve(config.data.path)
    catalog = open_catalog(config)
    if catalog is None:
        found = [path for path in images.rglob("*") if not path.is_dir()]
    else:
        check_catalog(catalog, images, config.name)
        named = {images / name for row in catalog.rows for name in (row.path, row.mask_path) if name}
        folders = {path for path in named if path.is_dir()}  # of several masks
        found = [*named - folders, *(path for folder in folders for path in folder.rglob("*") if not path.is_dir())]
    return [*version.files, *sorted({path.relative_to(root).as_posix() for path in found} - {*version.files})]
