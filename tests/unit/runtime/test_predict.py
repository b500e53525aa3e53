"""The whole of `stlm predict` on files, with a detector whose answers are known."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_onnx import tiny_onnx
from typer.testing import CliRunner

from stlm_core.cli.main import app
from stlm_core.errors import UserError
from stlm_core.runtime import predict as predict_module
from stlm_core.runtime.predict import predict_images


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx())
    return path


def _save(path: Path, height: int, width: int, bright: tuple[int, int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), np.uint8)
    if bright:
        pixels[bright] = 255
    Image.fromarray(pixels).save(path)
    return path


def _table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_table_and_pictures(tmp_path: Path, model: Path) -> None:
    good = _save(tmp_path / "in" / "good.png", 6, 8)
    bad = _save(tmp_path / "in" / "bad.png", 10, 4, bright=(7, 3))
    out = tmp_path / "out"
    summary = predict_images(model, [str(good), str(bad)], out, threads=1)
    assert summary.line == "tiny"
    assert summary.problems == ()
    first, second = _table(out)
    assert first["path"] == str(good)
    assert (first["score"], first["is_anomalous"]) == ("0.0", "False")
    assert (second["score"], second["is_anomalous"], second["threshold"]) == ("1.0", "True", "0.5")
    assert (second["max_x"], second["max_y"], second["max_value"]) == ("3", "7", "1.0")
    assert (second["width"], second["height"]) == ("4", "10")
    assert float(second["ms"]) > 0
    with Image.open(out / second["map"]) as image:
        assert image.size == (4, 10)
        assert np.asarray(image)[7, 3] == 65535
    with Image.open(out / second["overlay"]) as image:
        assert image.mode == "RGB"
        assert image.size == (4, 10)


def test_pictures_unlike_the_lines_own_are_told(tmp_path: Path, model: Path) -> None:
    model.write_bytes(tiny_onnx(capture='{"brightness": [0.1, 0.9], "sharpness": [0.0, 20.0]}'))
    dark = _save(tmp_path / "in" / "dark.png", 6, 8)
    ordinary = tmp_path / "in" / "ordinary.png"
    Image.new("RGB", (8, 6), (90, 90, 90)).save(ordinary)
    predict_images(model, [str(dark), str(ordinary)], tmp_path / "out", threads=1)
    assert [row["picture"] for row in _table(tmp_path / "out")] == ["dark", ""]
    told = CliRunner().invoke(app, ["predict", str(model), str(dark), str(ordinary), "--out", str(tmp_path / "out")])
    assert told.exit_code == 0
    assert "unlike the line's own pictures: 1 dark; look at the camera, too" in told.stderr


def test_rows_keep_the_order_of_the_command_line_whatever_the_batches(tmp_path: Path, model: Path) -> None:
    sizes = [(4, 4), (6, 4), (4, 4), (6, 4), (4, 4), (5, 5)]
    paths = [_save(tmp_path / "in" / f"{9 - index}.png", *size) for index, size in enumerate(sizes)]
    arguments = [str(path) for path in paths]
    together = predict_images(model, arguments, tmp_path / "out", batch_size=2)
    alone = predict_images(model, arguments, tmp_path / "alone", batch_size=1)
    assert [row.path for row in together.rows] == arguments
    assert [(row.height, row.width) for row in together.rows] == sizes
    assert [row.score for row in together.rows] == [row.score for row in alone.rows]


def test_waiting_images_are_bounded(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "_HELD_PIXELS", 40)
    for index in range(6):
        _save(tmp_path / "in" / f"{index}.png", 4, 4 + index % 3)
    summary = predict_images(model, [str(tmp_path / "in")], tmp_path / "out", batch_size=100)
    assert len(summary.rows) == 6


def test_bad_files_are_named_and_the_others_done(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "in"
    good = _save(folder / "a.png", 4, 4)
    (folder / "b.png").write_bytes(good.read_bytes()[:40])
    (folder / "c.png").write_bytes(b"")
    (folder / "d.png").write_text("not an image")
    summary = predict_images(model, [str(folder), str(tmp_path / "gone.png")], tmp_path / "out")
    assert [Path(row.path).name for row in summary.rows] == ["a.png"]
    assert sorted(problem.path.name for problem in summary.problems) == ["b.png", "c.png", "d.png", "gone.png"]
    for problem in summary.problems:
        assert str(problem.path) in problem.message
        assert "\n" not in problem.message
    assert len(_table(tmp_path / "out")) == 1


def test_an_image_whose_pictures_cannot_be_named_after_it_is_a_problem(tmp_path: Path, model: Path) -> None:
    stem = "x" * 251
    longest = _save(tmp_path / "in" / f"{stem}.png", 4, 4)
    beside = _save(tmp_path / "in" / f"{stem}.bmp", 4, 4)  # its pictures would be called ..._bmp.png
    other = _save(tmp_path / "in" / "a.png", 4, 4)
    arguments = [str(path) for path in (longest, beside, other)]
    summary = predict_images(model, arguments, tmp_path / "out")
    assert [row.path for row in summary.rows] == [str(longest), str(other)]
    (problem,) = summary.problems
    assert problem.path == beside
    assert str(problem.message).startswith(f"{beside}: the name is too long")
    assert (tmp_path / "out" / "overlays" / f"{stem}.png").is_file()
    assert len(_table(tmp_path / "out")) == 2


def test_exif_rotation_is_applied_before_the_network(tmp_path: Path, model: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)
    (row,) = predict_images(model, [str(path)], tmp_path / "out").rows
    assert (row.width, row.height) == (4, 8)
    assert row.max_y == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_pixel_format_is_read(tmp_path: Path, model: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    if mode == "I;16":
        Image.fromarray(np.full((5, 6), 65535, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 5), "white").convert(mode).save(path)
    (row,) = predict_images(model, [str(path)], tmp_path / "out").rows
    assert (row.width, row.height) == (6, 5)
    assert row.score == pytest.approx(1.0, abs=0.01)


def test_without_overlays_none_are_written(tmp_path: Path, model: Path) -> None:
    path = _save(tmp_path / "a.png", 4, 4)
    (row,) = predict_images(model, [str(path)], tmp_path / "out", overlay=False).rows
    assert row.overlay == ""
    assert not (tmp_path / "out" / "overlays").exists()


def test_a_score_just_above_the_threshold_reads_so(tmp_path: Path, model: Path) -> None:
    """Rounding in the table once could make an anomalous image read as exactly at the threshold."""
    just_above = np.nextafter(np.float32(0.5), np.float32(1))
    assert predict_module._shortest(float(just_above)) > 0.5
    assert np.float32(predict_module._shortest(float(just_above))) == just_above


def test_a_second_run_replaces_the_first(tmp_path: Path, model: Path) -> None:
    path = _save(tmp_path / "in" / "a.png", 4, 4)
    predict_images(model, [str(path)], tmp_path / "in")
    summary = predict_images(model, [str(tmp_path / "in" / "a.png")], tmp_path / "in")
    assert len(summary.rows) == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("argument", ["parts", "parts/*.png", "**/*.png"])
def test_a_second_run_into_the_images_own_folder_sees_the_same_images(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _save(tmp_path / "parts" / "a.png", 4, 4)
    _save(tmp_path / "parts" / "sub" / "b.png", 4, 4)
    first, second = (predict_images(model, [argument], Path("parts")) for _ in range(2))
    assert first.problems == ()
    assert first.rows
    assert [row.path for row in second.rows] == [row.path for row in first.rows]


@pytest.mark.parametrize("folder", ["maps", "overlays"])
def test_an_image_that_a_picture_would_overwrite_is_refused(tmp_path: Path, model: Path, folder: str) -> None:
    image = _save(tmp_path / folder / "a.png", 4, 4)
    before = image.read_bytes()
    with pytest.raises(UserError, match=rf"{folder}/a\.png: is one of the images and would be overwritten"):
        predict_images(model, [str(image)], tmp_path)
    assert image.read_bytes() == before
    assert not (tmp_path / "results.csv").exists()
    assert len(predict_images(model, [str(image)], tmp_path / "out").rows) == 1


def test_no_arguments_and_a_bad_batch_size_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="no images given"):
        predict_images(model, [], tmp_path / "out")
    with pytest.raises(UserError, match="batch size: 0"):
        predict_images(model, ["a.png"], tmp_path / "out", batch_size=0)


def test_an_output_folder_that_is_a_file_is_named(tmp_path: Path, model: Path) -> None:
    path = _save(tmp_path / "a.png", 4, 4)
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out"):
        predict_images(model, [str(path)], tmp_path / "out")


HEAVY = ("torch", "pandas", "mlflow", "cv2", "matplotlib", "onnx", "scipy", "sklearn", "pyarrow", "yaml", "pydantic")
COMMAND = """
import sys
from stlm_core.cli import main
sys.argv = ["stlm", "predict", *sys.argv[1:]]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print("LOADED", *sys.modules)
sys.exit(code)
"""
LIBRARY = """
import sys
from pathlib import Path
from stlm_core.runtime.predict import predict_images
predict_images(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[4]))
print("LOADED", *sys.modules)
"""


def _run(repository: Path, code: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _loaded(output: str) -> set[str]:
    return set(output.partition("LOADED")[2].split()) & set(HEAVY)


def test_the_command_needs_none_of_the_training_software(tmp_path: Path, model: Path, repository: Path) -> None:
    _save(tmp_path / "in" / "a.png", 4, 4, bright=(1, 1))
    (tmp_path / "in" / "b.png").write_text("nothing")
    done = _run(repository, COMMAND, model, tmp_path / "in", "--out", tmp_path / "out")
    assert "tiny: 1 of 1 images anomalous, 1 could not be used" in done.stdout
    assert "b.png: not an image" in done.stderr
    assert done.returncode == 2
    assert len(_table(tmp_path / "out")) == 1
    assert _loaded(done.stdout) <= {"pydantic"}, "typer brings pydantic, nothing may bring more"


def test_the_library_needs_onnxruntime_numpy_and_pillow_alone(tmp_path: Path, model: Path, repository: Path) -> None:
    _save(tmp_path / "in" / "a.png", 4, 4)
    done = _run(repository, LIBRARY, model, tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert _loaded(done.stdout) == set()
    assert len(_table(tmp_path / "out")) == 1


def test_a_foreign_model_ends_the_command_with_one_sentence(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(b"something else")
    done = _run(repository, COMMAND, tmp_path / "other.onnx", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'other.onnx'}: not a readable ONNX model")
    assert "Traceback" not in done.stderr
