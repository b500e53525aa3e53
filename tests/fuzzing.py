"""Valid files of every readable kind, and small ways to spoil them: what the fuzz tests start from."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, PngImagePlugin

# (how, where, value): what is done to a file, at which place, with which number. Any numbers do.
Edit = tuple[str, int, int]
Span = tuple[int, int]

_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 2, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_LONGEST = 1 << 20  # bytes that an edited file may have


def pictures() -> dict[str, bytes]:
    """A small valid file of every form, by a name that ends in the format."""
    rgb = Image.fromarray(np.random.default_rng(8).integers(0, 256, (34, 45, 3), dtype=np.uint8))
    deep = Image.fromarray(np.random.default_rng(9).integers(0, 65536, (34, 45), dtype=np.uint16))
    pages = [rgb.rotate(90 * turn) for turn in range(3)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a camera"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    icc = bytes(range(128)) * 2
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "plain")
    text.add_text("Author", "packed " * 90, zip=True)
    text.add_itxt("Title", "Überschrift " * 90, zip=True)
    made: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "rgb.png": (rgb, {}),
        "deep.png": (deep, {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}),
        "alpha.png": (rgb.convert("RGBA"), {}),
        "bits.png": (rgb.convert("1"), {}),
        "chunks.png": (rgb, {"pnginfo": text, "icc_profile": icc, "exif": exif, "dpi": (300, 300)}),
        "animated.png": (rgb, {"save_all": True, "append_images": pages, "duration": 40}),
        "baseline.jpg": (rgb, {"exif": exif, "icc_profile": icc, "comment": "made by a test"}),
        "progressive.jpg": (rgb, {"progressive": True, "exif": exif}),
        "grey.jpg": (rgb.convert("L"), {"restart_marker_rows": 1}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"subsampling": 2}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (rgb.convert("P"), {}),
        "bits.bmp": (rgb.convert("1"), {}),
        "strips.tif": (rgb, {"strip_size": 1000, "exif": exif, "icc_profile": icc}),
        "tiles.tif": (rgb, {"tiffinfo": {322: 16, 323: 16}, "compression": "tiff_lzw"}),
        "deflate.tif": (rgb, {"compression": "tiff_adobe_deflate", "tiffinfo": {317: 2}}),
        "lzw.tif": (rgb.convert("P"), {"compression": "tiff_lzw"}),
        "packbits.tif": (rgb.convert("L"), {"compression": "packbits"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "fax.tif": (rgb.convert("1"), {"compression": "group4"}),
        "zstd.tif": (rgb, {"compression": "zstd"}),
        "deep.tif": (deep, {"compression": "tiff_lzw"}),
        "float.tif": (rgb.convert("F"), {}),
        "pages.tif": (rgb, {"save_all": True, "append_images": pages}),
        "big.tif": (rgb, {"big_tiff": True, "compression": "tiff_lzw"}),
        "lossy.webp": (rgb, {"exif": exif, "icc_profile": icc}),
        "lossless.webp": (rgb.convert("RGBA"), {"lossless": True}),
        "animated.webp": (rgb, {"save_all": True, "append_images": pages, "duration": 40}),
    }
    return {name: saved(image, name, options) for name, (image, options) in made.items()} | {
        "interlaced.png": interlaced_png(),
        "runs.bmp": run_length_bmp(),
    }


def saved(image: Image.Image, name: str, options: dict[str, object]) -> bytes:
    """The bytes of ``image`` saved in the format that ``name`` ends in."""
    stream = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name.rpartition(".")[2], name.rpartition(".")[2].upper())
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: tuple[bytes, bytes], width: int = 8, height: int = 8) -> bytes:
    """A valid 8-bit grey PNG with ``chunks``, by kind and content, before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    extra = b"".join(png_chunk(kind, content) for kind, content in chunks)
    return _PNG + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def interlaced_png() -> bytes:
    """An 8 x 8 grey PNG stored in seven passes."""
    passes = [(1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4)]
    pixels = b"".join(b"\0" + bytes(range(width)) for width, height in passes for _ in range(height))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    return _PNG + chunks


def run_length_bmp() -> bytes:
    """An 8 x 4 BMP with a palette and run lengths."""
    runs = bytes([8, 1, 0, 0, 0, 3, 1, 2, 3, 0, 5, 1, 0, 0, 0, 2, 1, 0, 7, 2, 0, 0, 8, 0, 0, 1])
    palette = bytes(range(256)) * 4
    info = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs


def spans(content: bytes) -> list[Span]:
    """The (start, end) of the parts a file is made of: chunks, segments or tags; none where it is not understood."""
    if content.startswith(_PNG):
        return list(_png_spans(content))
    if content.startswith(b"\xff\xd8"):
        return list(_jpeg_spans(content))
    if content.startswith(b"RIFF"):
        return list(_riff_spans(content))
    if content[:4] in (b"II*\0", b"MM\0*") and len(content) >= 8:
        return list(_tiff_spans(content))
    return [(0, 14), (14, 54)] if content.startswith(b"BM") else []


def _png_spans(content: bytes) -> Iterator[Span]:
    start = len(_PNG)
    while start + 12 <= len(content):
        end = start + 12 + struct.unpack_from(">I", content, start)[0]
        if end > len(content):
            return
        yield start, end
        start = end


def _jpeg_spans(content: bytes) -> Iterator[Span]:
    start = content.find(b"\xff", 2)
    while 0 <= start < len(content) - 4:
        length = struct.unpack_from(">H", content, start + 2)[0]
        yield start, min(start + 2 + length, len(content))
        start += 2 + length
        while 0 <= start < len(content) - 1 and (content[start] != 0xFF or content[start + 1] in (0, *range(208, 216))):
            start = content.find(b"\xff", start + 1)


def _riff_spans(content: bytes) -> Iterator[Span]:
    start = 12
    while start + 8 <= len(content):
        length = struct.unpack_from("<I", content, start + 4)[0]
        yield start, min(start + 8 + length + length % 2, len(content))
        start += 8 + length + length % 2


def _tiff_spans(content: bytes) -> Iterator[Span]:
    order = "<" if content.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    if start + 2 > len(content):
        return
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for index in range(min(count, 100)):
        entry = start + 2 + 12 * index
        if entry + 12 <= len(content):
            yield entry, entry + 12


def edited(content: bytes, edits: Sequence[Edit], others: Sequence[bytes] = ()) -> bytes:
    """``content`` after ``edits``. The checksums of a PNG's chunks are made to fit again, unless an edit forbids it."""
    stored = bytearray(content)
    for how, where, value in edits:
        if how != "no checksums" and stored:
            _EDITS[how](stored, where, value, others)
        del stored[_LONGEST:]
    if not any(how == "no checksums" for how, _, _ in edits):
        for start, end in _png_spans(bytes(stored)) if stored.startswith(_PNG) else ():
            stored[end - 4 : end] = struct.pack(">I", zlib.crc32(stored[start + 4 : end - 4]))
    return bytes(stored)


def _flip(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    stored[where % len(stored)] ^= 1 << value % 8


def _number(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    """Put an interesting number of 1, 2 or 4 bytes anywhere."""
    number, layout = _NUMBERS[value % len(_NUMBERS)], ("B", "<H", ">H", "<I", ">I")[value // 16 % 5]
    size = struct.calcsize(layout)
    start = where % len(stored)
    stored[start : start + size] = struct.pack(layout, number & (1 << 8 * size) - 1)


def _field(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    """Put such a number into the first bytes of a part, where lengths, sizes and counts are."""
    parts = spans(bytes(stored))
    start = parts[where % len(parts)][0] + where // 64 % 24 if parts else where % min(64, len(stored))
    _number(stored, start, value, others)


def _cut(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    del stored[where % len(stored) :]


def _drop(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    start, end = _part(stored, where)
    del stored[start:end]


def _repeat(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    start, end = _part(stored, where)
    stored[end:end] = stored[start:end] * (1, 2, 20, 300)[value % 4]


def _move(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    start, end = _part(stored, where)
    part = bytes(stored[start:end])
    del stored[start:end]
    to = _part(stored, value)[0] if stored else 0
    stored[to:to] = part


def _splice(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    """The end of another file."""
    other = others[value % len(others)] if others else bytes(stored)
    start = where % len(stored)
    stored[start:] = other[start % max(1, len(other)) :]


def _insert(stored: bytearray, where: int, value: int, others: Sequence[bytes]) -> None:
    start = where % len(stored)
    stored[start:start] = bytes([value % 256]) * (1 + value // 256 % 9)


def _part(stored: bytearray, where: int) -> Span:
    parts = spans(bytes(stored))
    if parts and where % 4:
        return parts[where // 4 % len(parts)]
    start = where % len(stored)
    return start, start + 1 + where // len(stored) % 32


_EDITS: dict[str, Callable[[bytearray, int, int, Sequence[bytes]], None]] = {
    "flip": _flip,
    "number": _number,
    "field": _field,
    "cut": _cut,
    "drop": _drop,
    "repeat": _repeat,
    "move": _move,
    "splice": _splice,
    "insert": _insert,
}
EDITS = (*_EDITS, "no checksums")
