"""A folder of good images and nothing else: all are for training, there is no test split."""

from __future__ import annotations

from pathlib import Path

from stlm_core.data.adapters.base import Ignored, Record, Scan, existing_folder, finish_scan, list_images


class FolderAdapter:
    """Every image in the folder and its subfolders is a good training image."""

    def scan(self, root: Path) -> Scan:
        """See :class:`stlm_core.data.adapters.base.Adapter`."""
        root = existing_folder(root)
        ignored = Ignored()
        records = [
            Record(path, "train", 0, "good", problem=problem)
            for path, problem in list_images(root, root, recursive=True, ignored=ignored)
        ]
        return finish_scan(root, records, ignored)
