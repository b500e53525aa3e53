from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stlm_core.errors import UserError
from stlm_core.settings import TeacherConfig
from stlm_core.teachers.registry import (
    TEACHERS,
    load_teacher,
    locate_weights,
    plain_teacher,
    teacher_facts,
    teacher_input_size,
)
from stlm_core.weights.catalog import CATALOG


def test_every_teacher_has_its_weights_in_the_catalogue() -> None:
    assert set(TEACHERS) == set(CATALOG)
    for name, facts in TEACHERS.items():
        assert (facts.name, facts.weights) == (name, name)
        assert len(facts.maps) == 2
        assert facts.multiple is None or facts.input_size % facts.multiple == 0
    assert {name for name, facts in TEACHERS.items() if facts.stem} == {"lite_medsam", "mobile_sam"}


def test_unknown_teacher_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"teacher\.name: no teacher `dino` \(known: lite_medsam, mobile_sam, sam_vit_b"
    ):
        teacher_facts("dino")
    with pytest.raises(UserError, match="no teacher `dino`"):
        load_teacher(TeacherConfig(name="dino"), tmp_path)


@pytest.mark.parametrize("name", list(TEACHERS))
def test_missing_weights_name_the_command(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"missing; get it with `stlm weights fetch {name}`"):
        load_teacher(TeacherConfig(name=name), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("lite_medsam", 130, "130 is not a multiple of 4"),
        ("mobile_sam", 1000, "1000 is not a multiple of 16"),
        ("efficientnet_lite0", 100, "100 is not a multiple of 16"),
        ("sam_vit_h", 512, "sam_vit_h sees images of 1024 px only, not 512"),
    ],
)
def test_impossible_input_size(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=rf"teacher\.input_size: {message}"):
        teacher_input_size(TeacherConfig(name=name, input_size=size))


def test_an_impossible_size_of_the_network_is_called_by_its_own_name() -> None:
    with pytest.raises(UserError, match=r"^image\.size: 100 is not a multiple of 16, as efficientnet_lite0 needs$"):
        plain_teacher(TeacherConfig(name="efficientnet_lite0"), 100)


def test_own_input_size_is_the_default() -> None:
    sizes = {name: teacher_input_size(TeacherConfig(name=name)) for name in TEACHERS}
    assert sizes == {
        "lite_medsam": 256,
        "mobile_sam": 1024,
        "sam_vit_b": 1024,
        "sam_vit_l": 1024,
        "sam_vit_h": 1024,
        "efficientnet_lite0": 256,
    }
    assert teacher_input_size(TeacherConfig(name="lite_medsam", input_size=128)) == 128


def test_unpinned_file_is_refused_until_its_hash_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"not the pinned file")
    config = TeacherConfig(weights="mine.pth")
    assert locate_weights(config, tmp_path / "cache", tmp_path) == tmp_path / "mine.pth"
    with pytest.raises(UserError, match=r"expected 79d8c9dc.*set teacher\.weights_sha256 to its hash"):
        load_teacher(config, tmp_path / "cache", tmp_path)


def test_corrupt_cached_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lite_medsam.pth").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"expected 79d8c9dc.*; fetch it again with `stlm weights fetch lite_medsam`"):
        load_teacher(TeacherConfig(), tmp_path)


def test_hash_in_the_configuration_is_checked() -> None:
    with pytest.raises(ValidationError, match="weights_sha256"):
        TeacherConfig(weights_sha256="abc")
