"""Wrong decisions as files, and back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stlm_core.errors import UserError
from stlm_core.evaluation.example_files import read_examples, write_examples
from stlm_core.evaluation.examples import Example, Outcome


def example(outcome: Outcome, masked: bool = True) -> Example:
    rng = np.random.default_rng(3)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 5:12] = True
    return Example(
        path=f"test/{outcome}.png",
        defect_type="good" if outcome in ("passed", "false_reject") else "dent, deep",
        raw_score=0.2,
        score=0.4,
        outcome=outcome,
        image=rng.integers(0, 256, (20, 30, 3), dtype=np.uint8),
        anomaly_map=rng.random((20, 30)).astype(np.float32),
        mask=mask if masked else None,
    )


def test_the_wrong_decisions_come_back_in_their_order(tmp_path: Path) -> None:
    write_examples(
        tmp_path, [example("missed"), example("found"), example("passed"), example("false_reject", False)], 0.3
    )
    missed, rejected = read_examples(tmp_path)
    assert (missed.path, missed.defect_type, missed.outcome, missed.score) == (
        "test/missed.png",
        "dent, deep",
        "missed",
        0.4,
    )
    assert list(missed.pictures) == ["image", "ground truth", "heat map", "overlay"]
    assert list(rejected.pictures) == ["image", "heat map", "overlay"]
    for content in (*missed.pictures.values(), *rejected.pictures.values()):
        with Image.open(io.BytesIO(content)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (30, 20))


def test_without_errors_there_is_an_empty_index(tmp_path: Path) -> None:
    write_examples(tmp_path / "examples", [example("found")], 0.3)
    assert read_examples(tmp_path / "examples") == ()
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["index.json"]


@pytest.mark.parametrize(
    "index",
    ["{", "[1]", '[{"path": "a"}]', "null", '{"a": 1}'],
)
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json: cannot be read: .*; run `stlm evaluate --force` again"):
        read_examples(tmp_path)


def test_a_picture_outside_the_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    write_examples(tmp_path / "examples", [example("missed")], 0.3)
    path = tmp_path / "examples" / "index.json"
    (tmp_path / "secret.jpg").write_bytes(b"x")
    for name in ("../secret.jpg", "gone.jpg"):
        index = json.loads(path.read_text())
        index[0]["pictures"]["image"] = name
        path.write_text(json.dumps(index))
        with pytest.raises(UserError, match="cannot be read"):
            read_examples(tmp_path / "examples")
