"""Only a model that keeps its promises comes into service."""

from __future__ import annotations

import numpy as np
import pytest
from serving import OVERFLOWING, detector, png
from tiny_onnx import GRAPH, tiny_onnx

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes
from stlm_core.runtime.model import DetectorSession
from stlm_core.server.champion import Candidate, prepare, self_test
from stlm_core.server.inspection import inspect_image
from stlm_core.server.problems import ProblemError

HALF = "half = Constant<value = float {0.5}>()"
NOT_A_NUMBER = GRAPH.replace("{255.0}", "{0.0}")
UNDECIDED = GRAPH.replace(HALF, HALF.replace("0.5", "0.9"))
RANDOM = GRAPH.replace(
    "score = ReduceMax<keepdims = 0>(anomaly_map, plane)",
    "first = ReduceMax<keepdims = 0>(anomaly_map, plane)\n    luck = RandomUniformLike<dtype = 1>(first)\n"
    "    score = Min(first, luck)",
)
TOO_SMALL = GRAPH.replace(
    "anomaly_map = Div(grey, white)",
    """full = Div(grey, white)
    first = Constant<value = int64[1] {1}>()
    last = Constant<value = int64[1] {9999}>()
    anomaly_map = Slice(full, first, last, first)""",
)


def candidate(content: bytes, **changes: str) -> Candidate:
    """What a registry says of a file."""
    known = {"line": "tiny", "version": "3", "sha256": sha256_bytes(content), **changes}
    return Candidate(**known, signature=None, source="test", tags={})


def test_a_good_one_is_ready_and_warm() -> None:
    content = detector("r1")
    champion = prepare(candidate(content), content, public_key=None, threads=1)
    assert (champion.version, champion.session.line) == ("3", "tiny")
    assert 0 < champion.warm_ms < 5000
    result = inspect_image(champion, png(spot=204), max_pixels=10_000, heat_map=False, keep=False)
    assert (result.score, result.verdict, result.peak_x, result.peak_y) == (pytest.approx(0.8), "anomalous", 7, 5)
    assert result.shown is None
    with pytest.raises(ProblemError) as refused:
        inspect_image(champion, png(), max_pixels=40 * 30 - 1, heat_map=False, keep=False)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (OVERFLOWING, "an output is not between 0 and 1"),
        (TOO_SMALL, r"outputs \(1,\), \(1, 63, 64\) for an image of 64 x 64"),
        (NOT_A_NUMBER, "the model's output is not a number"),
        (UNDECIDED, "its decision is not that of its threshold 0.5"),
        (RANDOM, "two runs of one image differ|its decision is not"),
    ],
)
def test_a_self_test_tells_what_is_wrong(graph: str, why: str) -> None:
    with pytest.raises(StlmError, match=why):
        self_test(DetectorSession(tiny_onnx(graph), threads=1))


@pytest.mark.parametrize("size", ["0", "-7", "999999"])
def test_the_claimed_image_size_is_not_trusted(size: str) -> None:
    self_test(DetectorSession(tiny_onnx(image_size=size), threads=1))


def test_what_is_not_the_registered_file_is_not_even_opened() -> None:
    content = detector("r1")
    other = bytearray(content)
    other[-1] ^= 1
    with pytest.raises(StlmError, match=r"sha256|hash"):
        prepare(candidate(content), bytes(other), public_key=None, threads=1)
    with pytest.raises(StlmError, match="detector of line tiny"):
        prepare(candidate(content, line="other"), content, public_key=None, threads=1)
    with pytest.raises(UserError, match="not a readable ONNX model"):
        prepare(candidate(b"garbage"), b"garbage", public_key=None, threads=1)
    with pytest.raises(StlmError, match="`image_size` is not a whole number"):
        self_test(DetectorSession(tiny_onnx(image_size="large"), threads=1))


def test_what_is_shown_is_small_enough() -> None:
    content = detector("r1")
    champion = prepare(candidate(content), content, public_key=None, threads=1)
    wide = png(width=3000, height=2, spot=None)
    result = inspect_image(champion, wide, max_pixels=10_000, heat_map=False, keep=True)
    assert result.shown is not None
    assert result.shown.image.shape == (1, 768, 3)
    assert result.shown.level.shape == (1, 768)
    assert np.unique(result.shown.level).size == 1
