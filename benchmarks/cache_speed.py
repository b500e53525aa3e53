"""The teacher cache beside the bare teacher and beside memory-mapped files; float16 and int8.

    python benchmarks/cache_speed.py [--images 8] [--size 256] [--teacher-size 128] [--threads 2] [--json FILE]

Computing: the product's whole way (views read from the bank, teacher, pooling to the grid, conversion, checksums,
files) beside the teacher's forward alone on the same views in memory, in batches of the same size. Weights do not
change the time and are random. Reading: random batches through the cache beside numpy.memmap of the same bytes in the
same order, files in the page cache; once as they come, once as float32, which is what training takes. int8: angle
between what is kept and what was computed, on the sample line's views.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from measure import Timing, surroundings, take_turns, write_json
from torch import Tensor

from stlm_core.cache.chunks import find_chunks
from stlm_core.cache.features import TeacherRows
from stlm_core.cache.rows import RowForm
from stlm_core.cache.store import FeatureCache, fill, write_index
from stlm_core.data.sample_line import write_sample_line
from stlm_core.files import sha256_file
from stlm_core.models.mask_decoder import PromptFreeDecoder
from stlm_core.models.tiny_vit import TinyViT
from stlm_core.settings import SynthesizeConfig
from stlm_core.synthesis.bank import Bank
from stlm_core.synthesis.build import build_bank
from stlm_core.synthesis.plan import SourceImage
from stlm_core.synthesis.textures import open_textures
from stlm_core.teachers.base import Teacher, TeacherFacts
from stlm_core.teachers.sam_tiny import TinySam

BATCH = 8
GRID = 16


def make_bank(folder: Path, images: int, size: int, settings: SynthesizeConfig | None = None) -> Bank:
    """A bank of good images of the sample line, with three pseudo anomalies each unless ``settings`` say otherwise."""
    write_sample_line(folder / "line", train_good=images, test_good=0, per_defect=0)
    files = sorted((folder / "line" / "train" / "good").iterdir())
    sources = [SourceImage(f.relative_to(folder / "line").as_posix(), sha256_file(f), "train") for f in files]
    (folder / "bank").mkdir()
    settings = settings or SynthesizeConfig(variants=3)
    textures = open_textures(None, size)
    return build_bank(
        folder / "bank", folder / "line", sources, textures, settings, size=size, max_pixels=10**8, workers=1
    )


def make_teacher(size: int) -> Teacher:
    """LiteMedSAM's architecture with random weights."""
    torch.manual_seed(0)
    facts = TeacherFacts("random", "none", "tiny_vit", size, None, "unit", ("embedding", "tokens"), "conv1x1")
    return Teacher(facts, TinySam(TinyViT("conv1x1"), PromptFreeDecoder()), "0" * 64, size)


def row(name: str, timing: Timing, views: int, against: Timing) -> dict[str, float | str]:
    """A line of the table: rate from the median, and the share of the bare contender's."""
    return {"name": name, "views_per_s": 1000 * views / timing.wall, "share": against.wall / timing.wall}


def compute_rows(bank: Bank, teacher: Teacher, scratch: Path, rounds: int) -> list[dict[str, float | str]]:
    """Rates of the bare teacher and of filling a cache, float16 and int8."""
    views = bank.views(range(len(bank)))

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, len(views), BATCH):
            teacher(torch.from_numpy(views[start : start + BATCH]))

    def product(dtype: str) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        rows = TeacherRows(bank, teacher, GRID, BATCH, torch.device("cpu"), None, kept_as=dtype)
        fill(scratch, rows.keys, rows, dtype=dtype, label="bench")

    contenders = {
        "bare teacher": bare,
        "cache, float16": lambda: product("float16"),
        "cache, int8": lambda: product("int8"),
    }
    timings = take_turns(contenders, rounds)
    return [row(name, timing, len(views), timings["bare teacher"]) for name, timing in timings.items()]


def read_rows(folder: Path, views: int, rounds: int) -> list[dict[str, float | str]]:
    """Rates of random batches: mapped files, the cache in float16 and in int8."""
    rng = np.random.default_rng(0)
    form = RowForm("float16", (2, 256, GRID, GRID))
    features = rng.standard_normal((256, *form.shape), dtype=np.float32)
    caches = {}
    for dtype in ("float16", "int8"):
        keys = [f"{number:064x}" for number in range(views)]
        fill(folder / dtype, keys, lambda positions: features[np.array(positions) % 256], dtype=dtype, label="bench")
        write_index(folder / dtype, keys)
        caches[dtype] = FeatureCache.open(folder / dtype)
    place = {key: (chunk, number) for chunk in find_chunks(folder / "float16") for number, key in enumerate(chunk.keys)}
    mapped = {
        chunk.data: np.memmap(chunk.data, np.float16, "r", shape=(len(chunk.keys), *form.shape))
        for chunk in find_chunks(folder / "float16")
    }
    where = [place[f"{number:064x}"] for number in range(views)]
    batches = [rng.integers(0, views, BATCH) for _ in range(100)]

    def plain(batch: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.stack([mapped[where[view][0].data][where[view][1]] for view in batch]))

    def cached(dtype: str) -> Callable[[npt.NDArray[np.int64]], Tensor]:
        return lambda batch: torch.from_numpy(caches[dtype].read(batch))

    def over_batches(read: Callable[[npt.NDArray[np.int64]], Tensor], *, as_float: bool) -> Callable[[], None]:
        def work() -> None:
            for batch in batches:
                features = read(batch)
                if as_float:
                    features.float()  # a cache in int8 is that already

        return work

    readers = {"memory-mapped": plain, "cache, float16": cached("float16"), "cache, int8": cached("int8")}
    contenders = {name: over_batches(read, as_float=False) for name, read in readers.items()}
    contenders |= {f"{name}, as float32": over_batches(read, as_float=True) for name, read in readers.items()}
    timings = take_turns(contenders, rounds)
    return [
        row(name, timing, BATCH * len(batches), timings[f"memory-mapped{', as float32' * name.endswith('float32')}"])
        for name, timing in timings.items()
    ]


def int8_error(bank: Bank, teacher: Teacher) -> dict[str, float]:
    """1 - cosine between features as computed and as kept, over all vectors of the bank's first 16 views."""
    rows = TeacherRows(bank, teacher, GRID, BATCH, torch.device("cpu"), None, kept_as="int8")
    features = rows(list(range(16))).astype(np.float64)
    form = RowForm("int8", features.shape[1:])
    kept = form.decode(form.encode(features.astype(np.float32))).astype(np.float64)
    norms = np.linalg.norm(kept, axis=2) * np.linalg.norm(features, axis=2)
    error = 1 - (kept * features).sum(2) / norms
    return {"mean": float(error.mean()), "max": float(error.max())}


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="good images; four views of each")
    parser.add_argument("--size", type=int, default=256, help="side of the views, pixels")
    parser.add_argument("--teacher-size", type=int, default=128, help="side that the teacher sees, pixels")
    parser.add_argument("--views", type=int, default=2000, help="rows of the cache that is read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bank, teacher = make_bank(folder, options.images, options.size), make_teacher(options.teacher_size)
        tables = {
            "computing": compute_rows(bank, teacher, folder / "computed", options.rounds),
            "reading": read_rows(folder, options.views, options.rounds),
        }
        error = int8_error(bank, teacher)
    facts = surroundings(options.threads, ("torch", "numpy"))
    print(f"{facts['cpu']}, {options.threads} threads, load {facts['load_at_end']}")
    for title, rows in tables.items():
        print(f"{title:28}{'views/s':>10}{'share':>8}")
        for line in rows:
            print(f"{line['name']:28}{line['views_per_s']:10.1f}{line['share']:8.2f}")
    print(f"int8: 1 - cosine {error['mean']:.2e} in the mean, {error['max']:.2e} at most")
    rows = [{"part": title, **line} for title, rows in tables.items() for line in rows]
    write_json(options.json, {**facts, "int8_error": error}, rows)


if __name__ == "__main__":
    main()
