"""Whether a line's parts are turned against each other, told from their good images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.data.images import resize_to
from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.pose import POSE, Pose, edge_directions, find_pose, in_proportion, read_pose
from stlm_core.synthesis.rotation import rotate
from stlm_core.synthesis.textures import ProceduralTextures

SIDE = 96
Image = npt.NDArray[np.uint8]


def bracket(number: int) -> Image:
    """An L of metal with a hole, a little different every time: no turn but a whole one brings it onto itself."""
    rng = np.random.default_rng(number)
    image = rng.normal(60, 4, (SIDE, SIDE, 3))
    cv2.rectangle(image, (28, 22), (42, 74), (170, 170, 170), -1)
    cv2.rectangle(image, (28, 62), (66 + int(rng.integers(-2, 3)), 74), (170, 170, 170), -1)
    cv2.circle(image, (35, 32), 4, (60, 60, 60), -1)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def brackets(angles: npt.NDArray[np.float64]) -> list[Image]:
    return [rotate(bracket(number), float(angle)) for number, angle in enumerate(angles)]


RNG = np.random.default_rng(7)


def a_few(count: int, of: int, angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([angles[:count], np.zeros(of - count)])


@pytest.mark.parametrize(
    ("angles", "policy"),
    [
        (np.zeros(20), "none"),
        (RNG.uniform(-10, 10, 20), "none"),
        (RNG.uniform(-30, 30, 40), "none"),
        (a_few(1, 20, np.array([45.0])), "none"),
        (a_few(2, 40, np.array([90.0, 45.0])), "none"),
        (a_few(3, 30, RNG.uniform(-180, 180, 3)), "none"),
        (180.0 * RNG.integers(0, 2, 30), "none"),
        (90.0 * RNG.integers(0, 4, 30), "quarter"),
        (90.0 * RNG.integers(0, 4, 30) + RNG.uniform(-3, 3, 30), "quarter"),
        (RNG.uniform(-180, 180, 30), "any"),
    ],
    ids=["aligned", "askew", "far askew", "one", "two", "one in ten", "halves", "quarters", "askew quarters", "anyhow"],
)
def test_what_is_found_is_how_the_parts_lie(angles: npt.NDArray[np.float64], policy: str) -> None:
    pose = find_pose(brackets(angles))
    assert pose.policy == policy
    assert pose.across is not None
    assert (pose.across >= 0.25) == (policy != "none")


def test_a_part_that_looks_the_same_from_all_sides_is_not_turned() -> None:
    down, right = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    discs = []
    for number in range(12):
        inside = np.clip(30 + number % 3 - np.hypot(down, right), 0, 1)  # drawn exactly, where OpenCV draws a polygon
        image = np.repeat((200 - 140 * inside)[:, :, None], 3, 2).astype(np.uint8)
        discs.append(rotate(image, 30.0 * number))
    assert find_pose(discs).policy == "none"


def test_too_few_images_and_images_without_an_edge() -> None:
    anyhow = brackets(np.linspace(-180, 140, 7))
    assert find_pose(anyhow) == Pose("none")
    flat = [np.full((SIDE, SIDE, 3), 10 * number, np.uint8) for number in range(10)]
    assert find_pose(flat) == Pose("none", 0.0)


def test_light_is_not_taken_for_a_pose() -> None:
    rng = np.random.default_rng(0)
    down, right = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / SIDE

    def shaded(image: Image, levels: float, number: int) -> Image:
        angle = 2 * np.pi * number / 20
        ramp = levels * (np.cos(angle) * right + np.sin(angle) * down)
        return np.clip(image + ramp[:, :, None] + rng.normal(0, 1, image.shape), 0, 255).astype(np.uint8)

    sheets = [shaded(np.full((SIDE, SIDE, 3), 128, np.uint8), 20, number) for number in range(20)]
    assert find_pose(sheets).policy == "none"
    assert find_pose([shaded(bracket(number), 60, number) for number in range(20)]).policy == "none"
    negatives = [bracket(number) if number % 2 else 255 - bracket(number) for number in range(20)]
    assert find_pose(negatives).policy == "none"


@given(st.integers(0, 50), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_quarter_turn_moves_the_directions_by_a_quarter(number: int, quarters: int) -> None:
    upright = edge_directions(bracket(number))
    assert upright.sum() == pytest.approx(1)
    turned = edge_directions(np.ascontiguousarray(np.rot90(bracket(number), quarters)))
    # Counter-clockwise on the screen is towards smaller angles where y points down.
    np.testing.assert_allclose(turned, np.roll(upright, -9 * quarters), atol=1e-4)


@pytest.mark.parametrize(("turn", "policy"), [(0.0, "none"), (5.0, "none"), (180.0, "any")])
@pytest.mark.parametrize("shapes", [["wide"], ["tall"], ["wide", "wider", "square"]])
def test_a_bank_is_made_by_how_the_parts_lie_in_the_photographs(
    tmp_path: Path, shapes: list[str], turn: float, policy: str
) -> None:
    """The network's square squashes these, and with them the parts, so that all seem to lie one way."""
    rng = np.random.default_rng(3)
    beside = {"square": (0, 0), "wide": (0, 36), "wider": (0, 48), "tall": (36, 0)}
    sources = []
    for number, part in enumerate(brackets(rng.uniform(-turn, turn, 40))):
        down, right = beside[shapes[number % len(shapes)]]
        path = tmp_path / f"{number:02}.png"
        photograph = np.pad(part, ((down, down), (right, right), (0, 0)), constant_values=60)
        cv2.imwrite(str(path), photograph)
        sources.append(SourceImage(path.name, sha256_file(path), "train"))
    (tmp_path / "bank").mkdir()
    chosen = SynthesizeConfig(rotation="auto", variants=1)
    bank = build_bank(
        tmp_path / "bank", tmp_path, sources, ProceduralTextures(64), chosen, size=64, max_pixels=10**6, workers=2
    )
    assert read_pose(bank.folder).policy == policy


@given(st.integers(0, 50), st.sampled_from([(0, 20), (20, 0), (0, 48), (80, 0)]))
@settings(max_examples=20, deadline=None)
def test_empty_ground_beside_a_part_does_not_change_the_directions(number: int, beside: tuple[int, int]) -> None:
    """Nor does it matter where in a long picture the part lies."""
    down, right = beside
    smooth = cv2.GaussianBlur(bracket(number), (0, 0), 2)
    alone = edge_directions(in_proportion(smooth, SIDE))
    for before in (0, 1, 2):
        around = (before * down, (2 - before) * down), (before * right, (2 - before) * right), (0, 0)
        photograph = np.pad(smooth, around, constant_values=60)
        seen = edge_directions(in_proportion(photograph, max(photograph.shape)))
        np.testing.assert_allclose(seen, alone, atol=0.001)


@pytest.mark.parametrize(("height", "width"), [(300, 300), (40, 40), (96, 96)])
def test_a_square_picture_is_looked_at_as_the_network_sees_it(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(in_proportion(image, 96), resize_to(image, 96))


@pytest.mark.parametrize(
    ("height", "width", "seen"), [(90, 160, (54, 96)), (200, 100, (96, 48)), (1, 900, (1, 96)), (900, 1, (96, 1))]
)
def test_other_pictures_keep_their_proportions(height: int, width: int, seen: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert in_proportion(image, 96).shape == (*seen, 3)
    assert edge_directions(in_proportion(image, 96)).sum() == pytest.approx(1)
    assert edge_directions(image).sum() == pytest.approx(1)  # longer than what is looked at, too


def test_it_is_kept_beside_the_bank(tmp_path: Path) -> None:
    pose = find_pose(brackets(np.zeros(9)))
    pose.write(tmp_path)
    assert read_pose(tmp_path) == pose


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "not valid JSON: .*"),
        (b"\xff", "not valid JSON: .*"),
        (b"[" * 100_000, "not valid JSON: .*"),
        (b"[]", "not a JSON object"),
        (b'{"policy": "any"}', "not a pose"),
        (b'{"policy": "sideways", "across": null}', "not a pose"),
        (b'{"policy": "any", "across": 0.4, "more": 1}', "not a pose"),
    ],
)
def test_what_is_not_a_pose_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / POSE).write_bytes(content)
    with pytest.raises(UserError, match=rf"pose\.json: {said}; run `stlm synthesize --force` again"):
        read_pose(tmp_path)


def test_a_pose_is_plain_json(tmp_path: Path) -> None:
    Pose("any", 0.4).write(tmp_path)
    assert json.loads((tmp_path / POSE).read_text()) == {"policy": "any", "across": 0.4}
