"""Images and masks of a manifest's rows, as they were when the manifest was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stlm_core.data.images import mask_sha256, read_image, read_mask
from stlm_core.errors import UserError
from stlm_core.files import sha256_file

if TYPE_CHECKING:  # where a champion is tested again, what reads a manifest may be missing
    from stlm_core.data.manifest import Manifest, ManifestRow


def row_image(manifest: Manifest, row: ManifestRow, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The row's image, uint8 (H, W, 3) RGB.

    Raises:
        UserError: the file cannot be read, or has changed since the manifest was made.
    """
    path = manifest.image_path(row)
    if sha256_file(path) != row.sha256:
        raise UserError(f"{path}: has changed since the manifest was made; run `stlm validate` again")
    return read_image(path, max_pixels)


def row_mask(
    manifest: Manifest, row: ManifestRow, size: tuple[int, int], max_pixels: int
) -> npt.NDArray[np.bool_] | None:
    """The anomalous row's mask, bool (H, W) of ``size``; None for a good image and where there is none.

    Raises:
        UserError: the mask cannot be read, has another size, or has changed since the manifest was made.
    """
    path = manifest.mask_path(row)
    if path is None or row.label == 0:
        return None
    if row.mask_sha256 and mask_sha256(path) != row.mask_sha256:
        raise UserError(f"{path}: has changed since the manifest was made; run `stlm validate` again")
    return read_mask(path, size, image=manifest.image_path(row), max_pixels=max_pixels)
