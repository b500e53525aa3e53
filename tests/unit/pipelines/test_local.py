"""What the local run makes of settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.local import LocalRun, bytes_of
from stlm_core.config import load_line
from stlm_core.errors import UserError
from stlm_core.settings import StepResources


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("6Gi", 6 * 2**30), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9), ("100K", 10**5), ("4096", 4096)],
)
def test_an_amount_of_memory(quantity: str, size: int) -> None:
    assert bytes_of(quantity) == size


@given(st.text("0123456789.KMGTi m-\n", max_size=8))
def test_what_the_settings_let_through_has_a_size(quantity: str) -> None:
    try:
        StepResources(memory=quantity)
    except ValidationError:
        with pytest.raises(UserError, match="is not an amount of memory"):
            bytes_of(quantity)
    else:
        assert bytes_of(quantity) >= 0


def _staged(root: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> Path:
    """The project that is staged for the line ``caps``, whose section ``data`` is this."""
    monkeypatch.setattr("pipelines.local._program", lambda *_: None)
    (root / "data" / "caps").mkdir(parents=True, exist_ok=True)
    (root / "data" / "caps" / "a.png").write_bytes(b"image")
    (root / "params.yaml").write_text(f"defaults: {{}}\nprofiles: {{fast: {{}}}}\nlines:\n  caps:\n    data: {data}\n")
    (root / "state").mkdir(exist_ok=True)
    run = LocalRun(root / "params.yaml", root / "state")
    return run._stage(load_line(run.params, "caps"))


@pytest.mark.parametrize("setting", ["group_file", "catalog"])
def test_a_table_outside_the_folders_of_the_line_is_staged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    (tmp_path / "tables").mkdir()
    for content in ("first", "second"):
        (tmp_path / "tables" / "parts.csv").write_text(content)
        project = _staged(tmp_path, monkeypatch, f"{{path: data/caps, {setting}: tables/parts.csv}}")
        assert (project / "tables" / "parts.csv").read_text() == content
    assert (project / "data" / "caps" / "a.png").read_bytes() == b"image"


def test_a_table_in_a_folder_of_the_line_is_staged_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "lines" / "caps").mkdir(parents=True)
    (tmp_path / "data" / "lines" / "caps" / "catalog.csv").write_text("table")
    data = "{path: data/caps, catalog: data/lines/caps/catalog.csv, group_file: /not/needed.csv}"
    project = _staged(tmp_path, monkeypatch, data)
    assert (project / "data" / "lines" / "caps" / "catalog.csv").read_text() == "table"


@pytest.mark.parametrize("setting", ["group_file", "catalog"])
@pytest.mark.parametrize("path", ["/etc/hostname", "../parts.csv", "data/caps/../../../parts.csv"])
def test_a_table_outside_the_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, path: str
) -> None:
    root = tmp_path / "project"
    with pytest.raises(UserError, match=rf"line caps: data\.{setting}: .* is outside the project; copy it there"):
        _staged(root, monkeypatch, f"{{path: data/caps, {setting}: {path}}}")
    assert not (root / "state" / "project" / "data").exists()
