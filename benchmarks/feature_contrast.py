"""How much a teacher's features differ between positions, as they are and relative to their mean.

    python benchmarks/feature_contrast.py FOLDER ... [--teacher lite_medsam] [--teacher-size 128] [--json FILE]

FOLDER holds good images of one line, for example `data/sample/train/good`. Features are made as `stlm cache-teacher`
makes them, of images evenly picked from the folder. "Positions": cosine of two random positions of all images, and its
5th percentile. "Pseudo anomaly": mean cosine of a position with the same one under a pseudo anomaly. A contrast worth
training on needs cosines far from 1. The weights come from `stlm weights fetch`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stlm_core.cache.features import to_grid
from stlm_core.data.images import IMAGE_SUFFIXES, read_image, resize_to
from stlm_core.settings import TeacherConfig
from stlm_core.steps.weights import weights_folder
from stlm_core.synthesis.blend import pseudo_anomaly
from stlm_core.synthesis.textures import open_textures
from stlm_core.teachers.base import Teacher
from stlm_core.teachers.registry import load_teacher
from stlm_core.training.losses import mask_to_grid

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE, GRID = 256, 16  # of profile `two-students`
PAIRS = 200_000


def pick(folder: Path, count: int) -> list[Path]:
    """At most ``count`` of the folder's images, evenly spread over their names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise SystemExit(f"{folder}: no images")
    return [files[number * len(files) // count] for number in range(count)] if len(files) > count else files


def features(teacher: Teacher, images: Sequence[np.ndarray]) -> Tensor:
    """Cached form of the teacher's features, float32 (N, maps, C, GRID, GRID)."""
    rows = [to_grid(teacher(torch.from_numpy(image[None])), GRID).half() for image in images]
    return torch.cat(rows).float()


def contrast(clean: Tensor, anomalous: Tensor, covered: Tensor, centre: Tensor) -> dict[str, float]:
    """Cosines of one map (N, C, GRID, GRID) relative to ``centre`` (C,); ``covered``: bool (N, GRID, GRID)."""
    clean, anomalous = (F.normalize(part - centre[:, None, None], dim=1) for part in (clean, anomalous))
    positions = clean.permute(0, 2, 3, 1).flatten(0, 2)  # (N * GRID^2, C)
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(positions), PAIRS)
    second = (first + rng.integers(1, len(positions), PAIRS)) % len(positions)  # never the same position
    cosines = (positions[first] * positions[second]).sum(1)
    return {
        "positions_mean": float(cosines.mean()),
        "positions_p5": float(cosines.quantile(0.05)),
        "pseudo_anomaly_mean": float((clean * anomalous).sum(1)[covered].mean()),
    }


def measure(teacher: Teacher, folder: Path, count: int) -> list[dict[str, Any]]:
    """One row a map and centring."""
    images = [resize_to(read_image(file), SIZE) for file in pick(folder, count)]
    textures = open_textures(None, SIZE)
    drawn = [pseudo_anomaly(image, textures, np.random.default_rng(number)) for number, image in enumerate(images)]
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn]).astype(np.uint8))
    covered = mask_to_grid(masks, GRID, GRID) > 0
    clean, anomalous = features(teacher, images), features(teacher, [image for image, _ in drawn])
    means = clean.mean((0, 3, 4))  # (maps, C), what model.centre_features subtracts
    return [
        {
            "folder": str(folder),
            "images": len(images),
            "map": name,
            "relative_to": relative_to,
            **contrast(clean[:, number], anomalous[:, number], covered, centre),
        }
        for number, name in enumerate(teacher.facts.maps)
        for relative_to, centre in (("zero", torch.zeros_like(means[number])), ("mean", means[number]))
    ]


def main() -> None:
    """Print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folder of good images of one line")
    parser.add_argument("--teacher", default="lite_medsam")
    parser.add_argument("--teacher-size", type=int, default=128, help="side of the image the teacher sees, pixels")
    parser.add_argument("--images", type=int, default=40, help="images a folder")
    parser.add_argument("--json", type=Path, help="write the results there too")
    options = parser.parse_args()
    config = TeacherConfig(name=options.teacher, input_size=options.teacher_size)
    teacher = load_teacher(config, weights_folder(REPOSITORY), REPOSITORY)
    rows = []
    for folder in options.folders:
        found = measure(teacher, folder, options.images)
        rows += found
        print(f"{folder}: {found[0]['images']} images, {options.teacher} at {options.teacher_size} px, grid {GRID}")
        print(f"  {'map':52}{'relative to':>12}{'positions':>11}{'p5':>8}{'pseudo anomaly':>16}")
        for row in found:
            cosines = f"{row['positions_mean']:11.3f}{row['positions_p5']:8.3f}{row['pseudo_anomaly_mean']:16.3f}"
            print(f"  {row['map']:52}{row['relative_to']:>12}{cosines}")
    if options.json:
        facts = {"teacher": options.teacher, "teacher_size": options.teacher_size, "grid": GRID}
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
