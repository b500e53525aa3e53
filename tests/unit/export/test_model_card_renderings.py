"""Names from the data mean themselves on the card: no markup, no address, no cell border, in either rendering."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import replace

import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from model_cards import FACTS, card, findings_of

from stlm_core.export.model_card import ModelCard
from stlm_core.export.model_card_html import card_html
from stlm_core.export.model_card_making import Code
from stlm_core.export.model_card_markdown import card_markdown, markdown_text

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[click](https://evil.example) ![i](https://evil.example/x.png)",
    "a | b | **c** `d` ~~e~~",
    "# heading\n\n- item\n\n```\ncode",
    "&lt;b&gt; &amp; $x$",
    "1. one",
    "\\<b>\\",
    "<!-- ",
    "{{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe",
)


def hostile_card(name: str) -> ModelCard:
    detector = replace(FACTS.detector, teacher=name, teacher_sha256=name)
    return card(
        findings=findings_of(weak=name),
        line=name,
        profile=name,
        detector=detector,
        data_license=f"{name} non-commercial",
        code_version=name,
        git_revision=name,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_html(name: str) -> None:
    page = Page(card_html(hostile_card(name)))
    plain = Page(card_html(card(data_license="x non-commercial")))
    assert page.names == plain.names
    assert not page.names & {"script", "link", "iframe", "object", "a", "form"}
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "srcset", "href"):
            assert (attributes.get(key) or "data:image/").startswith("data:image/")
    shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
    assert re.sub(r"\s+", " ", shown) in re.sub(r"\s+", " ", page.text)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_markdown(name: str) -> None:
    page, plain = (Page(MARKDOWN.render(card_markdown(hostile_card(each)))) for each in (name, "plain"))
    # As many of every tag as with a harmless name, but for code spans, which hold only what cannot end them.
    tags = [Counter(tag for tag, _ in each.tags if tag != "code") for each in (page, plain)]
    assert tags[0] == tags[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_commands_stay_one_line_each_and_one_word_a_name(name: str) -> None:
    shown = hostile_card(name)
    block = re.search(r"^(`{3,})bash\n(.*?)\n\1$", card_markdown(shown), re.DOTALL | re.MULTILINE)
    assert block
    lines = block[2].splitlines()
    assert len(lines) == len(shown.commands)
    pull = next(line for line in lines if line.startswith("stlm data pull"))
    assert len(shlex.split(pull)) == 5


@given(st.text())
def test_any_text_means_itself_in_markdown(text: str) -> None:
    rendered = Page(MARKDOWN.render(f"- {markdown_text(text)}"))
    wanted = " ".join(text.split())
    assert rendered.names == {"ul", "li"}
    assert rendered.text.strip("\n") == "\n".join(["", wanted, ""]).strip("\n").replace("\x00", "\ufffd")


@given(st.text())
def test_any_code_ends_where_it_should(text: str) -> None:
    rendered = Page(MARKDOWN.render(f"x {markdown_text(Code(text))} y"))
    assert rendered.names <= {"p", "code"}
    assert rendered.text.strip().startswith("x ")
    assert rendered.text.strip().endswith(" y")


def test_addresses_are_not_made_into_links() -> None:
    assert "https\\://" in markdown_text("see https://evil.example")
    assert "www\\." in markdown_text("www.evil.example")


def test_the_page_is_one_file_without_scripts_that_shows_the_misses() -> None:
    page = Page(card_html(card()))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 1 + 4 + 2  # the scale, a miss, a false reject without truth
    assert all((attributes["src"] or "").startswith("data:image/") for attributes in pictures)
    assert {"Missed, of the weakest types", "Good parts that were rejected"} <= set(page.text.split("\n")) | {
        line.strip() for line in page.text.splitlines()
    }
    assert "Content-Security-Policy" in {attributes.get("http-equiv") for _, attributes in page.tags}


def test_intervals_are_drawn_where_there_are_some() -> None:
    html = card_html(card())
    assert html.count('<div class="range"><i ') == 4  # AUROC, AP, recall, false rejects
    assert html.count('<div class="range"><b ') == 2  # pixel AUROC, AUPRO


def test_equal_facts_give_equal_bytes() -> None:
    assert card_html(card()) == card_html(card())
    assert card_markdown(card()) == card_markdown(card())
