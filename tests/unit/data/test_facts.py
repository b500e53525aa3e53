"""The memory of what files held: it must never differ from reading them again."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import stlm_core.data.facts as facts_module
from stlm_core.data.facts import FactStore
from stlm_core.data.images import read_content
from stlm_core.data.probe import probe_image, probe_mask
from stlm_core.errors import UserError

SETTLED = 0.05  # seconds after which the tests' store believes a time


@pytest.fixture(autouse=True)
def soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "_UNSETTLED_NS", int(SETTLED * 0.8e9))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the image files that the store reads, in order; they are read for real."""
    names: list[str] = []

    def read(path: Path) -> bytes:
        names.append(path.name)
        return read_content(path)

    monkeypatch.setattr(facts_module, "read_content", read)
    return names


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the store decodes, in order; they are decoded for real."""
    names: list[str] = []
    for name in ("probe_content", "probe_mask"):
        original = getattr(facts_module, name)

        def probe(path: Path, *rest: Any, original: Any = original) -> Any:
            names.append(path.name)
            return original(path, *rest)

        monkeypatch.setattr(facts_module, name, probe)
    return names


def write(path: Path, level: int) -> None:
    """An image whose file has the same size whatever ``level``."""
    Image.fromarray(np.full((6, 8), level, np.uint8)).save(path, "BMP")


def settle() -> None:
    time.sleep(SETTLED)


def remembered(root: Path, file: Path, names: list[str]) -> FactStore:
    """A store that has been saved and opened again."""
    store = FactStore(root, file)
    for name in names:
        store.image(name)
    store.save()
    return FactStore(root, file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("a.bmp", "b.bmp")):
        write(folder / name, 40 + number)
    settle()
    return folder


def test_an_unchanged_file_is_not_opened(root: Path, tmp_path: Path, opened: list[str]) -> None:
    store = remembered(root, tmp_path / "facts.parquet", ["a.bmp", "b.bmp"])
    assert opened == ["a.bmp", "b.bmp"]
    assert store.image("a.bmp") == probe_image(root / "a.bmp")
    assert opened == ["a.bmp", "b.bmp"]


def test_a_touched_file_is_not_decoded(root: Path, tmp_path: Path, opened: list[str], decoded: list[str]) -> None:
    store = remembered(root, tmp_path / "facts.parquet", ["a.bmp"])
    os.utime(root / "a.bmp")
    assert store.image("a.bmp") == probe_image(root / "a.bmp")
    assert (opened, decoded) == (["a.bmp", "a.bmp"], ["a.bmp"])


def test_a_file_changed_a_moment_ago_is_hashed_again(tmp_path: Path, opened: list[str], decoded: list[str]) -> None:
    write(tmp_path / "a.bmp", 1)
    store = remembered(tmp_path, tmp_path / "facts.parquet", ["a.bmp"])
    settle()
    store.image("a.bmp")
    assert (opened, decoded) == (["a.bmp", "a.bmp"], ["a.bmp"])
    store.save()
    FactStore(tmp_path, tmp_path / "facts.parquet").image("a.bmp")
    assert opened == ["a.bmp", "a.bmp"]


def test_a_replaced_file_of_the_same_size_and_time_is_noticed(root: Path, tmp_path: Path) -> None:
    store = remembered(root, tmp_path / "facts.parquet", ["a.bmp", "b.bmp"])
    before = (root / "a.bmp").stat()
    write(root / "a.bmp", 99)
    os.utime(root / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (root / "a.bmp").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert store.image("a.bmp") == probe_image(root / "a.bmp")


def test_a_lower_pixel_limit_applies_to_what_is_known(root: Path, tmp_path: Path) -> None:
    store = remembered(root, tmp_path / "facts.parquet", ["a.bmp"])
    with pytest.raises(UserError, match="8 x 6 pixels is more than"):
        store.image("a.bmp", max_pixels=47)
    assert store.image("a.bmp", max_pixels=48).width == 8


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "in place", "same time", "touch", "rename", "copy", "delete", "break", "wait", "save"]
        ),
        st.sampled_from(["a.bmp", "b.bmp", "c.bmp"]),
        st.sampled_from(["a.bmp", "b.bmp", "c.bmp"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


def operate(root: Path, operation: str, name: str, other: str, level: int) -> None:
    path, target = root / name, root / other
    if operation == "wait":
        settle()
    elif operation == "write":
        write(path, level)
    elif path.exists():
        before = path.stat()
        if operation == "in place":
            with path.open("r+b") as stream:
                stream.seek(-1, os.SEEK_END)
                stream.write(bytes([level]))
        elif operation == "same time":
            write(path, level)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif operation == "touch":
            path.touch()
        elif operation == "rename":
            os.replace(path, target)
        elif operation == "copy" and path != target:
            shutil.copy2(path, target)
        elif operation == "delete":
            path.unlink()
        elif operation == "break":
            path.write_bytes(path.read_bytes()[:-3])


def facts_or_error(read: Any, *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except UserError as error:
        return str(error)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_the_same_facts_as_a_fresh_read_after_anything(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("facts")
    file = root / "memory" / "facts.parquet"
    store = FactStore(root, file)
    for operation, name, other, level in operations:
        operate(root, operation, name, other, level)
        if operation == "save":
            store.save(complete=level % 2 == 0)
            store = FactStore(root, file)
        for image in ("a.bmp", "b.bmp", "c.bmp"):
            assert facts_or_error(store.image, image) == facts_or_error(probe_image, root / image)
            mask = facts_or_error(store.mask, image, (6, 8))
            assert mask == facts_or_error(probe_mask, root / image, (6, 8))


@pytest.fixture
def mask_folder(root: Path) -> str:
    folder = root / "mask"
    folder.mkdir()
    for number in range(2):
        values = np.zeros((6, 8), np.uint8)
        values[number, number] = 255
        Image.fromarray(values).save(folder / f"{number}.png")
    settle()
    return "mask"


def test_masks_are_remembered(root: Path, tmp_path: Path, mask_folder: str, decoded: list[str]) -> None:
    file = tmp_path / "facts.parquet"
    store = FactStore(root, file)
    first = store.mask(mask_folder, (6, 8))
    assert (first.width, first.height, first.marked) == (8, 6, 2 / 48)
    store.save()
    store = FactStore(root, file)
    assert store.mask(mask_folder, (6, 8)) == first
    assert decoded == ["mask"]
    os.utime(root / "mask" / "0.png")
    assert store.mask(mask_folder, (6, 8)) == first
    assert decoded == ["mask"]
    (root / "mask" / "0.png").rename(root / "mask" / "2.png")
    changed = store.mask(mask_folder, (6, 8))
    assert changed.sha256 != first.sha256
    assert decoded == ["mask", "mask"]
    with pytest.raises(UserError, match="the mask is 8 x 6 pixels"):
        store.mask(mask_folder, (8, 6))


def test_forgets_what_no_longer_belongs_to_the_line(root: Path, tmp_path: Path, opened: list[str]) -> None:
    file = tmp_path / "facts.parquet"
    store = remembered(root, file, ["a.bmp", "b.bmp"])
    store.image("a.bmp")
    store.save(complete=False)
    assert pq.read_table(file).num_rows == 2
    store.save()
    assert pq.read_table(file)["path"].to_pylist() == ["a.bmp"]
    assert opened == ["a.bmp", "b.bmp"]


def test_an_unchanged_memory_is_not_written_again(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.parquet"
    store = remembered(root, file, ["a.bmp"])
    before = file.stat().st_ino
    store.image("a.bmp")
    store.save()
    assert file.stat().st_ino == before


def damage_page(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 8] ^= 0xFF
    file.write_bytes(content)


def change_version(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"stlm_facts_version": b"0"}), file)


DAMAGES: dict[str, Any] = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("hello"),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "a flipped byte": damage_page,
    "another version": change_version,
    "other columns": lambda file: pq.write_table(pq.read_table(file).drop_columns(["phash"]), file),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_unusable_memory_is_ignored(root: Path, tmp_path: Path, opened: list[str], name: str) -> None:
    file = tmp_path / "facts.parquet"
    remembered(root, file, ["a.bmp"])
    DAMAGES[name](file)
    store = FactStore(root, file)
    assert store.image("a.bmp") == probe_image(root / "a.bmp")
    assert opened == ["a.bmp", "a.bmp"]
    store.save()
    FactStore(root, file).image("a.bmp")
    assert opened == ["a.bmp", "a.bmp"]


def test_the_memory_of_another_folder_is_ignored(root: Path, tmp_path: Path, opened: list[str]) -> None:
    file = tmp_path / "facts.parquet"
    remembered(root, file, ["a.bmp"])
    shutil.copytree(root, tmp_path / "copy")
    FactStore(tmp_path / "copy", file).image("a.bmp")
    assert opened == ["a.bmp", "a.bmp"]


def test_a_memory_that_cannot_be_written_is_a_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "occupied").write_text("a file, not a folder")
    store = FactStore(root, tmp_path / "occupied" / "facts.parquet")
    store.image("a.bmp")
    store.save()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "occupied" in told
    assert "read again next time" in told


def test_a_folder_whose_name_is_not_utf_8_is_remembered(root: Path, tmp_path: Path, opened: list[str]) -> None:
    latin = tmp_path / os.fsdecode(b"Stra\xdfe")
    root.rename(latin)
    remembered(latin, tmp_path / "facts.parquet", ["a.bmp"])
    opened.clear()
    FactStore(latin, tmp_path / "facts.parquet").image("a.bmp")
    assert opened == []


def test_a_name_that_cannot_be_kept_is_a_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"Stra\xdfe.bmp")
    (root / "a.bmp").rename(root / name)
    store = FactStore(root, tmp_path / "facts.parquet")
    store.image(name)
    store.save()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"{tmp_path / 'facts.parquet'}: ")
    assert "read again next time" in told
    assert not (tmp_path / "facts.parquet").exists()
