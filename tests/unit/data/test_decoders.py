"""What is looked for in a file before a decoder sees it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.data import decoders


@settings(max_examples=80, deadline=None)
@given(size=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_scans_are_counted_wherever_they_lie(size: int, seed: int) -> None:
    content = np.random.default_rng(seed).choice(np.array([0xFF, 0xDA, 0x00], np.uint8), size).tobytes()
    block = decoders._BLOCK
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decoders, "_BLOCK", 7)
        assert decoders._count_scans(content) == content.count(b"\xff\xda")
    long = bytes(block - 1) + b"\xff\xda" + content
    assert decoders._count_scans(long) == long.count(b"\xff\xda")
