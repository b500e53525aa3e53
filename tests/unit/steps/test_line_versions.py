"""Published versions: what is written can be read, what is damaged or made up cannot."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published import make_version, pointer_of, put

from stlm_core.config import SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrations.revision import data_revision
from stlm_core.settings import DataConfig
from stlm_core.steps.line_versions import DESCRIPTION, find_version, folder_hash, version_name

TABLE = b"path,group\na.png,1\n"
DIGEST = "0123456789abcdef" * 2


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.mark.parametrize("table", [None, "catalog", "group_file"])
def test_a_version_comes_back_and_is_called_as_in_the_project(shelf: Path, tmp_path: Path, table: str | None) -> None:
    data = DataConfig.model_validate({"path": "data/caps/images", **({table: "data/caps/t.csv"} if table else {})})
    version = make_version("caps", data, DIGEST, **({table: TABLE} if table else {}))
    assert version.revision == (DIGEST if table is None else f"{DIGEST}-{sha256_bytes(TABLE)[:12]}")
    put(shelf, version)
    assert find_version("caps", url=str(shelf)) == version
    assert find_version("caps", version.revision, str(shelf)) == version

    for name, content in version.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    sections: dict[str, Any] = {section: {} for section in SECTIONS}
    line = {**sections, "name": "caps", "profile": "fast", "root": tmp_path, "data": data}
    assert data_revision(LineConfig.model_validate(line)) == version.revision


def test_the_images_may_lie_below_what_is_tracked(tmp_path: Path) -> None:
    (tmp_path / "all.dvc").write_bytes(pointer_of("all", DIGEST))
    sections: dict[str, Any] = {section: {} for section in SECTIONS} | {"data": {"path": "all/caps"}}
    line = {**sections, "name": "caps", "profile": "fast", "root": tmp_path}
    assert data_revision(LineConfig.model_validate(line)) == DIGEST
    line["data"] = {"path": "all/caps", "group_file": "absent.csv"}
    assert data_revision(LineConfig.model_validate(line)) == ""
    line["data"] = {"path": "other"}
    assert data_revision(LineConfig.model_validate(line)) == ""


def test_what_is_not_published(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STLM_DATA_URL", raising=False)
    with pytest.raises(UserError, match="set STLM_DATA_URL"):
        find_version("caps")
    monkeypatch.setenv("STLM_DATA_URL", str(shelf))
    with pytest.raises(UserError, match=r"no version of line caps is published; run `stlm data publish --line caps`"):
        find_version("caps")
    with pytest.raises(UserError, match="no such version"):
        find_version("caps", DIGEST)
    for revision in ("../../etc", "", f"{DIGEST}-x", DIGEST.upper(), f"{DIGEST}\n"):
        with pytest.raises(UserError, match="is not a revision"):
            find_version("caps", revision)
    with pytest.raises(UserError, match="not the name of a line"):
        find_version("../caps")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/no/such/folder", "no such folder"),
        ("s3://UPPER/x", "must be a folder or s3://"),
        ("s3://key:hush@bucket/x", "must be a folder or s3://"),
        ("https://key:hush@host/x", "must be a folder or s3://"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_version("caps", url=url)
    assert "hush" not in str(caught.value)


def _described(change: dict[str, Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def edit(files: dict[str, bytes]) -> dict[str, bytes]:
        return files | {DESCRIPTION: json.dumps(json.loads(files[DESCRIPTION]) | change).encode()}

    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {},
        lambda files: files | {"../evil": b""},
        lambda files: files | {"more.txt": b""},
        lambda files: files | {"data/caps.dvc": pointer_of("caps", "f" * 32)},
        lambda files: {name: content for name, content in files.items() if name == DESCRIPTION},
        lambda files: files | {DESCRIPTION: b"[]"},
        lambda files: files | {DESCRIPTION: b"[" * 100_000},
        lambda files: files | {DESCRIPTION: b"\xff"},
        _described({"format": 2}),
        _described({"line": "other"}),
        _described({"revision": "f" * 32}),
        _described({"data": {"path": "data/caps", "unknown": 1}}),
        _described({"data": None}),
        _described({"pointer": "../caps.dvc"}),
    ],
)
def test_damaged_and_made_up_versions(shelf: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    version = make_version("caps", DataConfig(path="data/caps"))
    put(shelf, version)
    path = shelf / version_name("caps", version.revision)
    with tarfile.open(path) as tar:
        files = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    with tarfile.open(path, "w") as tar:
        for name, content in change(files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"damaged, .*; publish the version again"):
        find_version("caps", url=str(shelf))


@pytest.mark.parametrize("path", ["/data/caps", "../caps", "data/other"])
def test_images_elsewhere_than_the_pointer_says(shelf: Path, path: str) -> None:
    version = make_version("caps", DataConfig(path="data/caps"))
    made_up = type(version)(
        "caps", version.revision, DataConfig(path=path), version.remote, version.pointer, version.files
    )
    put(shelf, made_up)
    with pytest.raises(UserError, match="its images are not what its pointer tracks"):
        find_version("caps", url=str(shelf))


@pytest.mark.parametrize("cut", [0, 100, 1000])
def test_a_version_that_was_cut_off(shelf: Path, cut: int) -> None:
    version = make_version("caps", DataConfig(path="data/caps"))
    put(shelf, version)
    path = shelf / version_name("caps", version.revision)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="damaged"):
        find_version("caps", url=str(shelf))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"outs: [",
        b"outs: []",
        b"outs:\n- md5: 0123456789abcdef0123456789abcdef\n  hash: md5\n  path: caps\n",
        pointer_of("../caps", DIGEST).replace(b"path: caps", b"path: ../caps"),
        pointer_of("caps", DIGEST) + b"deps:\n- path: x\n  repo: {url: https://example.org/x}\n",
        pointer_of("caps", DIGEST) + b"wdir: ../..\n",
        pointer_of("caps", DIGEST) + b"  remote: elsewhere\n",
        pointer_of("caps", "g" * 32),
    ],
)
def test_pointers_that_are_not_those_of_a_folder(content: bytes) -> None:
    assert folder_hash("data/caps.dvc", pointer_of("data/caps", DIGEST) + b"desc: mine\n") == f"{DIGEST}.dir"
    with pytest.raises(ValueError, match=r"data/caps\.dvc is not what `dvc add` writes"):
        folder_hash("data/caps.dvc", content)
