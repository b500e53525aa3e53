"""A folder of good images and nothing else: all are for training, there is no test split."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from stlm_core.data.adapters.base import Ignored, Record, Scan, existing_folder, finish_scan, list_images, no_category


class FolderAdapter:
    """Every image in the folder and its subfolders is a good training image."""

    summary: ClassVar[str] = "a folder of good images and nothing else"
    masks: ClassVar[bool] = False

    def scan(self, root: Path, category: str | None = None) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        no_category(root, category)
        ignored = Ignored()
        records = [
            Record(path, "train", 0, "good", problem=problem)
            for path, problem in list_images(root, root, recursive=True, ignored=ignored)
        ]
        return finish_scan(root, records, ignored)
