"""Texture sources: the embedded set and folders, good and bad."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stlm_core.errors import UserError
from stlm_core.synthesis import textures as module
from stlm_core.synthesis.procedural import FAMILIES, procedural_texture
from stlm_core.synthesis.textures import FolderTextures, ProceduralTextures, draw_colouring, draw_texture, open_textures


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_make_varied_textures(family: str) -> None:
    made = [procedural_texture(family, np.random.default_rng(seed), 64) for seed in range(8)]
    assert all(texture.shape == (64, 64, 3) and texture.dtype == np.uint8 for texture in made)
    assert np.median([texture.std(axis=(0, 1)).max() for texture in made]) > 8  # structure, not a plain area
    assert len({texture.tobytes() for texture in made}) == len(made)
    np.testing.assert_array_equal(made[3], procedural_texture(family, np.random.default_rng(3), 64))


def test_the_embedded_set_has_every_family_and_is_always_the_same() -> None:
    first, second = ProceduralTextures(64), ProceduralTextures(64)
    assert len(first) == 16 * len(FAMILIES)
    assert len(FAMILIES) >= 12
    for number in (0, 5, len(first) - 1):
        np.testing.assert_array_equal(first.texture(number), second.texture(number))
    assert not np.array_equal(first.texture(0), first.texture(len(FAMILIES)))


def test_cached_textures_cannot_be_written() -> None:
    texture = ProceduralTextures(32).texture(0)
    with pytest.raises(ValueError, match="read-only"):
        texture[0, 0, 0] = 1


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHE_BYTES", 5 * 32 * 32 * 3)
    source = ProceduralTextures(32)
    first = source.texture(0).copy()
    for number in range(40):
        source.texture(number)
    assert source._cache._bytes == sum(item.nbytes for item in source._cache._items.values()) <= 5 * 32 * 32 * 3
    np.testing.assert_array_equal(source.texture(0), first)


def test_folder_is_read_recursively_and_shrunk(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (400, 200), (10, 200, 30)).save(tmp_path / "deep" / "er" / "a.PNG")
    Image.new("L", (50, 40), 77).save(tmp_path / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    source = open_textures(tmp_path, 100)
    assert len(source) == 2
    shapes = {source.texture(number).shape for number in range(2)}
    assert shapes == {(100, 200, 3), (40, 50, 3)}


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken", b"hello"])
def test_damaged_texture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png"):
        FolderTextures(tmp_path, 64).texture(0)


def test_missing_or_empty_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: synthesize\.textures"):
        open_textures(tmp_path / "nowhere", 64)
    with pytest.raises(UserError, match=r"synthesize\.textures holds no image"):
        open_textures(tmp_path, 64)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64), (300, 90)])
def test_draw_fills_the_image_whatever_the_textures_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    Image.new("RGB", shape[::-1], (120, 130, 140)).save(tmp_path / "t.png")
    source = open_textures(tmp_path, 64)
    drawn = draw_texture(source, np.random.default_rng(0), 64).at(np.arange(64 * 64))
    assert drawn.shape == (64 * 64, 3)
    assert (drawn == drawn[0]).all()  # a plain texture has no uncovered corner


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_pixels_looked_up_are_those_of_the_whole_texture_warped(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    drawn = draw_texture(ProceduralTextures(64), rng, 64)
    forth = cv2.invertAffineTransform(drawn.pose.astype(np.float64))
    whole = cv2.warpAffine(drawn.texture, forth, (64, 64), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    inside = np.flatnonzero(rng.random(64 * 64) < share)
    found = drawn.at(inside)
    assert found.shape == (len(inside), 3)
    levels = drawn.colouring.apply(whole).reshape(-1, 3)[inside]
    # The pose was inverted twice in between: a rounding may fall to the other side, which a steep curve magnifies.
    apart = np.abs(found.astype(int) - levels)
    assert apart.max(initial=0) <= 3
    assert np.count_nonzero(apart) <= 0.001 * apart.size + 3


def test_a_texture_longer_than_opencv_can_address_is_used(tmp_path: Path) -> None:
    Image.new("RGB", (40_000, 4), (120, 130, 140)).save(tmp_path / "t.png")
    drawn = draw_texture(open_textures(tmp_path, 64), np.random.default_rng(0), 64)
    assert drawn.at(np.array([0, 64 * 64 - 1])).shape == (2, 3)


def test_colours_vary() -> None:
    grey = np.full((4, 4, 3), 128, np.uint8)
    levels = np.array([draw_colouring(np.random.default_rng(seed)).apply(grey)[0, 0] for seed in range(200)], float)
    assert levels.mean(axis=1).min() < 70
    assert levels.mean(axis=1).max() > 180
    assert np.ptp(levels, axis=1).mean() > 10  # tinted


def test_threads_share_a_source() -> None:
    source, wrong = ProceduralTextures(32), []
    expected = [ProceduralTextures(32).texture(number) for number in range(20)]

    def read() -> None:
        for number in range(20):
            if not np.array_equal(source.texture(number), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
