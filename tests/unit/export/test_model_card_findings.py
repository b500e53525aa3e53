"""What a card reads of an evaluation is what the evaluation wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stlm_core.errors import UserError
from stlm_core.evaluation.evaluate import evaluate_predictions
from stlm_core.evaluation.example_files import write_examples
from stlm_core.evaluation.operating_point import fit_operating_point
from stlm_core.evaluation.predictions import Prediction
from stlm_core.export.model_card_findings import Findings, read_findings

POINT = fit_operating_point(np.linspace(0.05, 0.4, 40), 0.05)
# pandas would read some of these names as missing values, and quote the others.
TYPES = ("NA", 'a, "b"', "nan")


def prediction(number: int, defect_type: str) -> Prediction:
    score = 0.01 * number + (0.35 if defect_type != "good" else 0.1)
    image = np.zeros((12, 12, 3), dtype=np.uint8)
    anomaly_map = np.full((12, 12), score, dtype=np.float32)
    label = int(defect_type != "good")
    mask = np.eye(12, dtype=bool) if defect_type == "NA" else None
    return Prediction(f"test/{defect_type}/{number}.png", label, defect_type, score, anomaly_map, mask, image)


def write(folder: Path, predictions: list[Prediction]) -> None:
    evaluation = evaluate_predictions(predictions, POINT)
    evaluation.images.to_csv(folder / "images.csv", index=False)
    evaluation.defects.to_csv(folder / "defects.csv", index=False)
    evaluation.evidence.save(folder / "evidence.npz")
    write_examples(folder / "examples", evaluation.examples, POINT.raw_threshold)


def read(folder: Path) -> Findings:
    files = {"images": "images.csv", "defects": "defects.csv", "examples": "examples", "evidence": "evidence.npz"}
    return read_findings({name: folder / file for name, file in files.items()}, {}, seed="x")


def test_tables_and_pictures_come_back(tmp_path: Path) -> None:
    predictions = [prediction(n, kind) for kind in ("good", *TYPES) for n in range(6)]
    write(tmp_path, predictions)
    found = read(tmp_path)
    assert [image.path for image in found.images] == [each.path for each in predictions]
    assert [image.raw_score for image in found.images] == [each.raw_score for each in predictions]
    assert {each.name for each in found.defects} == set(TYPES)
    by_name = {each.name: each for each in found.defects}
    assert by_name["NA"].aupro_30 is not None
    assert by_name["nan"].aupro_30 is None
    assert all(each.low <= each.recall <= each.high for each in found.defects)
    assert {example.outcome for example in found.examples} <= {"missed", "false_reject"}
    assert set(found.spread) <= {"image_auroc", "image_ap", "aupro_30"}
    assert "aupro_30" in found.spread


def test_a_line_without_test_images(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert read(tmp_path) == Findings((), (), (), {}, {})


@pytest.mark.parametrize("table", ["images.csv", "defects.csv"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"path\nx\n", b"label,raw_score\n7,2\n"])
def test_a_damaged_table_is_named(tmp_path: Path, table: str, content: bytes) -> None:
    write(tmp_path, [prediction(0, "good")])
    (tmp_path / table).write_bytes(content)
    with pytest.raises(UserError, match=f"{table}: cannot be read as a table"):
        read(tmp_path)
    (tmp_path / table).unlink()
    with pytest.raises(UserError, match=f"{table}: cannot be read as a table"):
        read(tmp_path)
