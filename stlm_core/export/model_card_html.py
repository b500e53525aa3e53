"""The model card as one self-contained page: no script, no outside file, light and dark, printable."""

from __future__ import annotations

from collections.abc import Sequence

from stlm_core.evaluation.example_files import CAPTIONS, TRUTH, ExampleFile
from stlm_core.evaluation.page import page_environment
from stlm_core.evaluation.pictures import colour_scale, data_uri
from stlm_core.export.model_card import NOT_FOR, USES, ModelCard
from stlm_core.export.model_card_making import Code
from stlm_core.export.model_card_operating import DAYS, DEFECTIVE_SHARE


def card_html(card: ModelCard) -> str:
    """The card as HTML text."""
    environment = page_environment("stlm_core.export")
    environment.tests["code"] = lambda value: isinstance(value, Code)
    return environment.get_template("model_card.html.j2").render(
        card=card,
        uses=USES,
        not_for=NOT_FOR,
        days=DAYS,
        defective_share=DEFECTIVE_SHARE,
        missed=_shown(card.weakness.missed),
        rejected=_shown(card.weakness.rejected),
        scale=colour_scale(),
    )


def _shown(examples: Sequence[ExampleFile]) -> list[dict[str, object]]:
    """Path, type, score and the tiles in their order; without a mask the truth is a tile without picture."""
    return [
        {
            "path": example.path,
            "defect_type": example.defect_type,
            "score": example.score,
            "tiles": [
                (caption, data_uri("jpeg", example.pictures[caption]))
                for caption in CAPTIONS
                if caption in example.pictures
            ],
            "no_mask": example.outcome == "missed" and TRUTH not in example.pictures,
        }
        for example in examples
    ]
