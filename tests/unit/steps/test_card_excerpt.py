"""The beginning of a card fits where it has to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from model_cards import card

from stlm_core.export.model_card_markdown import card_markdown
from stlm_core.steps.card_excerpt import LONGEST, excerpt


def test_a_card_is_cut_between_sections() -> None:
    whole = card_markdown(card(data_license="CC BY-NC-SA 4.0"))
    text = excerpt(whole)
    assert len(whole) > LONGEST >= len(text)
    assert text.startswith("# Anomaly detector of the line part\n")
    for kept in ("not for commercial use", "## Intended use", "## Operating point", "## Measured"):
        assert kept in text
    beginning, _, last = text.rstrip().rpartition("\n")
    assert whole.startswith(beginning)
    assert whole[len(beginning) :].lstrip().startswith("## ")
    assert "export/model_card.html" in last


def test_a_short_card_stays_whole() -> None:
    assert excerpt("# Card\n\n## One\n\ntext\n") == "# Card\n\n## One\n\ntext\n"


@given(st.text(st.sampled_from("# \nab"), max_size=400), st.integers(150, 300))
def test_it_always_fits(whole: str, longest: int) -> None:
    assert len(excerpt(whole, longest)) <= longest
