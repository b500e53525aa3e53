"""Packed images: the same bytes for the same files, every name comes back, nothing gets out of the folder."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.errors import UserError
from stlm_core.files import sha256_file
from stlm_core.steps.packed_images import MARKER, is_safe, pack_images, unpack_images

# Any name a Linux folder can hold, bytes that are no UTF-8 among them.
_PART = (
    st.binary(min_size=1, max_size=40)
    .map(lambda raw: raw.replace(b"/", b"-").replace(b"\0", b"-").decode(errors="surrogateescape"))
    .filter(lambda name: name not in (".", ".."))
)
_LONG = st.integers(100, 250).map(lambda size: "x" * size)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """An archive of three files."""
    project = tmp_path / "project"
    files = {"data/caps.dvc": b"outs", "data/caps/a.png": b"a" * 2000, "data/caps/b.png": b""}
    for name, content in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    assert pack_images("caps", "r1", project, list(files), tmp_path / "images.tar") == 2004
    return tmp_path / "images.tar"


@given(st.lists(st.lists(_PART | _LONG, min_size=1, max_size=3), min_size=1, max_size=4))
def test_every_name_comes_back(parts: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        names = [f"{index}/{'/'.join(each)}" for index, each in enumerate(parts)]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode(errors="surrogateescape"))
        archive = Path(folder) / "images.tar"
        pack_images("caps", "r1", root, names, archive)
        unpack_images(archive, Path(folder) / "copy")
        for name in names:
            assert (Path(folder) / "copy" / name).read_bytes() == name.encode(errors="surrogateescape")


@given(st.text() | st.lists(st.sampled_from(["..", ".", "", "a", "/", "b.png"]), max_size=5).map("/".join))
def test_a_safe_name_stays_in_its_folder(name: str) -> None:
    if is_safe(name):
        assert (Path("/root/of") / name).is_relative_to("/root/of")
        assert ".." not in Path(name).parts
        assert str(Path(name)) == name


def test_equal_files_make_equal_archives(packed: Path, tmp_path: Path) -> None:
    unpack_images(packed, tmp_path / "copy")
    names = ["data/caps/b.png", "data/caps.dvc", "data/caps/a.png"]
    (tmp_path / "copy" / names[0]).chmod(0o600)
    pack_images("caps", "r1", tmp_path / "copy", names, tmp_path / "again.tar")
    assert sha256_file(tmp_path / "again.tar") == sha256_file(packed)
    with tarfile.open(packed) as tar:
        assert tar.getnames() == [MARKER, *sorted(names)]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}
    mark = json.loads((tmp_path / "copy" / MARKER).read_text())
    assert mark == {"version": 1, "line": "caps", "revision": "r1", "files": 3, "bytes": 2004}


def test_links_and_missing_files_are_not_packed(packed: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    project = tmp_path / "project"
    (project / "link.png").symlink_to(project / "data/caps/a.png")
    for name in ("link.png", "absent.png", "../project/data/caps.dvc"):
        with pytest.raises(UserError, match="not a regular file"):
            pack_images("caps", "r1", project, [name], packed)
    assert packed.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("keep", [0, 100, 700, 3000, 4100])
def test_an_archive_that_was_cut_off(packed: Path, tmp_path: Path, keep: int) -> None:
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(UserError, match="fetch it again with `stlm fetch-images`"):
        unpack_images(packed, tmp_path / "copy")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no tar", b"\0" * 10240, b"x" * 5000])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"images\.tar: .*; fetch it again"):
        unpack_images(tmp_path / "images.tar", tmp_path / "copy")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        unpack_images(tmp_path / "absent.tar", tmp_path / "copy")


def _hostile(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        _hostile(tarfile.REGTYPE, "../evil"),
        _hostile(tarfile.REGTYPE, "data/../../evil"),
        _hostile(tarfile.REGTYPE, "/tmp/evil"),
        _hostile(tarfile.SYMTYPE, "data/evil", "/etc"),
        _hostile(tarfile.LNKTYPE, "data/evil", "/etc/passwd"),
        _hostile(tarfile.CHRTYPE, "data/evil"),
        _hostile(tarfile.FIFOTYPE, "data/evil"),
        _hostile(tarfile.DIRTYPE, "data"),
        _hostile(tarfile.REGTYPE, MARKER),
    ],
    ids=lambda member: f"{member.type.decode()} {member.name}",
)
def test_a_hostile_archive_writes_nothing_elsewhere(tmp_path: Path, member: tarfile.TarInfo) -> None:
    mark = json.dumps({"version": 1, "line": "caps", "revision": "r1", "files": 2, "bytes": 1}).encode()
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for first, content in ((tarfile.TarInfo(MARKER), mark), (tarfile.TarInfo("data/a.png"), b"a")):
            first.size = len(content)
            tar.addfile(first, io.BytesIO(content))
        tar.addfile(member)
    with pytest.raises(UserError, match="refused"):
        unpack_images(tmp_path / "images.tar", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "images.tar"]
    assert [path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")] == [
        "data",
        "data/a.png",
    ]


def test_links_in_the_target_are_not_followed(packed: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "data").symlink_to(outside)
    with pytest.raises(UserError, match="a link out of"):
        unpack_images(packed, tmp_path / "copy")
    assert list(outside.iterdir()) == []

    (outside / "kept").write_text("kept")
    (tmp_path / "other" / "data").mkdir(parents=True)
    (tmp_path / "other" / "data" / "caps.dvc").symlink_to(outside / "kept")
    unpack_images(packed, tmp_path / "other")
    assert (outside / "kept").read_text() == "kept"
    assert (tmp_path / "other" / "data" / "caps.dvc").read_bytes() == b"outs"


@pytest.mark.parametrize(
    "change",
    [
        lambda mark: mark | {"files": 4},
        lambda mark: mark | {"bytes": 1},
        lambda mark: mark | {"version": 2},
        lambda mark: mark | {"files": "many"},
        list,
    ],
)
def test_a_marker_that_does_not_fit(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    with tarfile.open(packed) as old, tarfile.open(tmp_path / "changed.tar", "w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            content = stream.read()
            if member.name == MARKER:
                content = json.dumps(change(json.loads(content))).encode()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"changed\.tar: "):
        unpack_images(tmp_path / "changed.tar", tmp_path / "copy")
