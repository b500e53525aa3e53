"""The sketch of localisation against exact metrics, and evidence files that are not what they should be."""

from __future__ import annotations

import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_data import evidence
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from stlm_core.errors import UserError
from stlm_core.evaluation.evidence import Evidence
from stlm_core.evaluation.evidence_collector import EvidenceCollector
from stlm_core.evaluation.intervals import binomial_low
from stlm_core.evaluation.metrics import ExactPixels, aupro
from stlm_core.evaluation.predictions import Prediction


def _shown(index: int, anomaly_map: np.ndarray, mask: np.ndarray | None, label: int) -> Prediction:
    picture = np.zeros((*anomaly_map.shape, 3), dtype=np.uint8)
    return Prediction(
        f"{index}.png", label, "dent" if label else "good", 0.2, anomaly_map, mask, picture, f"{index:064d}"
    )


def _both(maps: list[np.ndarray], masks: list[np.ndarray]) -> tuple[Evidence, list[ExactPixels]]:
    """The evidence, and an exact accumulator an image."""
    collector, exact = EvidenceCollector(), []
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        label = int(mask.any())
        collector.add(_shown(index, anomaly_map, mask if label else None, label), 0.3, False)
        exact.append(ExactPixels())
        exact[-1].update(anomaly_map, mask if label else None)
    return collector.build(), exact


def _smooth(seed: int, images: int, side: int = 64) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    maps, masks = [], []
    for index in range(images):
        y, x, radius = (*rng.integers(12, side - 12, 2).tolist(), rng.integers(3, 9))
        distance = np.hypot(rows - y, columns - x)
        masks.append((distance < radius) & (index % 3 > 0))
        evidence_of = np.exp(-((distance / (radius * rng.uniform(0.5, 2))) ** 2)) * (index % 3 > 0) * rng.uniform(0, 4)
        maps.append((1 / (1 + np.exp(-(evidence_of + rng.normal(0, 1, (side, side)) - 4)))).astype(np.float32))
    return maps, masks


@pytest.mark.parametrize("seed", range(3))
def test_aupro_of_the_sketch_is_the_exact_one_for_any_resampling(seed: int) -> None:
    found, exact = _both(*_smooth(seed, 12))
    rng = np.random.default_rng(seed)
    weights = np.vstack([np.ones(12), rng.multinomial(12, np.full(12, 1 / 12), size=20)]).astype(np.float64)
    sketched = found.aupro(weights)
    for row, value in zip(weights, sketched, strict=True):
        together = ExactPixels()
        for times, pixels in zip(row, exact, strict=True):
            for _ in range(int(times)):
                together = together.merged(pixels)
        wanted = aupro(together.counts(), 0.3)
        assert wanted is not None
        assert value == pytest.approx(wanted, abs=1e-3)
    assert sketched[0] == pytest.approx(aupro(_merged(exact).counts(), 0.3), abs=5e-4)


def test_what_regions_do_where_there_are_no_normal_pixels_is_not_lost() -> None:
    """Between one bright normal pixel and all the dark ones lies the defect: its curve is a step, not a slope."""
    anomaly_map, mask = np.zeros((20, 20), np.float32), np.zeros((20, 20), dtype=bool)
    anomaly_map[0, 0], anomaly_map[5:8, 5:8], mask[5:8, 5:8] = 1.0, 0.5, True
    found, exact = _both([anomaly_map], [mask])
    wanted = aupro(exact[0].counts(), 0.3)
    assert wanted is not None
    assert wanted > 0.95
    assert found.aupro(np.ones((1, 1)))[0] == pytest.approx(wanted, abs=1e-6)


def test_counts_that_moved_to_the_disk_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = _smooth(0, 12)
    in_memory, _ = _both(maps, masks)
    moved = []
    rollover = tempfile.SpooledTemporaryFile.rollover
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda file: (moved.append(file), rollover(file)))
    monkeypatch.setattr("stlm_core.evaluation.evidence_collector._IN_MEMORY", 1000)
    on_disk, _ = _both(maps, masks)
    assert len(moved) == 2
    assert all(file.closed for file in moved)
    for each in fields(Evidence):
        assert np.array_equal(getattr(on_disk, each.name), getattr(in_memory, each.name)), each.name


def _merged(exact: list[ExactPixels]) -> ExactPixels:
    together = exact[0]
    for pixels in exact[1:]:
        together = together.merged(pixels)
    return together


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(np.float32, (4, 6, 5), elements=st.integers(0, 32).map(lambda level: level / 32)),
    npst.arrays(np.bool_, (4, 6, 5)),
)
def test_any_maps_have_sums_that_fit_and_an_aupro_near_the_exact_one(maps: np.ndarray, masks: np.ndarray) -> None:
    found, exact = _both(list(maps), list(masks))
    assert (np.diff(found.false_positives.astype(np.int64), axis=1) >= 0).all()
    assert (found.false_positives[:, -1] == found.normal_pixels).all()
    assert np.allclose(found.overlap[:, -1], found.regions)
    wanted, value = aupro(_merged(exact).counts(), 0.3), found.aupro(np.ones((1, 4)))[0]
    # Scores within 0.8 % of each other share a level; these do not.
    assert (wanted is None) == bool(np.isnan(value))
    assert wanted is None or abs(value - wanted) < 1e-5


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(np.float32, (4, 6, 5), elements=st.integers(0, 32).map(lambda level: level / 32)),
    npst.arrays(np.bool_, (4, 6, 5)),
)
def test_scores_that_can_be_told_apart_have_the_exact_aupro(maps: np.ndarray, masks: np.ndarray) -> None:
    found, exact = _both(list(maps), list(masks))
    wanted = aupro(_merged(exact).counts(), 0.3)
    assert wanted is None or found.aupro(np.ones((1, 4)))[0] == pytest.approx(wanted, abs=1e-4)


def test_anomalous_images_without_a_mask_count_at_image_level_only() -> None:
    collector = EvidenceCollector()
    collector.add(_shown(0, np.full((4, 4), 0.5, np.float32), None, 1), 0.9, True)
    collector.add(_shown(1, np.full((4, 4), 0.1, np.float32), None, 0), 0.1, False)
    found = collector.build()
    assert found.normal_pixels.tolist() == [0, 16]
    assert np.isnan(found.aupro(np.ones((1, 2)))[0])


def test_no_images_at_all_are_evidence_too(tmp_path: Path) -> None:
    EvidenceCollector().build().save(tmp_path / "evidence.npz")
    assert len(Evidence.load(tmp_path / "evidence.npz")) == 0


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = evidence([0.1, 0.2, 0.9], ["good", "good", "dent"], groups=["a", "", "b"])
    made = replace(made, trained_on=np.array(["0" * 64] * 5), trained_parts=np.array(["c"]))
    made.save(tmp_path / "evidence.npz")
    loaded = Evidence.load(tmp_path / "evidence.npz")
    for name in vars(made):
        assert np.array_equal(getattr(made, name), getattr(loaded, name)), name
    assert made.take(np.array([2, 0])).groups.tolist() == ["b", "a"]


def test_a_detector_knows_what_it_was_made_from() -> None:
    shown = evidence([0.1, 0.2, 0.3, 0.9], ["good", "good", "good", "dent"], groups=["a", "", "b", ""])
    made = replace(shown, trained_on=shown.sha256[3:], trained_parts=np.array(["a", ""]))
    assert made.learned_from(shown).tolist() == [True, False, False, True]
    assert not shown.learned_from(shown).any()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("trained_on", np.array([["a"]]), r"trained_on is \(1, 1\)"),
        ("trained_parts", "missing", "trained_parts"),
        ("scores", np.array([0.1, np.nan, 0.9], np.float32), "scores are in"),
        ("scores", np.array([0.1, 0.2], np.float32), r"scores is \(2,\)"),
        ("labels", np.array([0, 0, 2], np.int8), "labels are 0 and 1"),
        ("labels", np.array([0, 1, 1], np.int8), "good images have no defect type"),
        ("labels", np.array([0.0, 0.0, 1.0]), "labels is float64"),
        ("thresholds", None, "thresholds fall to 0"),
        ("false_positives", None, "false positives are normal pixels"),
        ("sha256", None, "Object arrays cannot be loaded"),
        ("overlap", "missing", "overlap"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path, name: str, value: Any, told: str) -> None:
    made = evidence([0.1, 0.2, 0.9], ["good", "good", "dent"])
    arrays = {key: getattr(made, key) for key in vars(made)}
    arrays[name] = (
        {
            "thresholds": np.ones_like(made.thresholds),
            "false_positives": made.false_positives + np.uint32(100),
            "sha256": np.array(["a", "b", None], dtype=object),
        }.get(name, value)
        if value is None
        else value
    )
    if isinstance(value, str):
        del arrays[name]
    path = tmp_path / "evidence.npz"
    np.savez(path, **arrays, allow_pickle=True)
    with pytest.raises(UserError, match=rf"{path}: not the evidence of an evaluation: .*{told}"):
        Evidence.load(path)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "evidence.npz"
    with pytest.raises(UserError, match="no such file"):
        Evidence.load(path)
    evidence([0.1, 0.9], ["good", "dent"]).save(path)
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not the evidence of an evaluation"):
            Evidence.load(path)


@given(total=st.integers(1, 300), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_the_lower_bound_of_a_share_is_clopper_pearsons(total: int, share: float, confidence: float) -> None:
    count = round(share * total)
    wanted = stats.beta.ppf(1 - confidence, count, total - count + 1) if count else 0.0
    assert binomial_low(count, total, confidence) == pytest.approx(wanted, abs=1e-9)
