"""A folder in another layout is refused with the name of the format that fits, and junk never crashes an adapter."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import get_args

import pytest
import replicas
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stlm_core.data.adapters import ADAPTERS, find_adapter
from stlm_core.data.adapters.base import printable, stays_inside
from stlm_core.data.adapters.layouts import guess_layout
from stlm_core.errors import UserError
from stlm_core.settings import Format

MISSING = {
    "mvtec": "no folder train/good",
    "mpdd": "no folder train/good",
    "mvtec_loco": "no folder train/good and validation/good",
    "btad": "no folder train/ok",
    "visa": "no file split_csv/1cls.csv",
    "dagm": "no folder Train/Label",
    "kolektor": "no folder kos01",
    "kolektor2": r"no folder train|no mask <n>_GT\.png",
    "folder": "",
}
# What each replica looks like: MPDD is in MVTec AD's layout.
LOOKS = {layout: "mvtec" if layout == "mpdd" else layout for layout in replicas.REPLICAS}


def test_settings_and_adapters_know_the_same_formats() -> None:
    assert set(get_args(Format)) == set(ADAPTERS)
    assert all(adapter.summary for adapter in ADAPTERS.values())


@pytest.mark.parametrize("layout", replicas.REPLICAS)
def test_replica_looks_like_itself(tmp_path: Path, layout: str) -> None:
    assert guess_layout(replicas.REPLICAS[layout](tmp_path)) == LOOKS[layout]


@pytest.mark.parametrize(
    ("layout", "asked"),
    [(layout, asked) for layout in replicas.REPLICAS for asked in MISSING if LOOKS[layout] != LOOKS.get(asked)],
)
def test_wrong_format_names_the_right_one(tmp_path: Path, layout: str, asked: str) -> None:
    replicas.REPLICAS[layout](tmp_path)
    missing, category = MISSING[asked], None
    if layout == "mvtec_loco" and LOOKS.get(asked) == "mvtec":  # it has all that MVTec AD has
        missing, category = "masks in a folder for each image", "pushpins"
    with pytest.raises(UserError, match=f"^{tmp_path}.*({missing}).*it looks like --format {LOOKS[layout]}\\b"):
        find_adapter(asked).scan(tmp_path, category)


@pytest.mark.parametrize("asked", MISSING)
def test_unknown_layout_says_what_is_missing(tmp_path: Path, asked: str) -> None:
    replicas.picture(tmp_path / "a" / "notes.png").rename(tmp_path / "a" / "notes.txt")
    wrong = "no good training images found" if asked == "folder" else MISSING[asked]
    with pytest.raises(UserError, match=f"({wrong}).*; wrong folder or wrong --format"):
        find_adapter(asked).scan(tmp_path)


@pytest.mark.parametrize("asked", [name for name in MISSING if name != "folder"])
def test_images_directly_in_the_folder_suggest_the_format_for_that(tmp_path: Path, asked: str) -> None:
    replicas.picture(tmp_path / "photo.png")
    with pytest.raises(UserError, match=f"({MISSING[asked]}).*if all of them are good ones, use --format folder$"):
        find_adapter(asked).scan(tmp_path)


@pytest.mark.parametrize("asked", [name for name in MISSING if name != "folder"])
def test_real_bottle_is_refused_by_all_but_mvtec(datasets_root: Path, asked: str) -> None:
    bottle = datasets_root / "mvtec_ad" / "bottle"
    if LOOKS[asked] == "mvtec":
        assert len(find_adapter(asked).scan(bottle).records) == 292
    else:
        with pytest.raises(UserError, match=f"{MISSING[asked]}.*it looks like --format mvtec"):
            find_adapter(asked).scan(bottle)


def test_folder_of_good_images_inside_a_dataset_is_fine(tmp_path: Path) -> None:
    replicas.mvtec_ad(tmp_path)
    assert len(find_adapter("folder").scan(tmp_path / "bottle" / "train" / "good").records) == 4


NAMES = st.one_of(
    st.sampled_from(
        [
            *("train", "test", "validation", "ground_truth", "good", "ok", "ko", "logical_anomalies", "dent", "a"),
            *("Train", "Test", "Label", "Class1", "kos01", "split_csv", "candle", "000", "Part0", ".hidden", "Imgs"),
        ]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=6),
)
FILES = st.one_of(
    st.sampled_from(
        [
            *("000.png", "000_mask.png", "Part0.jpg", "Part0_label.bmp", "0576.PNG", "0576_label.PNG", "Labels.txt"),
            *("10301.png", "10301_GT.png", "10301 (copy).png", "1cls.csv", "image_anno.csv", "good.png", " (copy).png"),
        ]
    ),
    NAMES,
    NAMES.map(lambda name: f"{name}.png"),
)
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.text(alphabet='object,split label image\n\r"./\t01', max_size=60).map(str.encode),
    st.just(b"object,split,label,image,mask\ncandle,train,normal,../../x.png,\ncandle,test,anomaly,candle/a,/etc\n"),
)
TREES = st.lists(st.tuples(st.lists(NAMES, max_size=4), FILES, CONTENTS), max_size=12)
BASES = st.sampled_from([None, *replicas.REPLICAS])


def plant(root: Path, folders: list[str], name: str, content: bytes) -> None:
    """Write a junk file, or leave it where the name does not fit what is there or the file system."""
    path = root.joinpath(*folders, name)
    if not os.path.normpath(path).startswith(f"{root}{os.sep}"):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(content) % 7 == 6:
            path.symlink_to(content[:1].hex() or "..")
        else:
            path.write_bytes(content)
    except OSError:
        pass


@example(base="kolektor2", tree=[(["train"], " (copy).png", b"")])
@example(base="kolektor2", tree=[(["train"], ". (copy).png", b""), (["train"], "..png", b"")])
@example(base="mvtec", tree=[(["test", "good\n"], "000.png", b"")])
@example(base="dagm", tree=[(["Train", "Label"], "\ufeff_label.png", b"")])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=BASES, tree=TREES)
def test_junk_never_crashes_an_adapter(base: str | None, tree: list[tuple[list[str], str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "root"
        root.mkdir()
        if base is not None:
            replicas.REPLICAS[base](root)
            top = sorted(path for path in root.iterdir() if path.is_dir())[0]
        for index, (folders, name, content) in enumerate(tree):
            plant(root if base is None or index % 2 else top, folders, name, content)
        for layout in replicas.REPLICAS.keys() | {"folder"}:
            for category in (None, base and top.name):
                try:
                    scan = find_adapter(layout).scan(root, category)
                except UserError:
                    continue
                paths = [record.path for record in scan.records]
                assert paths == sorted(set(paths))
                for record in scan.records:
                    assert record.path == printable(record.path)
                    assert stays_inside(record.path)
                    assert not record.mask_path or stays_inside(record.mask_path)
                    assert (record.label == 0) == (record.defect_type == "good")
                    assert record.split == "test" or record.label == 0
                    if not record.problem:
                        assert (root / record.path).resolve(strict=True).is_relative_to(root)
                        assert not record.mask_path or (root / record.mask_path).resolve().is_relative_to(root)
