"""Valid files, spoilt at random: every reader gives a well-formed result or one printable sentence."""

from __future__ import annotations

import functools
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fuzzing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import stlm_core.data.facts as facts_module
from stlm_core.config import load_line
from stlm_core.data.adapters import find_adapter
from stlm_core.data.adapters.base import printable
from stlm_core.data.catalog import Catalog, CatalogRow
from stlm_core.data.drift import STATISTICS, TrainingStatistics, compare, describe
from stlm_core.data.facts import FactStore
from stlm_core.data.groups import group_finder
from stlm_core.data.images import image_size, read_image, read_mask
from stlm_core.data.inspection import Inspected
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.data.probe import ImageFacts, probe_image
from stlm_core.errors import UserError

# Remarks of Pillow are warnings here, because pytest undoes the filter; a test below looks at a real process.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
EDITS = st.lists(
    st.tuples(st.sampled_from(fuzzing.EDITS), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=5,
)
WORDS = ("\x1b[31m", "1e999", "NaN", "null", "true", "-1", "[]", "{}", "\\ud800")
LONG_WORDS = ("9" * 400, "9" * 5000, "[" * 3000, '{"a":' * 3000, "x" * 200_000)
TEXTS = st.sampled_from([*"\0\n\r\",'-~|\ufeff\u2028", *WORDS, *LONG_WORDS])
# Pieces of text put at places, after which the bytes are edited.
TEXT_EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 30), TEXTS), max_size=3)
QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
THOROUGH = settings(QUICK, derandomize=False)
LONGEST = 3000  # characters of a sentence, most of which are a value that is shown


@functools.cache
def pictures() -> dict[str, bytes]:
    return fuzzing.pictures()


PICTURES = st.sampled_from(sorted(pictures()))


def check_picture(folder: Path, content: bytes) -> None:
    file = folder / "spoilt.png"
    file.write_bytes(content)
    started = time.monotonic()
    for read in (read_image, probe_image, image_size, lambda path: read_mask(path, (34, 45))):
        found = result_or_sentence(file, read)
        if isinstance(found, ImageFacts):
            assert found.width >= 1
            assert found.height >= 1
            assert all(0 <= value <= 1 for value in (found.brightness, found.contrast, found.saturated))
        elif read is read_image and isinstance(found, np.ndarray):
            assert found.dtype == np.uint8
            assert found.ndim == 3
            assert found.shape[2] == 3
            assert min(found.shape) >= 1
    assert time.monotonic() - started < 30


def result_or_sentence(file: Path, read: Callable[[Path], object]) -> object:
    """What ``read`` returns, or None after an error that names the file or its folder in one line."""
    try:
        return read(file)
    except UserError as error:
        sentence = str(error)
        assert printable(sentence) == sentence
        assert sentence.startswith(str(file.parent))
        assert len(sentence) < LONGEST
        return None


def spoilt(content: bytes, texts: list[tuple[int, int, str]], edits: list[fuzzing.Edit]) -> bytes:
    for where, length, text in texts:
        start = where % (len(content) + 1)
        content = content[:start] + text.encode() + content[start + length :]
    return fuzzing.edited(content, edits, [content])


def test_the_files_to_spoil_are_valid(tmp_path: Path) -> None:
    for name, content in pictures().items():
        file = tmp_path / name
        file.write_bytes(content)
        if name == "float.tif":
            assert read_mask(file, (34, 45)).shape == (34, 45)
        else:
            assert read_image(file).std() > 0, name
        assert fuzzing.spans(content) or name == "big.tif"


@settings(QUICK, max_examples=500)
@given(PICTURES, EDITS)
def test_spoilt_images(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, edits: list[fuzzing.Edit]) -> None:
    check_picture(tmp_path, fuzzing.edited(pictures()[name], edits, list(pictures().values())))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@settings(THOROUGH, max_examples=15_000)
@given(PICTURES, EDITS)
def test_many_spoilt_images(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, edits: list[fuzzing.Edit]
) -> None:
    check_picture(tmp_path, fuzzing.edited(pictures()[name], edits, list(pictures().values())))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", sorted(pictures()))
def test_an_image_cut_off_anywhere(tmp_path: Path, name: str) -> None:
    content = pictures()[name]
    for length in sorted({*range(1, 30, 3), *range(30, len(content), 1 + len(content) // 12)}):
        check_picture(tmp_path, content[:length])


def in_new_process(program: str, *arguments: Path) -> tuple[str, str]:
    """Standard output and standard error of a program that ends well."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


READ_ALL = """
import sys
from pathlib import Path
from stlm_core.data.images import read_image
from stlm_core.data.probe import probe_image
from stlm_core.errors import UserError

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = resident()
for file in sorted(Path(sys.argv[1]).iterdir()):
    for read in (read_image, probe_image):
        try:
            read(file)
            said = "read"
        except UserError as error:
            said = str(error).split(": ", 1)[1]
    print(file.name, said, sep=": ")
print((resident() - before) // 1024)
"""


def test_decoders_say_nothing_on_standard_error(tmp_path: Path) -> None:
    noisy = [
        ("deflate.tif", 1500, "damaged"),  # libtiff prints that the checksum is wrong
        ("fax.tif", 60, ""),  # libtiff prints a bad code word and goes on
        ("jpeg.tif", 700, ""),
        ("lzw.tif", 300, ""),
    ]
    for name, place, _ in noisy:
        content = bytearray(pictures()[name])
        content[place : place + 8] = b"\xff\xab" * 4
        (tmp_path / name).write_bytes(content)
    (tmp_path / "samples.tif").write_bytes(  # Pillow logs that there are too many
        pictures()["strips.tif"].replace(b"\x15\x01\x03\0\x01\0\0\0\x03", b"\x15\x01\x03\0\x01\0\0\0\x80")
    )
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff"  # Pillow warns
    Image.new("RGB", (40, 40), "red").save(tmp_path / "exif.jpg", exif=exif)
    Image.new("1", (9600, 9600)).save(tmp_path / "large.png")  # allowed, but Pillow takes it for a bomb
    output, errors = in_new_process(READ_ALL, tmp_path)
    assert errors == ""
    assert "large.png: read" in output
    assert "exif.jpg: read" in output
    assert "deflate.tif: damaged or truncated image" in output


def test_a_jpeg_with_further_pictures_is_no_mask_either(tmp_path: Path) -> None:
    picture = Image.new("L", (8, 8), 255)
    picture.save(tmp_path / "m.png", "MPO", save_all=True, append_images=[picture])
    with pytest.raises(UserError, match="a JPEG mask has no exact edges"):
        read_mask(tmp_path / "m.png", (8, 8))
    assert read_image(tmp_path / "m.png").shape == (8, 8, 3)


def repeated(content: bytes, marker: bytes, times: int) -> bytes:
    """A JPEG with the part that begins at the last ``marker`` many times."""
    start = content.rindex(marker)
    return content[:-2] + content[start:-2] * times + content[-2:]


def tiff(*tags: tuple[int, int, int]) -> bytes:
    """A grey 8 x 8 TIFF, deflated, with ``tags`` (number, count, value) of 4 bytes."""
    packed = zlib.compress(bytes(1 << 20))
    usual = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    entries = {number: (1, value) for number, value in usual.items()} | {tag: rest for tag, *rest in tags}
    pack = struct.pack
    table = b"".join(pack("<HHII", tag, 4, *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + pack("<I", 8 + len(packed)) + packed + pack("<H", len(entries)) + table + bytes(4)


def run_lengths(width: int, height: int) -> bytes:
    """A BMP whose first row is left out."""
    content = bytearray(fuzzing.run_length_bmp())
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def animation(side: int, frames: int) -> bytes:
    """A WebP of many small frames on a large canvas."""
    small = fuzzing.saved(Image.new("RGB", (8, 8)), "x.webp", {"lossless": True})[12:]
    pack = struct.pack
    canvas = pack("<I", 2) + 2 * pack("<I", side - 1)[:3]
    frame = bytes(6) + 2 * b"\7\0\0" + b"\x0a\0\0\0" + small
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6))] + [(b"ANMF", frame)] * frames
    body = b"".join(kind + pack("<I", len(content)) + content for kind, content in chunks)
    return b"RIFF" + pack("<I", 4 + len(body)) + b"WEBP" + body


def bombs() -> Iterator[tuple[str, bytes, str]]:
    zeros = zlib.compress(bytes(200 << 20), 9)
    packed = zlib.compress(bytes(900 << 10), 9)
    too_large = "damaged or truncated image: Decompressed data too large"
    yield "text.png", fuzzing.png((b"zTXt", b"a\0\0" + zeros)), too_large
    yield "title.png", fuzzing.png((b"iTXt", b"a\0\1\0\0\0" + zeros)), too_large
    yield "profile.png", fuzzing.png((b"iCCP", b"a\0\0" + zeros)), too_large
    texts = [(b"zTXt", b"a%d\0\0" % number + packed) for number in range(100)]
    yield "texts.png", fuzzing.png(*texts), "damaged or truncated image: Too much memory used"
    many = "a JPEG of more parts than any camera writes; save it again"
    jpeg = pictures()["progressive.jpg"]
    yield "scans.jpg", repeated(jpeg, b"\xff\xda", 200), many
    yield "exif.jpg", jpeg[:2] + (b"\xff\xe1\0\x0aExif\0\0\0\0") * 200_000 + jpeg[2:], many
    yield "preview.jpg", jpeg[:2] + b"\xff\xe2\xff\x02" + b"\xff\xda" * 32640 + jpeg[2:], "read"
    yield "film.jpg", jpeg + b"\xff\xda\0\x02" * 1000, "read"
    yield "rows.bmp", run_lengths(30_000_000, 2), "30000000 x 2 pixels are too many for run lengths; save it as PNG"
    yield "tile.tif", tiff((322, 1, 60_000), (323, 1, 60_000), (324, 1, 8), (325, 1, 900)), "damaged"
    yield "tiles.tif", tiff((322, 1, 1 << 31), (323, 1, 1 << 31), (324, 1, 8), (325, 1, 900)), "damaged"
    yield "strip.tif", tiff((256, 1, 9000), (257, 1, 9000), (278, 1, 0xFFFFFFFF)), "damaged"
    yield "tag.tif", tiff((40_000, 0x0FFFFFFF, 8)), "read"
    yield "canvas.webp", animation(16_384, 1), "268435456 pixels is more than `data.max_pixels`"
    yield "frames.webp", animation(64, 100_000), "read"


def test_bombs_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    expected = {}
    for name, content, said in bombs():
        (tmp_path / name).write_bytes(content)
        expected[name] = said
    started = time.monotonic()
    output, errors = in_new_process(READ_ALL, tmp_path)
    *lines, grown = output.splitlines()
    assert errors == ""
    for line in lines:
        name, said = line.split(": ", 1)
        assert said.startswith(expected.pop(name)), line
    assert not expected
    assert int(grown) < 400  # MiB; the largest of the files would take gigabytes
    assert time.monotonic() - started < 60


SHA = "a" * 64
MEASURED = Inspected(
    "a.png", "train", 0, "good", "", "", width=48, height=40, brightness=0.4, contrast=0.2, sharpness=30.0
)
ROW = CatalogRow("a.png", "train", 0, "good", "", "part 1", SHA, "", 0)
DEFECT = CatalogRow("b.png", "test", 1, "dent", "m/b.png", "", SHA, SHA, 2)
MANIFEST = [
    ManifestRow(f"{n:03d}.png", "test", n % 2, "good", "", "g", SHA, 10, 4, 3, "RGB", "", "0f" * 8, 0.1, 0.2, 3e5, 0.3)
    for n in range(20)
]


def parquet(**columns: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def reference() -> bytes:
    return json.dumps(TrainingStatistics.of([MEASURED] * 3).to_json()).encode()


def read_groups(file: Path) -> object:
    params = file.with_name("params.yaml")
    line = {"data": {"path": ".", "group_file": file.name}}
    params.write_text(json.dumps({"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": line}}))
    return group_finder(load_line(params, "line"))("a.png")


def read_reference(file: Path) -> object:
    statistics = TrainingStatistics.read(file)
    drifts = compare(statistics, [MEASURED] * 4)
    assert [drift.statistic for drift in drifts] == list(STATISTICS)
    for drift in drifts:
        assert printable(describe(drift)) == describe(drift)
        assert np.isfinite([drift.distance, drift.outside]).all()
    return statistics


READERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object]]] = {
    "catalogue": ("catalog.csv", Catalog.of([ROW, DEFECT, replace(ROW, path="c.png")]).to_bytes, Catalog.read),
    "groups": ("groups.csv", lambda: b"path,group\na.png,1\nb.png,2\n", read_groups),
    "manifest": ("manifest.parquet", Manifest(Path(), tuple(MANIFEST)).to_bytes, lambda f: Manifest.read(f, f.parent)),
    "reference": ("reference.json", reference, read_reference),
    "table": ("t.csv", lambda: b"path,label,group\na.png,0,g\nb.png,1,h\n", lambda f: find_adapter("table").scan(f)),
    "parquet table": (
        "t.parquet",
        lambda: parquet(path=["a.png", "b.png"], label=["0", "1"], group=["g", "h"]),
        lambda file: find_adapter("table").scan(file),
    ),
}


def check_reader(kind: str, folder: Path, texts: list[tuple[int, int, str]], edits: list[fuzzing.Edit]) -> None:
    name, make, read = READERS[kind]
    file = folder / name
    file.write_bytes(spoilt(make(), texts, edits))
    result_or_sentence(file, read)


@pytest.mark.parametrize("kind", sorted(READERS))
def test_the_tables_to_spoil_are_valid(tmp_path: Path, kind: str) -> None:
    name, make, read = READERS[kind]
    (tmp_path / name).write_bytes(make())
    for image in ("a.png", "b.png"):
        (tmp_path / image).write_bytes(b"never decoded")
    assert read(tmp_path / name)


@pytest.mark.parametrize("kind", sorted(READERS))
@QUICK
@given(texts=TEXT_EDITS, edits=st.just([]) | EDITS)
def test_spoilt_tables(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    texts: list[tuple[int, int, str]],
    edits: list[fuzzing.Edit],
) -> None:
    check_reader(kind, tmp_path, texts, edits)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(READERS))
@settings(THOROUGH, max_examples=4000)
@given(texts=TEXT_EDITS, edits=st.just([]) | EDITS)
def test_many_spoilt_tables(
    tmp_path: Path, kind: str, texts: list[tuple[int, int, str]], edits: list[fuzzing.Edit]
) -> None:
    check_reader(kind, tmp_path, texts, edits)


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FactStore, bytes]:
    """A store of two images' facts, and its file's bytes."""
    monkeypatch.setattr(facts_module, "_UNSETTLED_NS", 0)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    time.sleep(0.02)
    store = FactStore(tmp_path, tmp_path / "memory" / "facts.parquet")
    for seed in range(2):
        store.image(f"{seed}.png")
        store.mask(f"{seed}.png", (8, 9))
    store.save()
    return store, (tmp_path / "memory" / "facts.parquet").read_bytes()


def check_facts(known: FactStore, stored: bytes) -> None:
    file = known.root / "memory" / "spoilt.parquet"
    file.write_bytes(stored)
    store = FactStore(known.root, file)
    for seed in range(2):
        assert store.image(f"{seed}.png") == known.image(f"{seed}.png")
        assert store.mask(f"{seed}.png", (8, 9)) == known.mask(f"{seed}.png", (8, 9))


@QUICK
@given(edits=EDITS)
def test_spoilt_facts_are_measured_again(
    remembered: tuple[FactStore, bytes], capfd: pytest.CaptureFixture[str], edits: list[fuzzing.Edit]
) -> None:
    store, content = remembered
    check_facts(store, fuzzing.edited(content, edits, [content]))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@settings(THOROUGH, max_examples=5000)
@given(edits=EDITS)
def test_many_spoilt_facts_are_measured_again(remembered: tuple[FactStore, bytes], edits: list[fuzzing.Edit]) -> None:
    store, content = remembered
    check_facts(store, fuzzing.edited(content, edits, [content]))
