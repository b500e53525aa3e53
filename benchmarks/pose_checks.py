"""How often `synthesize.rotation: auto` tells rightly how a line's parts lie (docs/decisions/0023).

    python benchmarks/pose_checks.py [--datasets DATASETS] [--scratch FOLDER] [--json FILE]

Lines: the good training images of the sample line and of those in DATASETS, as they are, and turned by quarters, at
random, or in ways that must not be taken for that. Textures: every image of `dtd_textures` in DATASETS is a line of 30
random crops of 0.6 of its side, turned in the same ways. All draws are seeded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measure import write_json

from stlm_core.data.images import read_image
from stlm_core.data.sample_line import write_sample_line
from stlm_core.synthesis.pose import LOOKED_AT, Pose, find_pose, in_proportion
from stlm_core.synthesis.rotation import rotate

SIZE = 256
CROPS, SHARE = 30, 0.6
LINES = {
    "bottle": "mvtec_ad/bottle/train/good",
    "screw": "mvtec_ad/screw/train/good",
    "magnetic tile": "magnetic_tile/train/good",
}
Image = npt.NDArray[np.uint8]
Turns: Mapping[str, Callable[[np.random.Generator], float]] = {
    "as they are": lambda _rng: 0.0,
    "up to 10 degrees": lambda rng: float(rng.uniform(-10, 10)),
    "up to 45 degrees": lambda rng: float(rng.uniform(-45, 45)),
    "one in ten at random": lambda rng: float(rng.uniform(-180, 180)) if rng.random() < 0.1 else 0.0,
    "halves": lambda rng: 180.0 * int(rng.integers(2)),
    "by quarters": lambda rng: 90.0 * int(rng.integers(4)),
    "at random": lambda rng: float(rng.uniform(-180, 180)),
}


def of_line(folder: Path) -> dict[str, Pose]:
    """What is found of 64 images of ``folder``, turned in every way."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    some = [files[place] for place in np.linspace(0, len(files) - 1, min(LOOKED_AT, len(files))).astype(int)]
    images = [in_proportion(read_image(path), SIZE) for path in some]
    return {name: find_pose(turned(images, name)) for name in Turns}


def of_textures(folder: Path) -> dict[str, Counter[str]]:
    """How often each policy is found of crops of one texture, aligned and turned."""
    found: dict[str, Counter[str]] = {name: Counter() for name in Turns}
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        whole, rng = read_image(path), np.random.default_rng(number)
        side = int(SHARE * min(whole.shape[:2]))
        corners = [[int(rng.integers(length - side)) for length in whole.shape[:2]] for _ in range(CROPS)]
        crops = [in_proportion(whole[top : top + side, left : left + side].copy(), SIZE) for top, left in corners]
        for name, counted in found.items():
            counted[find_pose(turned(crops, name)).policy] += 1
    return found


def turned(images: Sequence[Image], how: str) -> list[Image]:
    rng = np.random.default_rng(0)
    return [rotate(image, Turns[how](rng)) for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datasets", type=Path, default=None, help="folder of the real lines and textures")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the sample line")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| line | " + " | ".join(Turns) + " |")
    print("|---" * (1 + len(Turns)) + "|")
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        write_sample_line(Path(scratch) / "sample")
        folders = {"sample": Path(scratch) / "sample" / "train" / "good"}
        if given.datasets is not None:
            folders |= {name: given.datasets / path for name, path in LINES.items()}
        for name, folder in folders.items():
            poses = of_line(folder)
            print(f"| {name} | " + " | ".join(f"{pose.policy} ({pose.across:.2f})" for pose in poses.values()) + " |")
            rows += [{"line": name, "turned": how, **asdict(pose)} for how, pose in poses.items()]
    if given.datasets is not None:
        for how, counted in of_textures(given.datasets / "dtd_textures").items():
            print(f"textures, {how}: " + ", ".join(f"{policy} {count}" for policy, count in counted.most_common()))
            rows.append({"textures": how, **counted})
    write_json(given.json, {"size": SIZE}, rows)


if __name__ == "__main__":
    main()
