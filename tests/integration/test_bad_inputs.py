"""Bad input, as a catalogue: one clear sentence naming the file or setting, the right exit code, nothing lost."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import (
    DENT,
    GOOD,
    MASKS,
    BadInput,
    both,
    edit,
    flat_png,
    image,
    in_place_of,
    make_project,
    noise,
    not_root,
    remove,
    rotated,
    setting,
    write,
)
from PIL import Image

from stlm_core.cli.main import main
from stlm_core.steps.line_add import NewLine, add_line

ADD_CAPS = ("lines", "add", "caps", "--from", "images")
FIRST, MASK, PHOTO = GOOD / "000.png", MASKS / "000_mask.png", DENT / "000.png"
JPEG = GOOD / "000.jpg"
# What a refused command may leave behind: its report, its locks, and what it remembers of files it has read.
LEFT = re.compile(r"outputs/[^/]+/(validate-failed/|\.)|\.stlm/")


def imported(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    """Spoil a second line, ``caps``, with copied images and a catalogue."""

    def make(root: Path) -> None:
        add_line(root / "params.yaml", NewLine("caps", root / "images"))
        spoil(root)

    return make


def grey(value: int, mode: str = "L") -> Image.Image:
    return Image.fromarray(np.full((40, 48), value, np.uint16 if mode == "I;16" else np.uint8))


FILES = [
    BadInput("random bytes", write(FIRST, bytes(range(256))), "train/good/000.png (not an image in a known format"),
    BadInput("empty file", write(FIRST, b""), "train/good/000.png (the file is empty)"),
    BadInput("text", write(FIRST, b"<svg xmlns='x'/>"), "train/good/000.png (not an image in a known format"),
    BadInput("half a png", edit(FIRST, lambda png: png[: len(png) // 2]), "train/good/000.png (damaged or truncated"),
    BadInput(
        "one flipped bit",
        edit(FIRST, lambda png: png[:900] + bytes([png[900] ^ 8]) + png[901:]),
        "train/good/000.png (damaged or truncated",
    ),
    BadInput(
        "half a jpeg",
        both(image(JPEG, lambda: noise(7, 400, 400)), edit(JPEG, lambda jpeg: jpeg[: len(jpeg) // 2])),
        "train/good/000.jpg (damaged or truncated",
    ),
    BadInput(
        "gif inside", image(FIRST, lambda: noise(7).convert("P"), format="GIF"), "000.png (not an image in a known"
    ),
    BadInput("16-bit grey", image(FIRST, lambda: grey(40_000, "I;16")), "train/good/000.png (I;16"),
    BadInput("cmyk", image(JPEG, lambda: noise(7).convert("CMYK")), "train/good/000.jpg (mode CMYK)"),
    BadInput("alpha", image(FIRST, lambda: noise(7).convert("RGBA")), "train/good/000.png (mode RGBA)"),
    BadInput("palette", image(FIRST, lambda: noise(7).convert("P")), "train/good/000.png (mode P)"),
    BadInput(
        "floats", image(GOOD / "000.tif", lambda: noise(7).convert("F")), "000.tif (pixel format F is not supported"
    ),
    BadInput("grey among colour", image(FIRST, lambda: noise(7).convert("L")), "train/good/000.png (L, not RGB)"),
    BadInput(
        "1 x 1",
        image(FIRST, lambda: noise(7, 1, 1)),
        "train/good/000.png (1 x 1 pixels, sides of at least 32 are needed)",
    ),
    BadInput(
        "20,000 x 20,000",
        lambda root: (root / FIRST).write_bytes(flat_png(20_000, 20_000)),
        "train/good/000.png (400000000 pixels is more than `data.max_pixels` = 100000000)",
    ),
    BadInput(
        "12,000 x 10,000",
        lambda root: (root / FIRST).write_bytes(flat_png(12_000, 10_000)),
        "train/good/000.png (12000 x 10000 pixels is more than `data.max_pixels` = 100000000)",
    ),
    BadInput(
        "blank", image(FIRST, lambda: Image.new("RGB", (48, 40), "black")), "train/good/000.png (contrast 0.0000)"
    ),
    BadInput("a fifo", in_place_of(FIRST, os.mkfifo), "train/good/000.png (not a regular file)"),
    BadInput(
        "a link outside",
        in_place_of(FIRST, lambda path: path.symlink_to("/etc/hostname")),
        "train/good/000.png (a link out of the folder, to /etc/hostname; copy the file instead)",
    ),
    BadInput("a dead link", in_place_of(FIRST, lambda path: path.symlink_to("x")), "000.png (a link to nothing)"),
    BadInput("a loop", in_place_of(FIRST, lambda path: path.symlink_to(path)), "000.png (a link to nothing)"),
    BadInput(
        "a linked folder",
        lambda root: (root / GOOD / "more").symlink_to(root / DENT),
        "train/good/more (a link to a folder; put the images there or point --from at its target)",
    ),
    BadInput(
        "a line feed in a name",
        lambda root: noise(7).save(root / GOOD / "a\nb.png"),
        r"train/good/a\nb.png (control or undecodable characters in the name; rename the file)",
    ),
    BadInput(
        "a name that is not utf-8",
        lambda root: Path(os.fsdecode(bytes(root / GOOD) + b"/\xff.png")).write_bytes(b"x"),
        r"train/good/\udcff.png (control or undecodable characters in the name; rename the file)",
    ),
    BadInput(
        "no permission",
        lambda root: (root / FIRST).chmod(0),
        "train/good/000.png (cannot be read: Permission denied)",
        needs=not_root,
    ),
    BadInput("no images", lambda root: [file.unlink() for file in (root / GOOD).iterdir()], "no good training images"),
    BadInput("no folder", remove("images"), "{root}/images: no such folder"),
    BadInput(
        "another layout", remove("images/train"), "{root}/images: no folder train/good, neither here nor in a subfolder"
    ),
    BadInput("a file as folder", both(remove("images"), write("images", b"x")), "{root}/images: not a folder"),
]
TRUTH = [
    BadInput(
        "mask without image", remove(PHOTO), "ground_truth/dent/000_mask.png (mask without its image test/dent/000.*"
    ),
    BadInput("defect without mask", remove(MASK), "test/dent/000.png (no mask)"),
    BadInput(
        "mask of another size",
        image(MASK, lambda: Image.new("L", (48, 41), 255)),
        "test/dent/000.png (ground_truth/dent/000_mask.png: the mask is 48 x 41 pixels, its image is 48 x 40)",
    ),
    BadInput("mask beside a turned photograph", rotated(6), "the mask is 48 x 40 pixels, its image is 40 x 48)"),
    BadInput(
        "black mask", image(MASK, lambda: grey(0)), "ground_truth/dent/000_mask.png: no pixel of the mask is above 0"
    ),
    BadInput("jpeg mask", image(MASK, lambda: grey(255), format="JPEG"), "a JPEG mask has no exact edges"),
    BadInput("damaged mask", edit(MASK, lambda png: png[:60]), "000_mask.png: damaged or truncated image"),
    BadInput(
        "two images of one mask",
        image(DENT / "000.jpg", lambda: noise(7)),
        "2 images are named 000.*, so their mask is ambiguous",
    ),
    BadInput(
        "training image in test", image("images/test/good/9.png", lambda: noise(3)), "same bytes as test/good/9.png"
    ),
    BadInput(
        "good and defective", image(DENT / "000.png", lambda: noise(100)), "No image is both good and anomalous: no"
    ),
    BadInput(
        "too few images", lambda root: [(root / GOOD / f"{i:03d}.png").unlink() for i in range(9)], "at least 20 good"
    ),
    BadInput("part on both sides", setting("data", "group_pattern", r"0(\d\d)\.png"), "same part as test/"),
    BadInput(
        "image without a part", setting("data", "group_pattern", r"lot(\d)"), "`data.group_file` gives it no group"
    ),
]
SETTINGS = [
    BadInput("no params.yaml", remove("params.yaml"), "params.yaml: no such file; run from the project folder"),
    BadInput("not yaml", write("params.yaml", b"lines: [\n"), "params.yaml: not valid YAML (line 2)"),
    BadInput(
        "a date there is not", write("params.yaml", b"defaults: 2001-99-99\n"), "params.yaml: not valid YAML: month"
    ),
    BadInput(
        "a setting twice",
        edit("params.yaml", lambda text: text.replace(b"path:", b"path: elsewhere\n      path:")),
        "(line 9): the key `path` is there twice",
    ),
    BadInput(
        "a setting twice in a file to be edited",
        edit("params.yaml", lambda text: text.replace(b"path:", b"path: elsewhere\n      path:")),
        "(line 9): the key `path` is there twice",
        ADD_CAPS,
    ),
    BadInput(
        "line that is a text",
        write("params.yaml", b"defaults: {}\nprofiles: {fast: {}}\nlines: {line: x}\n"),
        "lines.line: not a mapping of settings",
    ),
    BadInput("path that is none", setting("data", "path", "~nobody-here/x"), "'~nobody-here/x' is not a path"),
    BadInput("no lines", write("params.yaml", b"defaults: {}\nprofiles: {}\n"), "needs a mapping `lines`"),
    BadInput("bytes that are no text", write("params.yaml", b"\xff\xfe\x00"), "params.yaml: cannot be read"),
    BadInput("misspelt", setting("data", "formt", "mvtec"), "lines.line: `data.formt`: Extra inputs are not permitted"),
    BadInput(
        "unknown format", setting("data", "format", "mvtek"), "lines.line: `data.format`: Input should be 'mvtec'"
    ),
    BadInput(
        "wrong type", setting("distill", "steps", "many"), "lines.line: `distill.steps`: Input should be a valid int"
    ),
    BadInput(
        "out of range",
        setting("synthesize", "beta_max", 1.5),
        "lines.line: `synthesize.beta_max`: Input should be less",
    ),
    BadInput("unknown line", lambda root: None, "no line `caps` (known: line)", ("validate", "--line", "caps")),
    BadInput("line name as path", lambda root: None, "no line `../x`", ("validate", "--line", "../x")),
    BadInput("bad pattern", setting("data", "group_pattern", "("), "group_pattern is not a regular expression"),
    BadInput("no group table", setting("data", "group_file", "parts.csv"), "parts.csv: "),
]
IMPORTED = Path("data/lines/caps")
CATALOG = IMPORTED / "catalog.csv"
VALIDATE_CAPS, UPDATE_CAPS = ("validate", "--line", "caps"), ("lines", "update", "caps")
IMPORTS = [
    BadInput(
        "catalogue edited by hand",
        imported(edit(CATALOG, lambda text: text.rsplit(b"\n", 2)[0] + b"\n")),
        "data/lines/caps/catalog.csv: not the catalogue that `data.catalog_sha256` names",
        VALIDATE_CAPS,
    ),
    BadInput(
        "catalogue that leads out",
        imported(edit(CATALOG, lambda text: text.replace(b"train/good/000.png", b"../../../etc/passwd", 1))),
        "data/lines/caps/catalog.csv: row 8: a path that leaves the line's folder",
        VALIDATE_CAPS,
    ),
    BadInput("no catalogue", imported(remove(CATALOG)), "data/lines/caps/catalog.csv: no such file", VALIDATE_CAPS),
    BadInput(
        "damaged catalogue", imported(write(CATALOG, b"\xff\x00")), "catalog.csv: cannot be read as CSV", VALIDATE_CAPS
    ),
    BadInput(
        "catalogued image changed",
        imported(image(IMPORTED / "images" / "train/good/003.png", lambda: noise(77))),
        "train/good/003.png (its bytes have changed since it was catalogued",
        VALIDATE_CAPS,
    ),
    BadInput(
        "catalogued image gone",
        imported(remove(IMPORTED / "images" / "train/good/003.png")),
        "train/good/003.png (cannot be read: No such file or directory)",
        VALIDATE_CAPS,
    ),
    BadInput(
        "all images gone",
        imported(remove(IMPORTED / "images")),
        "data/lines/caps/images: no such folder; `stlm data pull --line caps` brings",
        VALIDATE_CAPS,
    ),
    BadInput("source gone", imported(remove("images")), "{root}/images: no such folder", UPDATE_CAPS),
    BadInput("update of no line", lambda root: None, "no line `caps` (known: line)", UPDATE_CAPS),
    BadInput("line added twice", imported(lambda root: None), "`caps` is already there", ADD_CAPS),
    BadInput(
        "unknown format on the command line",
        lambda root: None,
        "lines.caps: `data.format`: Input should be 'mvtec'",
        (*ADD_CAPS, "--format", "mvtek"),
    ),
    BadInput("wrong format", lambda root: None, "no file split_csv/1cls.csv", (*ADD_CAPS, "--format", "visa")),
    BadInput("dataset as folder", lambda root: None, "{root}/images: ", (*ADD_CAPS, "--format", "folder")),
    BadInput(
        "category there is not",
        lambda root: None,
        "{root}/images: one product, not several categories",
        (*ADD_CAPS, "--category", "nuts"),
    ),
    BadInput("unusable image in an import", write(FIRST, b"x"), "1 in all: train/good/000.png (not an image", ADD_CAPS),
    BadInput("name as path", lambda root: None, "line name '../x'", ("lines", "add", "../x", "--from", "images")),
    BadInput(
        "no such source",
        lambda root: None,
        "nowhere: no such folder",
        ("lines", "add", "x", "--from", "nowhere"),
    ),
]
OTHERS = [
    BadInput(
        "step before its input",
        lambda root: None,
        "run `stlm synthesize --line line` first",
        ("train-fa", "--line", "line"),
    ),
    BadInput(
        "damaged manifest",
        write("outputs/line/validate/manifest.parquet", b"PAR1"),
        "manifest.parquet: not a Parquet",
        ("synthesize", "--line", "line"),
    ),
    BadInput(
        "unknown step in --input",
        lambda root: None,
        "--input x=y: must be STEP=FOLDER",
        ("synthesize", "--line", "line", "--input", "x=y"),
    ),
    BadInput(
        "texture folder gone", setting("synthesize", "textures", "dtd"), "{root}/dtd", ("synthesize", "--line", "line")
    ),
    BadInput(
        "model that is none",
        write("model.onnx", b"x"),
        "model.onnx",
        ("predict", "model.onnx", "images/test/dent/000.png", "--out", "heat"),
    ),
    BadInput(
        "no DVC",
        lambda root: None,
        "{root}: not a DVC project; run `dvc init` there",
        ("data", "push", "--line", "line"),
    ),
]
CASES = [*FILES, *TRUTH, *SETTINGS, *IMPORTS, *OTHERS]


def contents(root: Path) -> dict[str, str]:
    """Hash of every file that a refused command has to leave as it is."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and os.access(path, os.R_OK)
        if not LEFT.match(name := os.fsencode(path.relative_to(root)).decode("latin-1"))
    }


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose line was validated while it was good."""
    root = tmp_path_factory.mktemp("validated") / "project"
    root.mkdir()
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["stlm", "validate", "--line", "line"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return root


@pytest.fixture
def project(validated: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(validated, tmp_path / "project", symlinks=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_sentence_and_nothing_lost(
    case: BadInput, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not case.needs():
        pytest.skip("means nothing to this user")
    case.spoil(project)
    before = contents(project)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stlm", *case.command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    assert ended.value.code == case.exit_code
    assert len(said) == 1
    assert case.message.format(root=project) in said[0]
    assert contents(project) == before
