"""Folders as shelves: a file comes to the folder that was named, whatever its name looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from stlm_core.errors import UserError
from stlm_core.integrations.shelf import Shelf


@pytest.mark.parametrize("name", ["published", "nas@plant2", "line#2", "what?", "a:b@c", "with space"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name / "shelf"
    folder.mkdir(parents=True)
    shelf = Shelf(f"{folder}/")
    shelf.write("lines/x/latest", b"1")
    assert (folder / "lines" / "x" / "latest").read_bytes() == b"1"
    assert shelf.read("lines/x/latest", 10) == b"1"
    assert shelf.at("lines/x/latest") == f"{folder}/lines/x/latest"
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing anywhere else"


@pytest.mark.parametrize("url", ["https://me:secret@host/x", "me:secret@host:/x", "s3://me:secret@bucket"])
def test_what_is_no_shelf_is_named_without_its_secrets(url: str) -> None:
    with pytest.raises(UserError) as refused:
        Shelf(url)
    assert "secret" not in str(refused.value)
