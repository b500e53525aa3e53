"""The registered champion behind MLflow's own scoring server, compared with ``stlm predict``."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fuzzing import pictures
from mlflow_server import mlflow_server, scoring_server
from PIL import Image
from registry_project import make_project, write_export

from stlm_core.data.images import read_image
from stlm_core.runtime.predict import predict_images
from stlm_core.steps.promote import promote
from stlm_core.steps.register import register

pytestmark = [pytest.mark.slow, pytest.mark.integration]

NAMES = ("rgb.png", "deep.png", "palette.png", "alpha.png", "baseline.jpg", "cmyk.jpg", "strips.tif", "lossless.webp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Scoring server of the champion of a line that was registered and promoted on a real MLflow server."""
    with mlflow_server(folder / "server") as tracking:
        config, workspace = make_project(folder / "project")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", tracking)
            write_export(workspace, revision="r1")
            register(config, workspace)
            assert promote(config).outcome == "promoted"
        with scoring_server(folder / "scoring", "models:/stlm-tiny@champion", tracking) as served:
            yield served


@pytest.fixture(scope="module")
def images(folder: Path) -> dict[str, Path]:
    """Files of many kinds; the brightness of some is lowered, so that both decisions occur."""
    (folder / "images").mkdir()
    paths = {name: folder / "images" / name for name in (*NAMES, "dark.png", "grey.png")}
    stored = pictures()
    for name in NAMES:
        paths[name].write_bytes(stored[name])
    Image.new("RGB", (9, 7), (20, 30, 40)).save(paths["dark.png"])
    Image.new("L", (5, 8), 127).save(paths["grey.png"])
    return paths


def _post(address: str, body: Any) -> httpx.Response:
    return httpx.post(f"{address}/invocations", json=body, timeout=120)


def _text(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_scores_and_decisions_are_those_of_predict(address: str, images: dict[str, Path], folder: Path) -> None:
    model = folder / "project" / "outputs" / "tiny" / "export" / "model.onnx"
    summary = predict_images(model, [str(path) for path in images.values()], folder / "predicted")
    with summary.table.open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    assert {row["is_anomalous"] for row in expected} == {"True", "False"}
    texts = [_text(path) for path in images.values()]
    bodies = [
        {"inputs": {"image": texts}},
        {"inputs": texts},
        {"instances": texts},
        {"instances": [{"image": text} for text in texts]},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
        {"dataframe_records": [{"image": f"data:image/png;base64,{text}"} for text in texts]},
    ]
    for body in bodies:
        response = _post(address, body)
        assert response.status_code == 200, response.text
        answers = response.json()["predictions"]
        assert [np.float32(answer["score"]) for answer in answers] == [np.float32(row["score"]) for row in expected]
        assert [str(answer["is_anomalous"]) for answer in answers] == [row["is_anomalous"] for row in expected]
        assert [answer["threshold"] for answer in answers] == [float(row["threshold"]) for row in expected]
        assert {answer["line"] for answer in answers} == {"tiny"}
        assert "heat_map_png" not in answers[0]


def test_the_heat_map_is_a_picture_of_the_images_size(address: str, images: dict[str, Path], folder: Path) -> None:
    name = "baseline.jpg"  # of its size after the rotation that EXIF asks for
    response = _post(address, {"inputs": {"image": [_text(images[name])]}, "params": {"heat_map": True}})
    assert response.status_code == 200, response.text
    (answer,) = response.json()["predictions"]
    with Image.open(io.BytesIO(base64.b64decode(answer["heat_map_png"], validate=True))) as picture:
        assert picture.format == "PNG"
        shown = np.asarray(picture)
    assert shown.shape == read_image(images[name]).shape
    predict_images(
        folder / "project" / "outputs" / "tiny" / "export" / "model.onnx", [str(images[name])], folder / "one"
    )
    (overlay,) = (folder / "one" / "overlays").rglob("*.png")
    np.testing.assert_array_equal(shown, read_image(overlay))


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_pixels_as_numbers(address: str, key: str) -> None:
    pixels = [[[[51, 51, 51]]], [[[204, 204, 204]]]]
    body: Any = {key: {"image": pixels} if key == "inputs" else [{"image": image} for image in pixels]}
    response = _post(address, body)
    assert response.status_code == 200, response.text
    assert [round(answer["score"], 6) for answer in response.json()["predictions"]] == [0.2, 0.8]


def test_a_bad_image_is_refused_in_one_sentence(address: str, images: dict[str, Path]) -> None:
    good = _text(images["rgb.png"])
    cases = {
        base64.b64encode(b"no image").decode(): "row 1: not an image in a known format (PNG, JPEG, BMP, TIFF, WebP)",
        good[: len(good) // 8 * 4]: "row 1: damaged or truncated image: ",
        "/etc/hostname": "row 1: the text is not base64 (paths are read only as pathlib.Path, or where ",
    }
    for bad, message in cases.items():
        for body in ({"inputs": {"image": [good, bad]}}, {"instances": [{"image": good}, {"image": bad}]}):
            response = _post(address, body)
            assert response.status_code == 400, response.text
            answer = response.json()
            assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
            assert answer["message"].startswith(message)
            assert good not in response.text, "the image is not sent back"
            assert "Traceback" not in response.text


def test_a_file_of_the_server_cannot_be_named(address: str, images: dict[str, Path]) -> None:
    for text in (str(images["rgb.png"]), str(images["rgb.png"]) + ".absent"):
        response = _post(address, {"inputs": {"image": [text]}})
        assert response.status_code == 400
        assert response.json()["message"].startswith("row 0: the text is not base64")


def test_the_logged_example_can_be_sent_as_it_is(address: str, folder: Path) -> None:
    (example,) = folder.rglob("serving_input_example.json")
    response = _post(address, json.loads(example.read_text()))
    assert response.status_code == 200, response.text
    assert len(response.json()["predictions"]) == 1
