"""The wrong decisions of an evaluation as files, so that later documents can show them.

``index.json``: a list, worst first, of ``path``, ``defect_type``, ``outcome``, ``score`` and ``pictures``, which maps
what a picture shows to its file in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.evaluation.examples import Example
from stlm_core.evaluation.pictures import jpeg
from stlm_core.files import write_bytes_atomic, write_json_atomic

INDEX = "index.json"
WRONG = ("missed", "false_reject")
TRUTH = "ground truth"
CAPTIONS = ("image", TRUTH, "heat map", "overlay")
_REMEDY = "run `stlm evaluate --force` again"


@dataclass(frozen=True)
class ExampleFile:
    """One wrong decision. ``outcome``: one of :data:`WRONG`; ``score``: calibrated; ``pictures``: caption -> JPEG
    bytes, "ground truth" only where there is a mask."""

    path: str
    defect_type: str
    outcome: str
    score: float
    pictures: Mapping[str, bytes]


def write_examples(folder: Path, examples: Sequence[Example], raw_threshold: float) -> None:
    """Write the missed and the falsely rejected ones among ``examples``; the index is there even without any."""
    from stlm_core.evaluation.figures import tiles

    index = []
    for number, example in enumerate(each for each in examples if each.outcome in WRONG):
        names = {}
        for caption, pixels in zip(CAPTIONS, tiles(example, raw_threshold), strict=True):
            if caption != TRUTH or example.mask is not None:
                names[caption] = f"{number:03d}-{caption.replace(' ', '-')}.jpg"
                write_bytes_atomic(folder / names[caption], jpeg(pixels))
        index.append(
            {
                "path": example.path,
                "defect_type": example.defect_type,
                "outcome": example.outcome,
                "score": example.score,
                "pictures": names,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / INDEX, index)


def read_examples(folder: Path) -> tuple[ExampleFile, ...]:
    """What :func:`write_examples` wrote.

    Raises:
        UserError: the index or a picture is missing or damaged.
    """
    path = folder / INDEX
    try:
        found = []
        for entry in json.loads(path.read_text(encoding="utf-8")):
            names = {str(caption): str(name) for caption, name in entry["pictures"].items()}
            if any(Path(name).name != name for name in names.values()):
                raise ValueError("a picture is not in the folder")
            found.append(
                ExampleFile(
                    path=str(entry["path"]),
                    defect_type=str(entry["defect_type"]),
                    outcome=str(entry["outcome"]),
                    score=float(entry["score"]),
                    pictures={caption: (folder / name).read_bytes() for caption, name in names.items()},
                )
            )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; {_REMEDY}") from None
    return tuple(found)
