from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.weights import catalog
from stlm_core.weights.catalog import lookup
from stlm_core.weights.store import (
    cached_path,
    check_sha256,
    expected_sha256,
    fetch_command,
    inspect,
    is_address,
    locate,
)

ENTRY = lookup("mobile_sam")
OTHER = "ab" * 32


def test_pinned_file_keeps_its_name_and_another_hash_gets_its_own(tmp_path: Path) -> None:
    assert cached_path(ENTRY, tmp_path) == tmp_path / "mobile_sam.pt"
    assert cached_path(ENTRY, tmp_path, ENTRY.sha256.upper()) == tmp_path / "mobile_sam.pt"
    assert cached_path(ENTRY, tmp_path, OTHER) == tmp_path / "mobile_sam-abababababab.pt"


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "../" + "a" * 61, "a" * 65])
def test_hash_that_is_none_is_refused(sha256: str) -> None:
    with pytest.raises(UserError, match="needs to be 64 hexadecimal digits"):
        expected_sha256(ENTRY, sha256)


@pytest.mark.parametrize(
    ("source", "address"),
    [("https://a/b", True), ("s3://a/b", True), ("file:///a", True), ("a/b.pt", False), ("C:/x.pt", False)],
)
def test_addresses_are_told_from_paths(source: str, address: bool) -> None:
    assert is_address(source) is address


def test_status_comes_from_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    small = replace(ENTRY, size=len(content), sha256=sha256_bytes(content))
    monkeypatch.setitem(catalog.CATALOG, "mobile_sam", small)
    path = tmp_path / "mobile_sam.pt"
    states = [inspect(tmp_path, "mobile_sam")[0].status]
    for text in (b"weight", b"weighty", content):
        path.write_bytes(text)
        states.append(inspect(tmp_path, "mobile_sam")[0].status)
    assert states == ["missing", "corrupt", "corrupt", "present"]
    assert [file.status for file in inspect(tmp_path)] == ["missing", "missing", "present"] + ["missing"] * 3


def test_missing_file_names_the_command_that_gets_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mobile_sam.pt: missing; get it with `stlm weights fetch mobile_sam`"):
        locate(ENTRY, tmp_path, root=tmp_path)
    with pytest.raises(UserError) as missing:
        locate(ENTRY, tmp_path, "s3://bucket/my.pt", OTHER, root=tmp_path)
    assert f"`stlm weights fetch mobile_sam --from s3://bucket/my.pt --sha256 {OTHER}`" in str(missing.value)


def test_given_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"x")
    (tmp_path / "mobile_sam-abababababab.pt").write_bytes(b"x")
    assert locate(ENTRY, tmp_path, "mine.pt", root=tmp_path) == tmp_path / "mine.pt"
    assert locate(ENTRY, tmp_path, str(tmp_path / "mine.pt"), root=Path("/elsewhere")) == tmp_path / "mine.pt"
    found = locate(ENTRY, tmp_path, "s3://bucket/my.pt", OTHER, root=tmp_path)
    assert found == tmp_path / "mobile_sam-abababababab.pt"
    with pytest.raises(UserError, match=r"none\.pt: no such weights file"):
        locate(ENTRY, tmp_path, "none.pt", root=tmp_path)


def test_command_hides_a_signature() -> None:
    assert "hush" not in fetch_command(ENTRY, "https://me:hush@host/my.pt?sig=hush")


def test_wrong_hash_names_both(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    check_sha256(path, sha256_bytes(b"x"), "")
    with pytest.raises(UserError) as refused:
        check_sha256(path, OTHER, "fetch it again")
    assert str(refused.value) == f"{path}: has sha256 {sha256_bytes(b'x')}, expected {OTHER}; fetch it again"
