"""What the local run makes of settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.local import bytes_of
from stlm_core.errors import UserError
from stlm_core.settings import StepResources


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("6Gi", 6 * 2**30), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9), ("100K", 10**5), ("4096", 4096)],
)
def test_an_amount_of_memory(quantity: str, size: int) -> None:
    assert bytes_of(quantity) == size


@given(st.text("0123456789.KMGTi m-\n", max_size=8))
def test_what_the_settings_let_through_has_a_size(quantity: str) -> None:
    try:
        StepResources(memory=quantity)
    except ValidationError:
        with pytest.raises(UserError, match="is not an amount of memory"):
            bytes_of(quantity)
    else:
        assert bytes_of(quantity) >= 0
