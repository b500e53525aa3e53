"""Are the files of a catalogue there, with the bytes they had?"""

from __future__ import annotations

from pathlib import Path

from stlm_core.data.catalog import Catalog, CatalogRow
from stlm_core.data.images import mask_sha256
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.progress import track

_NAMED = 3


def check_catalog(catalog: Catalog, images: Path, line: str) -> None:
    """Hash every image and mask below ``images``; nothing is decoded.

    Raises:
        UserError: files are missing or are not those that were catalogued; the first of them are named.
    """
    rows = track(catalog.rows, f"{line}: checking against the catalogue", len(catalog.rows))
    wrong = [found for row in rows if (found := _wrong_file(images, row))]
    if wrong:
        named = ", ".join(wrong[:_NAMED])
        raise UserError(
            f"{images}: {len(wrong)} of {len(catalog.rows)} catalogued images or their masks are missing or changed "
            f"({named}{', ...' if len(wrong) > _NAMED else ''}); get them back with `stlm data pull --line {line}`, or "
            "take the change in with `stlm lines update`"
        )


def _wrong_file(images: Path, row: CatalogRow) -> str:
    """The first of the row's files that is not what it was; "" if all are."""
    try:
        if sha256_file(images / row.path) != row.sha256:
            return row.path
        if row.mask_path and mask_sha256(images / row.mask_path) != row.mask_sha256:
            return row.mask_path
    except UserError:
        return row.path
    return ""
