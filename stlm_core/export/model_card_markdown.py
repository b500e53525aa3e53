"""The model card as Markdown (CommonMark with tables), for MLflow and for people with a text editor."""

from __future__ import annotations

import re

import jinja2

from stlm_core.export.model_card import NOT_FOR, USES, ModelCard
from stlm_core.export.model_card_making import Code
from stlm_core.export.model_card_operating import DAYS, DEFECTIVE_SHARE

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&$]")
_BLOCK = re.compile(r"^(?:[#=]|[+-](?=[\s-]|$)|\d+(?=[.)](?:\s|$)))")  # what would begin a block of its own
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_PLAIN_CODE = re.compile(r"[\w.+@/-]+", re.ASCII)


def card_markdown(card: ModelCard) -> str:
    """The card as Markdown, without pictures: those are in the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stlm_core.export", "templates"),
        # Every value that a template puts in passes here, so that none can be forgotten.
        finalize=markdown_text,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["verbatim"] = Verbatim
    environment.filters["fence"] = _fence
    environment.filters["percent"] = lambda value: "-" if value is None else f"{100 * value:.1f}%"
    return environment.get_template("model_card.md.j2").render(
        card=card, uses=USES, not_for=NOT_FOR, days=DAYS, defective_share=DEFECTIVE_SHARE
    )


class Verbatim(str):
    """Markdown already."""

    __slots__ = ()


def markdown_text(value: object) -> str:
    """``value`` as one line of text that means itself: no markup, no HTML, no link, no cell border.

    :class:`~stlm_core.export.model_card_making.Code` becomes a code span where nothing in it could end one.
    """
    if isinstance(value, Verbatim):
        return value
    text = " ".join(str(value).split())
    if isinstance(value, Code) and _PLAIN_CODE.fullmatch(text):
        return f"`{text}`"
    text = _LINK.sub(lambda found: f"\\{found[0]}", _MARKUP.sub(lambda found: f"\\{found[0]}", text))
    return _BLOCK.sub(lambda found: f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}", text)


def _fence(lines: tuple[str, ...]) -> Verbatim:
    """Lines of a shell as a block of code that nothing in them can end."""
    text = "\n".join(" ".join(line.split()) for line in lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return Verbatim(f"{mark}bash\n{text}\n{mark}")
