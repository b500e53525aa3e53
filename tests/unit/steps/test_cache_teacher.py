"""Shards of the teacher cache: which of them a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from stlm_core.config import LineConfig, load_line
from stlm_core.steps import cache_teacher as step
from stlm_core.steps.cache_teacher import cache_teacher, cache_teacher_shard
from stlm_core.steps.workspace import Workspace


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LineConfig, Workspace]:
    """A line with a bank and a teacher; computing writes down which shard was asked for, None for all views."""
    (tmp_path / "params.yaml").write_text("defaults: {}\nprofiles: {fast: {}}\nlines: {tiny: {data: {path: data}}}")
    workspace = Workspace(tmp_path / "outputs", "tiny")
    bank, weights = workspace.folder("synthesize") / "index.parquet", tmp_path / "teacher.pt"
    bank.parent.mkdir(parents=True)
    for path in (bank, weights):
        path.write_bytes(b"1")
    monkeypatch.setattr(step, "locate_weights", lambda *_: weights)

    def fill(_: LineConfig, __: Workspace, partial: Path, ___: list[Path], shard: tuple[int, int] | None) -> str:
        (partial / "asked").write_text(str(shard))
        return "computed"

    monkeypatch.setattr(step, "_fill", fill)
    return load_line(tmp_path / "params.yaml", "tiny"), workspace


def test_another_shard_in_the_same_folder_is_computed(line: tuple[LineConfig, Workspace], tmp_path: Path) -> None:
    out = tmp_path / "shard"
    for shard, shards in ((0, 2), (1, 2), (1, 3)):
        assert cache_teacher_shard(*line, shard, shards, out).summary == "computed"
        assert (out / "asked").read_text() == f"({shard}, {shards})"
        assert cache_teacher_shard(*line, shard, shards, out).summary == "computed (up to date)"


def test_a_shard_is_not_taken_for_the_whole(line: tuple[LineConfig, Workspace]) -> None:
    folder = line[1].folder("cache-teacher")
    cache_teacher_shard(*line, 0, 2, folder)
    assert cache_teacher(*line).summary == "computed"
    assert (folder / "asked").read_text() == "None"
