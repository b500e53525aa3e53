"""The beginning of a model card, for places that hold only so much text."""

from __future__ import annotations

import re

LONGEST = 5000  # characters, MLflow's limit of a version's description
_SECTION = re.compile(r"^(?=## )", re.MULTILINE)
_REST = "*The whole card is among the run's files: export/model_card.md, with pictures export/model_card.html.*\n"


def excerpt(card: str, longest: int = LONGEST) -> str:
    """As many whole sections of a Markdown card, from its beginning, as fit into ``longest`` characters.

    What precedes the first section is cut at the end of a line if it does not fit by itself. A last line says where
    the rest is.
    """
    if len(card) <= longest:
        return card
    head, *sections = _SECTION.split(card)
    room = longest - len(_REST)
    text = head if len(head) <= room else head[: head.rfind("\n", 0, room) + 1]
    for section in sections:
        if len(text) + len(section) > room:
            break
        text += section
    return text + _REST
