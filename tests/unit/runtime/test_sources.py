"""What a command line means: files, folders, patterns, and output names that never collide or escape."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlm_core.runtime.sources import _with_keys, find_sources


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _written(out: Path) -> list[Path]:
    """What `stlm predict` writes into an output folder."""
    return [out / name for name in ("results.csv", "maps", "overlays")]


def _keys(root: Path, *arguments: str) -> list[str]:
    sources, problems = find_sources([str(root / argument) for argument in arguments], exclude=_written(root / "out"))
    assert not problems
    return [str(source.key) for source in sources]


def test_a_folder_means_its_images_in_order(tmp_path: Path) -> None:
    _touch(tmp_path, "b.png", "a.JPG", "notes.txt", ".hidden.png", ".cache/c.png", "sub/c.tiff")
    assert _keys(tmp_path, "") == ["a", "b", "sub/c"]


def test_heat_maps_of_an_earlier_run_are_not_input(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "out/overlays/a.png", "out/maps/sub/a.png", "out/results.csv")
    for argument in ("", "**/*.png", "*", "**"):
        assert _keys(tmp_path, argument) == ["a"]


@pytest.mark.parametrize("argument", ["out", "out/*.png", "out/*", "out/**/*.png"])
def test_the_images_own_folder_can_be_the_output_folder(tmp_path: Path, argument: str) -> None:
    _touch(tmp_path, "out/a.png", "out/b.png", "out/overlays/a.png", "out/maps/a.png", "out/results.csv")
    assert _keys(tmp_path, argument) == ["a", "b"]


def test_heat_maps_behind_a_symbolic_link_are_not_input(tmp_path: Path) -> None:
    _touch(tmp_path, "parts/a.png", "parts/maps/a.png")
    (tmp_path / "out").symlink_to(tmp_path / "parts")
    assert _keys(tmp_path, "parts") == ["a"]
    assert _keys(tmp_path, "parts/**/*.png") == ["a"]


@pytest.mark.parametrize("argument", ["out/maps", "out/maps/*.png", "out/*"])
def test_nothing_but_an_earlier_runs_files_is_a_problem(tmp_path: Path, argument: str) -> None:
    _touch(tmp_path, "out/maps/a.png")
    sources, problems = find_sources([str(tmp_path / argument)], exclude=_written(tmp_path / "out"))
    assert not sources
    assert "only files that this command itself writes" in problems[0].message


def test_a_pattern_is_expanded_and_a_literal_name_wins(tmp_path: Path) -> None:
    _touch(tmp_path, "p1.png", "p2.png", "p[1].png")
    assert _keys(tmp_path, "p?.png") == ["p1", "p2"]
    assert _keys(tmp_path, "p[1].png") == ["p[1]"]


def test_the_same_file_named_twice_is_one_image(tmp_path: Path) -> None:
    _touch(tmp_path, "sub/a.png")
    assert _keys(tmp_path, "sub/a.png", "sub", "sub/../sub/a.png") == ["a"]


def test_equal_stems_of_different_folders_stay_apart(tmp_path: Path) -> None:
    _touch(tmp_path, "good/000.png", "broken/000.png")
    assert _keys(tmp_path, "good/000.png", "broken") == ["good/000", "broken/000"]


def test_equal_stems_in_one_folder_stay_apart(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "a.png", "a_png.jpg")
    assert _keys(tmp_path, "") == ["a", "a_png", "a_png_jpg"]


def test_names_that_differ_in_case_alone_stay_apart(tmp_path: Path) -> None:
    sources = _with_keys([tmp_path / "A.png", tmp_path / "a.png"])
    assert [str(source.key) for source in sources] == ["A", "a_png"]


def test_a_file_named_outright_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    _touch(tmp_path, "frame.raw")
    assert _keys(tmp_path, "frame.raw") == ["frame"]


def test_symbolic_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.png", "elsewhere/b.png")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    assert _keys(tmp_path, "in") == ["a"]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [("gone.png", "no such file or folder"), ("*.png", "no file matches"), ("empty", "no images in this folder")],
)
def test_an_argument_that_means_nothing_is_a_problem(tmp_path: Path, argument: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    sources, problems = find_sources([str(tmp_path / argument)], exclude=_written(tmp_path / "out"))
    assert not sources
    assert len(problems) == 1
    assert sentence in problems[0].message
    assert argument in problems[0].message


def test_a_null_byte_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    sources, problems = find_sources(["a\0b.png", "*\0.png"], exclude=_written(tmp_path))
    assert not sources
    assert len(problems) == 2


_PART = st.text("aA._-é ", min_size=1, max_size=4).filter(lambda name: name.strip(".") != "")


@given(st.lists(st.lists(_PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12, unique=True))
def test_keys_are_unique_relative_and_never_climb(names: list[str]) -> None:
    sources = _with_keys([Path("/root/data") / name for name in names])
    folded = [str(source.key).casefold() for source in sources]
    assert len(set(folded)) == len(names)
    for source in sources:
        assert not source.key.is_absolute()
        assert ".." not in source.key.parts
        assert source.key != PurePosixPath()
