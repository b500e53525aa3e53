"""Atomic writes, JSON objects and locks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stlm_core.errors import UserError
from stlm_core.files import exclusive_lock, read_json_object, write_bytes_atomic, write_json_atomic


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "ü" * 125 + "x.png"])
def test_the_longest_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    for content in (b"old", b"new"):
        write_bytes_atomic(tmp_path / name, content)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"new"}
    with pytest.raises(UserError, match=rf"x{name}: cannot be written: File name too long"):
        write_bytes_atomic(tmp_path / f"x{name}", b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"not ours")
    link.symlink_to(target)
    write_bytes_atomic(link, b"ours")
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (b"ours", b"not ours")


def test_an_object_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"größe": [1, None]})
    assert read_json_object(tmp_path / "a.json", "never shown") == {"größe": [1, None]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_object_is_named_with_its_remedy(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json_object(path, "make it again")
    assert str(caught.value).startswith(f"{path}: {fault}")
    assert str(caught.value).endswith("; make it again")


def test_a_lock_that_is_held_is_refused_or_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock, order = tmp_path / "locks" / "a.lock", []

    def wait() -> None:
        with exclusive_lock(lock, notice="somebody else is at work"):
            order.append("second")

    with exclusive_lock(lock, notice="never shown"):
        with pytest.raises(UserError, match="try again later"), exclusive_lock(lock, "try again later"):
            pass
        waiting = threading.Thread(target=wait)
        waiting.start()
        shown = ""
        while not shown.endswith("\n") and waiting.is_alive():
            shown += capsys.readouterr().err
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert shown == "somebody else is at work\n"


def test_a_lock_that_cannot_be_made_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="/proc: cannot be written"), exclusive_lock(Path("/proc/a.lock")):
        pass
