"""A line's own textures and weights: a local run brings them along, a cluster has only what its volume has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.arguments import digests_of, training_arguments
from pipelines.jobs import scheduled, training_job
from pipelines.local import LocalRun
from pipelines.placement import Images
from stlm_core.config import LineConfig, load_line
from stlm_core.errors import UserError

SETTINGS = [("synthesize", "textures"), ("teacher", "weights")]


def line(root: Path, section: str, setting: str, given: object) -> LineConfig:
    caps: dict[str, Any] = {"data": {"path": "data/caps"}, "schedule": {"cron": "0 2 * * *"}}
    caps |= {section: {setting: given}}
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"caps": caps}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return load_line(root / "params.yaml", "caps")


@pytest.mark.parametrize(("section", "setting"), SETTINGS)
@pytest.mark.parametrize("given", ["own/thing", "~/thing", "/data/thing", "/weights/../thing"])
def test_a_cluster_is_asked_for_nothing_that_it_does_not_have(
    tmp_path: Path, section: str, setting: str, given: str
) -> None:
    config = line(tmp_path, section, setting, given)
    sentence = rf"line caps: {section}\.{setting}: `{given}` .* set it to /weights/thing, or to null"
    with pytest.raises(UserError, match=sentence):
        training_job(config, Images())
    with pytest.raises(UserError, match=sentence):
        scheduled(tmp_path / "params.yaml", Images(), "UTC")


@pytest.mark.parametrize(
    ("section", "setting", "given"),
    [
        *((*setting, given) for setting in SETTINGS for given in (None, "/weights/thing")),
        ("teacher", "weights", "s3://bucket/mine.pth"),
    ],
)
def test_a_cluster_is_asked_for_what_its_volume_has(
    tmp_path: Path, section: str, setting: str, given: str | None
) -> None:
    config = line(tmp_path, section, setting, given)
    assert training_arguments(config, digests_of(Images()))[section].get(setting) == given


def brought(root: Path, section: str, setting: str, given: str) -> tuple[str, Path]:
    """What a local run's containers are told, and where that lies on this machine."""
    config = line(root, section, setting, given)
    run = LocalRun(root / "params.yaml", root / "state")
    told = training_arguments(run.with_own_files(config), digests_of(Images()))[section][setting]
    return told, root / "state" / "weights" / Path(told).relative_to("/weights")


@pytest.mark.parametrize("absolute", [False, True])
def test_textures_of_the_project_come_along(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "own" / "dots").mkdir(parents=True)
    (tmp_path / "own" / "dots" / "a.png").write_bytes(b"first")
    (tmp_path / "own").chmod(0o700)  # the containers' user is another one
    given = str(tmp_path / "own") if absolute else "own"
    told, there = brought(tmp_path, "synthesize", "textures", given)
    assert (there / "dots" / "a.png").read_bytes() == b"first"
    assert there.stat().st_mode & 0o055 == 0o055
    assert brought(tmp_path, "synthesize", "textures", given) == (told, there)
    (tmp_path / "own" / "dots" / "a.png").write_bytes(b"second")
    other, there = brought(tmp_path, "synthesize", "textures", given)
    assert other != told, "a cache that knows settings only would keep the bank of the first"
    assert (there / "dots" / "a.png").read_bytes() == b"second"


def test_weights_of_the_project_come_along(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"weights")
    told, there = brought(tmp_path, "teacher", "weights", "mine.pth")
    assert told.startswith("/weights/mine-")
    assert told.endswith(".pth")
    assert there.read_bytes() == b"weights"


@pytest.mark.parametrize(("section", "setting"), SETTINGS)
def test_what_is_not_there_is_told_before_anything_is_started(tmp_path: Path, section: str, setting: str) -> None:
    with pytest.raises(UserError, match=rf"line caps: {section}\.{setting}: .*own: no such (folder|file)"):
        brought(tmp_path, section, setting, "own")


@pytest.mark.parametrize("given", [None, "/weights/thing"])
def test_what_the_containers_have_already_is_left_as_it_is(tmp_path: Path, given: str | None) -> None:
    config = line(tmp_path, "synthesize", "textures", given)
    assert LocalRun(tmp_path / "params.yaml", tmp_path / "state").with_own_files(config) == config
