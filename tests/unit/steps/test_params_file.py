"""Editing `params.yaml`: what is written is what will be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.errors import UserError
from stlm_core.steps.params_file import with_entry, without_entry

PARAMS = Path("params.yaml")
TEXT = """# Kept.
defaults: {}
profiles:
  fast: {}
lines:
  caps:
    profile: fast  # Kept, too.
    data: {path: caps}
"""
MEANS_SOMETHING_ELSE = [
    *("no", "Yes", "on", "OFF", "y", "null", "~", "", "true", "1", "0o17", "017", "1_000", "0b1", "12:30", "1:2:3.5"),
    *(
        "2001-01-01",
        "1e3",
        "1.5e+3",
        ".inf",
        ".NaN",
        "=",
        "<<",
        "a: b",
        "a #b",
        ":0",
        "a, b",
        "- a",
        "*a",
        "&a",
        "!a",
        "'a'",
        "a\nb",
    ),
]


@pytest.mark.parametrize("value", MEANS_SOMETHING_ELSE)
def test_a_text_that_would_be_read_as_something_else_is_quoted(value: str) -> None:
    for name in ("caps", "lids"):  # in braces and as a block
        text = with_entry(PARAMS, TEXT, name, "fast", {"license": value})
        assert yaml.safe_load(text)["lines"][name]["data"]["license"] == value


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30) | st.text("\n\t :-?&*!%[]{}\",'~#|>=01ano", max_size=6))
def test_any_text_is_read_as_it_was_given(value: str) -> None:
    for name in ("caps", "lids"):
        text = with_entry(PARAMS, TEXT, name, value, {"license": value})
        line = yaml.safe_load(text)["lines"][name]
        assert (line["profile"], line["data"]["license"]) == (value, value)


def test_an_ordinary_text_has_no_quotes() -> None:
    text = with_entry(PARAMS, TEXT, "lids", "fast", {"path": "../data/lids", "license": "CC BY-NC-SA 4.0"})
    assert "      path: ../data/lids\n      license: CC BY-NC-SA 4.0\n" in text
    assert text.startswith(TEXT)


@pytest.mark.parametrize("name", ["no", "on", "12", "0x1f", "2001-01-01"])
def test_a_line_can_have_any_name_and_be_removed_again(name: str) -> None:
    text = with_entry(PARAMS, TEXT, name, "fast", {"path": "images"})
    assert list(yaml.safe_load(text)["lines"]) == ["caps", name]
    assert without_entry(PARAMS, text, name) == TEXT


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TEXT.replace("{}", "{1: a, 0x1: b}", 1), r"params\.yaml: cannot be edited \(line 2\): found duplicate key"),
        (TEXT + "  lids: [\n", r"params\.yaml: cannot be edited \(line \d+\): "),
    ],
)
def test_a_file_that_cannot_be_edited_is_named(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        with_entry(PARAMS, text, "caps", None, {"path": "x"})
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=sentence):
        without_entry(PARAMS, text, "caps")
