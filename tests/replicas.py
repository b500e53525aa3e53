"""Tiny replicas of published datasets: their folders, names, suffixes, modes and mask values, with other pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 8)  # width, height


def picture(path: Path, mode: str = "RGB") -> Path:
    """An image file of plain grey, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, SIZE, 90 if mode == "L" else (90, 90, 90)).save(path)
    return path


def mask(path: Path, value: int = 255) -> Path:
    """An 8-bit grey mask file with a marked corner; ``value`` 0 marks nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(SIZE[::-1], np.uint8)
    pixels[:3, :3] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec_ad(root: Path, categories: tuple[str, ...] = ("bottle", "screw")) -> Path:
    for category in categories:
        home = root / category
        for index in range(4):
            picture(home / "train" / "good" / f"{index:03d}.png")
        for index in range(2):
            picture(home / "test" / "good" / f"{index:03d}.png")
            picture(home / "test" / "broken_large" / f"{index:03d}.png")
            mask(home / "ground_truth" / "broken_large" / f"{index:03d}_mask.png")
        (home / "license.txt").write_text("CC BY-NC-SA 4.0")
        (home / "readme.txt").write_text("bottle")
    return root


def mpdd(root: Path) -> Path:
    for category, defects in {"bracket_black": ("hole", "scratches"), "tubes": ("anomalous",)}.items():
        for index in range(3):
            picture(root / category / "train" / "good" / f"{index:03d}.png")
        picture(root / category / "test" / "good" / "000.png")
        for defect in defects:
            picture(root / category / "test" / defect / "000.png")
            mask(root / category / "ground_truth" / defect / "000_mask.png")
    return root


def mvtec_loco(root: Path) -> Path:
    for category in ("breakfast_box", "pushpins"):
        home = root / category
        for index in range(3):
            picture(home / "train" / "good" / f"{index:03d}.png")
        for index in range(2):
            picture(home / "validation" / "good" / f"{index:03d}.png")
        picture(home / "test" / "good" / "000.png")
        for defect, values in {"logical_anomalies": (253, 254), "structural_anomalies": (233,)}.items():
            picture(home / "test" / defect / "000.png")
            for index, value in enumerate(values):
                mask(home / "ground_truth" / defect / "000" / f"{index:03d}.png", value)
        (home / "defects_config.json").write_text("[]")
    return root


def btad(root: Path) -> Path:
    for category, image, truth in (("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")):
        home = root / category
        for index in range(3):
            picture(home / "train" / "ok" / f"{index:04d}{image}")
        picture(home / "test" / "ok" / f"0003{image}")
        for index in range(2):
            picture(home / "test" / "ko" / f"{index:04d}{image}")
            mask(home / "ground_truth" / "ko" / f"{index:04d}{truth}")
        mask(home / "ground_truth" / "ok" / f"0003{truth}", 0)
    return root


def visa(root: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for category, types in {"candle": ("hole", '"spot,hole"'), "pcb1": ("melt", "bent")}.items():
        data = f"{category}/Data"
        annotations = ["image,label,mask"]
        for index in range(5):
            name = f"{data}/Images/Normal/{index:04d}.JPG"
            picture(root / name)
            rows.append(f"{category},{'train' if index < 4 else 'test'},normal,{name},")
            annotations.append(f"{name},normal,")
        for index, label in enumerate(types):
            name, truth = f"{data}/Images/Anomaly/{index:03d}.JPG", f"{data}/Masks/Anomaly/{index:03d}.png"
            picture(root / name)
            mask(root / truth, index + 1)
            rows.append(f"{category},test,anomaly,{name},{truth}")
            annotations.append(f"{name},{label},{truth}")
        (root / category / "image_anno.csv").write_text("\n".join(annotations) + "\n")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_bytes("\r\n".join([*rows, ""]).encode())
    (root / "split_csv" / "2cls_fewshot.csv").write_text(rows[0] + "\n")
    return root


def dagm(root: Path) -> Path:
    for category in ("Class1", "Class10"):
        for part, first in (("Train", 576), ("Test", 1)):
            rows = ["1"]
            for number in range(first, first + 5):
                defective = number == first + 1
                picture(root / category / part / f"{number:04d}.PNG", "L")
                label = f"{number:04d}_label.PNG" if defective else "0"
                rows.append(f"{number}\t{int(defective)}\t{number:04d}.PNG\t0\t{label}")
                if defective:
                    mask(root / category / part / "Label" / label)
            (root / category / part / "Label" / "Labels.txt").write_text("\n".join(rows) + "\n")
    return root


def kolektor(root: Path) -> Path:
    for item in range(1, 6):
        for part in range(8):
            picture(root / f"kos{item:02d}" / f"Part{part}.jpg", "L")
            mask(root / f"kos{item:02d}" / f"Part{part}_label.bmp", 255 if part == item else 0)
    return root


def kolektor2(root: Path) -> Path:
    for part, first in (("train", 10300), ("test", 20000)):
        for number in range(first, first + 5):
            picture(root / part / f"{number}.png")
            mask(root / part / f"{number}_GT.png", 255 if number == first + 2 else 0)
    picture(root / "train" / "10301 (copy).png")
    mask(root / "train" / "10301_GT (copy).png", 0)
    (root / "split_weakly_246.pyb").write_bytes(b"\x80\x04N.")
    return root


REPLICAS: dict[str, Callable[[Path], Path]] = {
    "mvtec": mvtec_ad,
    "mvtec_loco": mvtec_loco,
    "mpdd": mpdd,
    "btad": btad,
    "visa": visa,
    "dagm": dagm,
    "kolektor": kolektor,
    "kolektor2": kolektor2,
}
