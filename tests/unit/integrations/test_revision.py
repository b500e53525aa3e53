"""Commit of the code and revision of the data."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from stlm_core.integrations.revision import dvc_revision, git_revision


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("STLM_GIT_REVISION", raising=False)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, timeout=30)
    return tmp_path


def test_commit_and_local_changes(checkout: Path) -> None:
    clean = git_revision(checkout)
    assert len(clean) == 40
    (checkout / "untracked").write_text("")
    assert git_revision(checkout) == clean
    (checkout / "file").write_text("2")
    assert git_revision(checkout) == f"{clean}-dirty"


def test_changes_that_cannot_be_told_are_not_taken_for_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "file").write_text("2")
    run = subprocess.run

    def slow(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "status" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return run(command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", slow)
        assert git_revision(checkout) == ""
    (checkout / ".git" / "index").write_bytes(b"damaged")
    assert git_revision(checkout) == ""


def test_no_checkout_and_a_given_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("STLM_GIT_REVISION", raising=False)
    assert git_revision(tmp_path) == ""
    assert git_revision(tmp_path / "absent") == ""
    monkeypatch.setenv("STLM_GIT_REVISION", "abc123")
    assert git_revision(tmp_path) == "abc123"


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        ("outs:\n- md5: 1f2e.dir\n  path: bottle\n", "1f2e.dir"),
        ("outs: []\n", ""),
        ("- not a mapping\n", ""),
        ("outs: [: broken", ""),
    ],
)
def test_a_folder_that_dvc_tracks(tmp_path: Path, text: str, revision: str) -> None:
    assert dvc_revision(tmp_path / "bottle") == ""
    (tmp_path / "bottle.dvc").write_text(text)
    assert dvc_revision(tmp_path / "bottle") == revision
