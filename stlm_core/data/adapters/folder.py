"""A folder of good images and nothing else: all are for training, there is no test split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from stlm_core.data.adapters.base import Ignored, Record, Scan, existing_folder, finish_scan, list_images, no_category
from stlm_core.data.adapters.layouts import guess_layout
from stlm_core.errors import UserError


class FolderAdapter:
    """Every image in the folder and its subfolders is a good training image.

    A folder that looks like a dataset is refused: its defective images and its masks would be taken for good images.
    """

    summary: ClassVar[str] = "a folder of good images and nothing else"
    masks: ClassVar[bool] = False

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        no_category(root, category)
        layout = guess_layout(root)
        if layout is not None:
            raise UserError(
                f"{root}: it looks like --format {layout}, where not every image is good; use that format, or point "
                "--from at a folder of good images only"
            )
        ignored = Ignored()
        records = [
            Record(path, "train", 0, "good", problem=problem)
            for path, problem in list_images(root, root, recursive=True, ignored=ignored)
        ]
        return finish_scan(root, records, ignored)
