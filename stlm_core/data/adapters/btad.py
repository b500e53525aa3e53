"""BTAD's layout (beanTech): ``train/ok``, ``test/<ok|ko>``, ``ground_truth/ko/<stem>``."""

from __future__ import annotations

from typing import ClassVar

from stlm_core.data.adapters.mvtec import MvtecAdapter


class BtadAdapter(MvtecAdapter):
    """BTAD, categories 01, 02 and 03. The only defect type is ``ko``.

    Images and masks have suffixes of their own: .bmp with .png in 01, .png with .png in 02, .bmp with .bmp in 03.
    """

    summary: ClassVar[str] = "BTAD: train/ok, test/<ok|ko>, ground_truth/ko/<stem>.png or .bmp"
    format: ClassVar[str] = "btad"
    good: ClassVar[str] = "ok"
    training: ClassVar[tuple[str, ...]] = ("train/ok",)
