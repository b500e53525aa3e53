"""Adapters of dataset layouts, by the name used in ``data.format`` and ``stlm lines add --format``."""

from __future__ import annotations

from stlm_core.data.adapters.base import Adapter, Record, Scan
from stlm_core.data.adapters.folder import FolderAdapter
from stlm_core.data.adapters.mvtec import MvtecAdapter
from stlm_core.errors import UserError

ADAPTERS: dict[str, Adapter] = {"mvtec": MvtecAdapter(), "folder": FolderAdapter()}

__all__ = ["ADAPTERS", "Adapter", "Record", "Scan", "find_adapter"]


def find_adapter(name: str) -> Adapter:
    """The adapter called ``name``.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in ADAPTERS:
        raise UserError(f"format {name!r}: unknown (known: {', '.join(ADAPTERS)})")
    return ADAPTERS[name]
