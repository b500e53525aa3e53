"""Adapters of dataset layouts, by the name used in ``data.format`` and ``stlm lines add --format``."""

from __future__ import annotations

from stlm_core.data.adapters.base import Adapter, Record, Scan
from stlm_core.data.adapters.btad import BtadAdapter
from stlm_core.data.adapters.coco import CocoAdapter
from stlm_core.data.adapters.dagm import DagmAdapter
from stlm_core.data.adapters.elpv import ElpvAdapter
from stlm_core.data.adapters.folder import FolderAdapter
from stlm_core.data.adapters.kolektor import Kolektor2Adapter, KolektorAdapter
from stlm_core.data.adapters.magnetic_tile import MagneticTileAdapter
from stlm_core.data.adapters.mvtec import MpddAdapter, MvtecAdapter
from stlm_core.data.adapters.mvtec_loco import MvtecLocoAdapter
from stlm_core.data.adapters.table import TableAdapter
from stlm_core.data.adapters.visa import VisaAdapter
from stlm_core.errors import UserError

ADAPTERS: dict[str, Adapter] = {
    "mvtec": MvtecAdapter(),
    "mvtec_loco": MvtecLocoAdapter(),
    "mpdd": MpddAdapter(),
    "btad": BtadAdapter(),
    "visa": VisaAdapter(),
    "dagm": DagmAdapter(),
    "kolektor": KolektorAdapter(),
    "kolektor2": Kolektor2Adapter(),
    "magnetic_tile": MagneticTileAdapter(),
    "elpv": ElpvAdapter(),
    "coco": CocoAdapter(),
    "table": TableAdapter(),
    "folder": FolderAdapter(),
}

__all__ = ["ADAPTERS", "Adapter", "Record", "Scan", "find_adapter"]


def find_adapter(name: str) -> Adapter:
    """The adapter called ``name``.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in ADAPTERS:
        raise UserError(f"format {name!r}: unknown (known: {', '.join(ADAPTERS)})")
    return ADAPTERS[name]
