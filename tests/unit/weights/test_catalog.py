from __future__ import annotations

import re

import pytest

from stlm_core.errors import UserError
from stlm_core.weights.catalog import CATALOG, UrlSource, WheelSource, lookup


def test_every_entry_is_pinned() -> None:
    for entry in CATALOG.values():
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.size > 1_000_000
        assert "/" not in entry.file_name
        assert entry.license == "Apache-2.0"
    assert len({entry.sha256 for entry in CATALOG.values()}) == len(CATALOG)
    assert len({entry.file_name for entry in CATALOG.values()}) == len(CATALOG)


def test_sources_are_exact() -> None:
    for entry in CATALOG.values():
        if isinstance(entry.source, WheelSource):
            assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", entry.source.requirement)
            assert entry.source.member.endswith(f"/{entry.file_name}")
        else:
            assert isinstance(entry.source, UrlSource)
            assert entry.source.url.startswith("https://")
            assert entry.source.url.endswith(f"/{entry.file_name}")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"weights `sam_vit_x`.*lite_medsam, efficientnet_lite0, mobile_sam"):
        lookup("sam_vit_x")
