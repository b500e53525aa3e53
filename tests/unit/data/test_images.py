"""Decoding: every stored form of an image, and every damaged one."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stlm_core.data.images import image_size, mask_sha256, read_image, read_mask, resize_to
from stlm_core.data.probe import probe_image
from stlm_core.errors import UserError
from stlm_core.files import sha256_file

SIGNATURES = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM"]
PIXELS = np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header announces a size and whose pixel data is one empty chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_rgb_and_grey_are_decoded_exactly(tmp_path: Path) -> None:
    assert np.array_equal(read_image(save(Image.fromarray(PIXELS), tmp_path / "a.png")), PIXELS)
    grey = read_image(save(Image.fromarray(PIXELS[..., 0]), tmp_path / "b.png"))
    assert np.array_equal(grey, np.repeat(PIXELS[..., :1], 3, axis=2))
    assert grey.flags.writeable


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(PIXELS), tmp_path / f"a.{suffix}", exif=exif)
    expected = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS, -1),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PIXELS),
    }[orientation]
    assert np.array_equal(read_image(path), expected)
    facts = probe_image(path)
    assert (facts.height, facts.width) == expected.shape[:2]


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    rgba = np.full((2, 2, 4), 200, np.uint8)
    rgba[0, 0, 3] = 0
    rgba[1, 1, 3] = 255
    image = read_image(save(Image.fromarray(rgba), tmp_path / "a.png"))
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[1, 1].tolist() == [200, 200, 200]
    assert abs(int(image[0, 1, 0]) - 200 * 200 / 255) <= 1


def test_transparent_palette_and_grey_alpha(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert read_image(save(palette, tmp_path / "p.png"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert read_image(save(palette, tmp_path / "t.png", transparency=1))[0].tolist() == [[10, 20, 30], [0, 0, 0]]
    grey_alpha = Image.merge("LA", [Image.new("L", (1, 1), 80), Image.new("L", (1, 1), 0)])
    assert read_image(save(grey_alpha, tmp_path / "la.png"))[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_spans_the_whole_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert probe_image(path).mode == "I;16"
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_cmyk_one_bit_and_one_pixel(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), tmp_path / "a.tif")
    assert probe_image(path).mode == "CMYK"
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]
    assert read_image(save(Image.new("1", (1, 1), 1), tmp_path / "b.png")).tolist() == [[[255, 255, 255]]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff")
    assert read_image(path).shape == PIXELS.shape


def test_probe_reports_the_file(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png")
    facts = probe_image(path)
    assert (facts.width, facts.height, facts.mode, facts.bytes) == (9, 6, "RGB", path.stat().st_size)
    assert len(facts.sha256) == 64


def truncated(path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def flipped(path: Path) -> None:
    """One bit of the compressed pixel data changed."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "PNG", compress_level=0)
    content = bytearray(buffer.getvalue())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text renamed to png": (lambda path: path.write_text("hello"), "not an image in a known format"),
    "a PNG signature alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "image"),
    "truncated PNG": (lambda path: truncated(path, "PNG"), "damaged or truncated"),
    "truncated JPEG": (lambda path: truncated(path, "JPEG"), "damaged or truncated"),
    "truncated TIFF": (lambda path: truncated(path, "TIFF"), "damaged or truncated|not an image"),
    "truncated WebP": (lambda path: truncated(path, "WEBP"), "damaged or truncated|not an image"),
    "bit flip in a PNG": (flipped, "damaged or truncated"),
    "no pixel data": (lambda path: path.write_bytes(png_header(8, 8)), "damaged or truncated"),
    "20000 x 20000 bomb": (lambda path: path.write_bytes(png_header(20_000, 20_000)), "pixels"),
    "12000 x 9000 bomb": (lambda path: path.write_bytes(png_header(12_000, 9_000)), "12000 x 9000 pixels"),
    "a GIF": (lambda path: Image.new("L", (4, 4)).save(path, "GIF"), "not an image in a known format"),
    "floating point": (lambda path: Image.new("F", (4, 4)).save(path, "TIFF"), "pixel format F"),
    "32 bit": (lambda path: Image.new("I", (4, 4), 70_000).save(path, "TIFF"), "outside 0..65535"),
    "a folder": (Path.mkdir, "cannot be read|not a regular file"),
    "a FIFO": (os.mkfifo, "not a regular file"),
    "missing": (lambda path: None, "cannot be read: No such file"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    make, reason = BAD_FILES[name]
    path = tmp_path / "bad.png"
    make(path)
    for read in (probe_image, read_image):
        with pytest.raises(UserError, match=reason) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert "\n" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        read_image(path)


def test_pixel_limit_is_that_of_the_caller(tmp_path: Path) -> None:
    path = save(Image.fromarray(PIXELS), tmp_path / "a.png")
    assert read_image(path, max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(UserError, match="9 x 6 pixels"):
        read_image(path, max_pixels=53)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), signature=st.sampled_from(SIGNATURES))
def test_random_bytes_never_escape_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, signature: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.png"
    path.write_bytes(signature + content)
    with pytest.raises(UserError):
        read_image(path)


def test_mask_rule_is_above_zero_before_any_scaling(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255]], np.uint8)
    assert read_mask(save(Image.fromarray(values), tmp_path / "l.png"), (1, 3)).tolist() == [[False, True, True]]
    deep = np.array([[0, 1, 65535]], np.uint16)
    assert read_mask(save(Image.fromarray(deep), tmp_path / "i.png"), (1, 3)).tolist() == [[False, True, True]]
    colour = np.zeros((1, 3, 3), np.uint8)
    colour[0, 1, 2] = 1
    assert read_mask(save(Image.fromarray(colour), tmp_path / "c.png"), (1, 3)).tolist() == [[False, True, False]]
    assert read_mask(save(Image.new("1", (3, 1), 1), tmp_path / "b.png"), (1, 3)).all()


def test_mask_of_wrong_size_names_both(tmp_path: Path) -> None:
    path = save(Image.new("L", (3, 2)), tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: the mask is 3 x 2 pixels, its image .*a\.png is 2 x 3"):
        read_mask(path, (3, 2), image=tmp_path / "a.png")


def test_folder_of_masks_is_their_union(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.PNG")):
        values = np.zeros((2, 3), np.uint8)
        values[0, number] = 1
        save(Image.fromarray(values), folder / name, format="PNG")
    (folder / "notes.txt").write_text("not a mask")
    (folder / ".a.png").write_bytes(b"left by an operating system")
    assert read_mask(folder, (2, 3)).tolist() == [[True, True, False], [False, False, False]]
    whole = mask_sha256(folder)
    assert mask_sha256(folder / "a.png") == sha256_file(folder / "a.png")
    save(Image.new("L", (4, 2)), folder / "c.png")
    with pytest.raises(UserError, match=r"c\.png: the mask is 4 x 2 pixels"):
        read_mask(folder, (2, 3))
    assert mask_sha256(folder) != whole


def test_folder_without_a_mask(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a mask")
    with pytest.raises(UserError, match="no mask in the folder"):
        read_mask(tmp_path, (2, 3))
    with pytest.raises(UserError, match="no such file or folder"):
        mask_sha256(tmp_path / "missing")


def test_image_size_is_upright_and_decodes_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(PIXELS), tmp_path / "a.jpg", exif=exif)
    assert image_size(path) == (6, 9)
    path.write_bytes(path.read_bytes()[:-40])
    assert image_size(path) == (6, 9)
    with pytest.raises(UserError, match="9 x 6 pixels"):
        image_size(path, max_pixels=53)


def test_jpeg_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.new("L", (8, 8)).save(path, "JPEG")
    with pytest.raises(UserError, match="no exact edges"):
        read_mask(path, (8, 8))


@pytest.mark.parametrize("shape", [(320, 320), (100, 37), (17, 300), (1, 1), (512, 700)])
@pytest.mark.parametrize("size", [64, 256])
def test_resize_is_torchs_antialiased_bilinear_within_one_level(shape: tuple[int, int], size: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        planes, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    levels = np.rint(expected[0].permute(1, 2, 0).numpy())
    assert np.abs(resize_to(image, size) - levels).max() <= 1


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(resize_to(image, 64), image)
