"""A decoder that learns from real defects: halves that share no part, and a lesson that is learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from line_project import mvtec_dataset

from benchmarks.accuracy.figures import detector_figures
from benchmarks.accuracy.lines import Line, validated
from benchmarks.accuracy.taught import divide, run_taught, teach
from stlm_core.data.manifest import ManifestRow
from stlm_core.errors import UserError
from stlm_core.models.detector import Detector, DetectorFacts, load_detector, save_detector

FACTS = DetectorFacts(32, "conv3x3", "unit", plain_stream="teacher", aggregation="decoder", denoising=False)


def row(path: str, kind: str, part: str = "", mask: str = "mask.png") -> ManifestRow:
    label = int(kind != "good")
    return ManifestRow(path, "test", label, kind, mask if label else "", part, "0" * 64, 1, 8, 8, "RGB")


def written(folder: Path, facts: DetectorFacts = FACTS) -> Path:
    torch.manual_seed(0)
    save_detector(folder / "detector.safetensors", Detector(facts))
    return folder / "detector.safetensors"


@given(
    st.lists(st.tuples(st.sampled_from(["good", "dent", "scratch"]), st.integers(0, 9)), min_size=8, max_size=40),
    st.integers(0, 5),
)
def test_the_halves_hold_every_image_once_and_share_no_part(shown: list[tuple[str, int]], seed: int) -> None:
    rows = [row(f"{number}.png", kind, f"part-{part}") for number, (kind, part) in enumerate(shown)]
    try:
        one, other = divide(rows, seed)
    except UserError:
        return  # too few parts, or all with defects
    assert sorted(each.path for each in (*one, *other)) == sorted(each.path for each in rows)
    assert not {each.group for each in one} & {each.group for each in other}
    assert {each.label for each in one} == {each.label for each in other} == {0, 1}


def test_every_defect_type_is_divided_evenly() -> None:
    kinds = {"good": 10, "dent": 6, "scratch": 4}
    rows = [row(f"{kind}/{number}.png", kind) for kind, count in kinds.items() for number in range(count)]
    for half in divide(rows, 0):
        assert {kind: sum(each.defect_type == kind for each in half) for kind in kinds} == {
            kind: count // 2 for kind, count in kinds.items()
        }


def test_one_defective_part_cannot_be_divided() -> None:
    rows = [row("a.png", "good"), row("b.png", "good"), row("c.png", "dent", "p"), row("d.png", "dent", "p")]
    with pytest.raises(UserError, match="cannot be divided"):
        divide(rows, 0)


def test_a_defect_without_a_mask_is_named() -> None:
    with pytest.raises(UserError, match=r"c\.png: has no mask"):
        divide([row("a.png", "good"), row("b.png", "good"), row("c.png", "dent", mask="")], 0)


def test_what_is_taught_is_learned() -> None:
    """A bright square on a dark image is found after a few steps, where the teacher has learned nothing at all."""
    torch.manual_seed(0)
    detector = Detector(FACTS, map_source="fa-alone")
    dark = torch.full((32, 32, 3), 60, dtype=torch.uint8)
    marked, mask = dark.clone(), torch.zeros(16, 16)
    marked[8:16, 8:16], mask[4:8, 4:8] = 250, 1.0
    teacher = detector.streams.plain.train()  # a random one, whose activations would vanish without statistics
    for _ in range(30):
        teacher(torch.randn(8, 3, 32, 32))
    teacher.eval()
    teach(detector, ([(dark, torch.zeros(16, 16))], [(marked, mask)]), 0, 30)
    with torch.no_grad():
        scores, maps = detector(torch.stack([dark, marked]))
    assert scores[1] > scores[0] + 0.2
    assert maps[1, 8:16, 8:16].mean() > maps[1].mean() + 0.2


def test_both_halves_are_measured_with_and_without_what_they_were_taught(tmp_path: Path) -> None:
    line = Line("part", mvtec_dataset(tmp_path / "part"), "mvtec", {"validate": {"min_train_images": 2}})
    model = written(tmp_path)
    told = run_taught(tmp_path, line, model, 5, 0, 2)
    content = json.loads((tmp_path / "taught-part.json").read_text())
    assert content["steps"] == 2
    shipped, alone, taught = content["halves"].values()
    assert all(name in told for name in content["halves"])

    manifest = validated(tmp_path, line)
    detector = load_detector(model, 5)
    expected = [detector_figures(detector, manifest, half) for half in reversed(divide(manifest.test(), 0))]
    for found in (shipped, alone):  # one and the same, as there is no memory
        assert [pytest.approx(half) for half in expected] == found
    assert [half["pixel_ap"] for half in taught] != [half["pixel_ap"] for half in shipped]


def test_a_detector_without_a_decoder_is_refused(tmp_path: Path) -> None:
    model = written(tmp_path, DetectorFacts(32, "conv3x3", "unit"))
    with pytest.raises(UserError, match="has no decoder"):
        run_taught(tmp_path, Line("part", tmp_path, "mvtec", {}), model, 5, 0)
