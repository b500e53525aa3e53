"""Cost of inspecting a folder's images, and of decoding one for training, beside the bare decoders.

    python benchmarks/decode_speed.py [--sides 256 900] [--turns 7] [--folder IMAGES ...] [--json FILE]

On the same files, in turn, one thread: reading and decoding with Pillow, OpenCV and libjpeg-turbo's binding
(PyTurboJPEG, where it is installed); ``read_image``, the decoder for training; the inspection of one file after the
other (bytes, sha256, all checks, decoding, statistics, thumbnail, perceptual hash); and the whole way from a folder to
its manifest, which uses all cores. Figures are the processor's milliseconds an image; the ratio is to the fastest bare
decoder. The images are parts of the sample line, enlarged and with a camera's grain; the files lie in the page cache.
``--folder`` takes real images instead.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from measure import Timing, surroundings, take_turns, write_json
from PIL import Image

from stlm_core.config import LineConfig, load_line
from stlm_core.data.facts import FactStore
from stlm_core.data.images import IMAGE_SUFFIXES, read_image
from stlm_core.data.inspection import inspect_line
from stlm_core.data.manifest import manifest_of
from stlm_core.data.sample_line import good_image

try:
    from turbojpeg import TJPF_RGB, TurboJPEG
except ImportError:
    TurboJPEG = None

PIXELS = 6_000_000  # of one turn, of every contender
GRAIN = 3.0
BARE = ("Pillow", "OpenCV", "PyTurboJPEG")


@dataclass(frozen=True)
class Form:
    """A way to store an image."""

    name: str
    kind: str
    grey: bool
    options: dict[str, Any]

    def write(self, pixels: np.ndarray, path: Path) -> None:
        """``pixels`` (H, W, 3) as a file."""
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 1] if self.grey else pixels).save(buffer, self.kind, **self.options)
        path.write_bytes(buffer.getvalue())


FORMS = (
    Form("PNG", "PNG", grey=False, options={}),
    Form("PNG, grey", "PNG", grey=True, options={}),
    Form("JPEG 90, 4:2:0", "JPEG", grey=False, options={"quality": 90}),
    Form("JPEG 95, 4:4:4", "JPEG", grey=False, options={"quality": 95, "subsampling": 0}),
    Form("JPEG 90, grey", "JPEG", grey=True, options={"quality": 90}),
)


def photograph(number: int, side: int) -> np.ndarray:
    """A part of the sample line at another size, uint8 (side, side, 3)."""
    part = cv2.resize(good_image(0, "decode", number), (side, side), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(number).normal(0, GRAIN, part.shape)
    return np.clip(part + grain, 0, 255).astype(np.uint8)


def line_of(folder: Path) -> LineConfig:
    """The line whose images lie in ``folder``/images."""
    params = folder / "params.yaml"
    tree = {"defaults": {}, "profiles": {"fast": {}}, "lines": {"line": {"data": {"path": str(folder / "images")}}}}
    params.write_text(yaml.safe_dump(tree))
    return load_line(params, "line")


def contenders(folder: Path) -> dict[str, Callable[[], object]]:
    """What takes turns on the files in ``folder``/images/train/good."""
    root, config = folder / "images", line_of(folder)
    files = sorted((root / "train" / "good").iterdir())
    names = [file.relative_to(root).as_posix() for file in files]

    def pillow() -> None:
        for file in files:
            with Image.open(io.BytesIO(file.read_bytes())) as image:
                image.load()

    def opencv() -> None:
        for file in files:
            cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)

    def reading() -> None:
        for file in files:
            read_image(file)

    def inspecting() -> None:
        store = FactStore(root)
        for name in names:
            store.image(name)

    def manifest() -> None:
        shutil.rmtree(folder / ".stlm", ignore_errors=True)  # nothing is remembered
        manifest_of(inspect_line(config)).write(folder / "manifest.parquet")

    found: dict[str, Callable[[], object]] = {"Pillow": pillow, "OpenCV": opencv}
    if TurboJPEG is not None and all(file.suffix.lower() in {".jpg", ".jpeg"} for file in files):
        binding = TurboJPEG()

        def turbo() -> None:
            for file in files:
                binding.decode(file.read_bytes(), pixel_format=TJPF_RGB)

        found["PyTurboJPEG"] = turbo
    return {**found, "read_image": reading, "inspection": inspecting, "folder to manifest": manifest}


def measure(name: str, folder: Path, turns: int) -> list[dict[str, Any]]:
    """One table row, printed and as figures."""
    files = sorted((folder / "images/train/good").iterdir())
    with Image.open(files[0]) as first:
        width, height = first.size
    timed: dict[str, Timing] = take_turns(contenders(folder), turns)
    spent = {contender: timing.cpu / len(files) for contender, timing in timed.items()}
    fastest = min(spent[contender] for contender in BARE if contender in spent)
    size = sum(file.stat().st_size for file in files) / len(files)
    cells = [f"{spent[contender]:.3f} ({spent[contender] / fastest:.2f})" for contender in spent]
    print(f"{name:<16}{f'{width} x {height}':>12}{size / 1000:>8.0f}" + "".join(f"{cell:>20}" for cell in cells))
    return [
        {
            "form": name,
            "width": width,
            "height": height,
            "images": len(files),
            "bytes_an_image": size,
            "contender": contender,
            "milliseconds": milliseconds,
            "times_the_fastest_bare_decoder": milliseconds / fastest,
            "turns": turns,
        }
        for contender, milliseconds in spent.items()
    ]


def in_folder(name: str, fill: Callable[[Path], None], turns: int) -> list[dict[str, Any]]:
    """:func:`measure` on the files that ``fill`` puts into a folder."""
    with tempfile.TemporaryDirectory(prefix="decode-speed-") as made:
        good = Path(made) / "images/train/good"
        good.mkdir(parents=True)
        fill(good)
        return measure(name, Path(made), turns)


def copy_images(source: Path, good: Path, limit: int) -> None:
    """Up to ``limit`` image files under ``source`` into ``good``."""
    files = [file for file in sorted(source.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    for number, file in enumerate(files[:limit]):
        shutil.copyfile(file, good / f"{number:04d}{file.suffix}")


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 900], help="sides of the generated images")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--folder", type=Path, nargs="*", default=[], help="folders of real images, 50 of each")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if TurboJPEG is None:
        print("PyTurboJPEG is not installed")
    heads = [*(name for name in BARE if name != "PyTurboJPEG"), "read_image", "inspection", "folder to manifest"]
    print(f"{'processor ms':<16}{'pixels':>12}{'kB':>8}" + "".join(f"{head:>20}" for head in heads))
    rows: list[dict[str, Any]] = []
    for folder in arguments.folder:
        rows += in_folder(folder.name[:15], lambda good, folder=folder: copy_images(folder, good, 50), arguments.turns)
    for side in [] if arguments.folder else arguments.sides:
        photographs = [photograph(number, side) for number in range(max(24, PIXELS // side**2))]
        for form in FORMS:

            def fill(good: Path, form: Form = form, photographs: list[np.ndarray] = photographs) -> None:
                for number, pixels in enumerate(photographs):
                    form.write(pixels, good / f"{number:03d}.{'png' if form.kind == 'PNG' else 'jpg'}")

            rows += in_folder(form.name, fill, arguments.turns)
    packages = ["numpy", "opencv-python-headless", "pillow", "PyTurboJPEG"]
    write_json(arguments.json, surroundings(1, packages), rows)


if __name__ == "__main__":
    main()
