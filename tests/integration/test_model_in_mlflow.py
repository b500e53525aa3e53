"""The folder of a model in MLflow: usable by itself, in a process that has no stlm."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fuzzing import pictures
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image
from tiny_onnx import tiny_onnx

from stlm_core.files import sha256_file
from stlm_core.integrations import mlflow_model
from stlm_core.integrations.mlflow_model import HASHES, save_model
from stlm_core.integrations.mlflow_pyfunc import _load_pyfunc
from stlm_core.runtime.capture import CaptureRange

pytestmark = pytest.mark.integration

PIXELS = np.full((6, 5, 3), 51, np.uint8)
PIXELS[2, 3] = 204  # the score is 0.8

# No stlm, nothing of training.
ALONE = """
import json, sys
for name in ("stlm_core", "torch", "onnx", "cv2", "matplotlib", "pyarrow"):
    sys.modules[name] = None
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict({"image": [sys.argv[2]]}, params={"heat_map": True})
print(json.dumps(answer.to_dict("records")[0]))
"""


def _saved(folder: Path, **metadata: str) -> Path:
    folder.mkdir()
    save_model(folder / "model", tiny_onnx(**metadata), Model())
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp("models") / "one")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder))


def _png(pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def test_the_folder_is_small_whole_and_without_pickle(folder: Path) -> None:
    import mlflow.onnx

    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert files["model.onnx"].read_bytes() == tiny_onnx()
    hashes = json.loads(files.pop(HASHES).read_text())
    assert hashes == {name: sha256_file(path) for name, path in files.items()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pyc", ".data"))]
    assert sum(path.stat().st_size for path in files.values()) < 60_000
    assert mlflow.onnx.load_model(str(folder)).graph.name == "tiny"
    code = [path.read_text() for name, path in files.items() if name.startswith("code/")]
    assert code
    assert not any("stlm_core" in text for text in code)


def test_it_answers_where_stlm_is_not_installed(folder: Path, tmp_path: Path) -> None:
    text = base64.b64encode(_png()).decode()
    command = [sys.executable, "-I", "-c", ALONE, str(folder), text]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    picture = base64.b64decode(answer.pop("heat_map_png"))
    assert answer == {
        "score": pytest.approx(0.8),
        "is_anomalous": True,
        "threshold": 0.5,
        "line": "tiny",
        "picture": "",
    }
    with Image.open(io.BytesIO(picture)) as shown:
        assert (shown.format, shown.size) == ("PNG", (5, 6))


def test_signature_and_example_fit(model: Any) -> None:
    assert [(spec.name, str(spec.type)) for spec in model.metadata.signature.inputs.inputs] == [("image", "Any")]
    names = ["score", "is_anomalous", "threshold", "line", "picture", "heat_map_png"]
    assert [spec.name for spec in model.metadata.signature.outputs.inputs] == names
    assert [(spec.name, spec.default) for spec in model.metadata.signature.params.params] == [("heat_map", False)]
    answer = model.predict(model.input_example, params={"heat_map": True})
    assert list(answer.columns) == names
    assert 0 <= answer["score"][0] <= 1


def test_a_picture_in_other_light_is_told(tmp_path: Path) -> None:
    ordinary = CaptureRange((0.4, 0.6), (0.0, 20.0)).to_json()
    (tmp_path / "model.onnx").write_bytes(tiny_onnx(capture=ordinary))
    detector = _load_pyfunc(str(tmp_path / "model.onnx"))
    pixels = [np.full((8, 8, 3), level, np.uint8) for level in (10, 128, 250)]
    answer = detector.predict(pd.DataFrame({"image": pixels}))
    assert answer["picture"].tolist() == ["dark", "", "bright"]


@pytest.mark.parametrize("kind", ["DataFrame", "dict"])
@pytest.mark.parametrize("form", ["bytes", "bytearray", "base64", "data URL", "path", "array", "grey", "RGBA"])
def test_every_kind_of_input(model: Any, tmp_path: Path, kind: str, form: str) -> None:
    content, path = _png(), tmp_path / "part.png"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    image = {
        "bytes": content,
        "bytearray": bytearray(content),
        "base64": text,
        "data URL": f"data:image/png;base64,{text}",
        "path": path,
        "array": PIXELS,
        "grey": PIXELS[..., 0],
        "RGBA": np.dstack([PIXELS, np.full((6, 5), 255, np.uint8)]),
    }[form]
    column = {"image": [image, image]}
    answer = model.predict(pd.DataFrame(column) if kind == "DataFrame" else column)
    assert answer["score"].tolist() == pytest.approx([0.8, 0.8])
    assert answer["is_anomalous"].tolist() == [True, True]
    assert answer["threshold"].tolist() == [0.5, 0.5]
    assert answer["line"].tolist() == ["tiny", "tiny"]


def test_one_image_and_a_stack_of_arrays(model: Any) -> None:
    for column in (_png(), base64.b64encode(_png()).decode(), PIXELS[None]):
        assert model.predict({"image": column})["score"].tolist() == pytest.approx([0.8])
    stack = np.stack([PIXELS, PIXELS // 2])  # uint8 (N, H, W, 3)
    assert model.predict({"image": stack})["score"].tolist() == pytest.approx([0.8, 0.4])
    assert model.predict(pd.DataFrame({"image": []})).empty


def test_images_of_several_kinds_and_sizes_at_once(model: Any) -> None:
    contents = [content for name, content in pictures().items() if name != "float.tif"]
    together = model.predict(pd.DataFrame({"image": [*contents, PIXELS]}))
    apart = [model.predict({"image": image})["score"][0] for image in contents]
    assert together["score"].tolist() == [*apart, pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"no image", "row 1: not an image in a known format"),
        (_png()[:-20], "row 1: damaged or truncated image"),
        (None, "row 1: no image"),
        (PIXELS / 255, "row 1: an array float64 6 x 5 x 3 is no image"),
        ("/etc/hostname", "row 1: the text is not base64"),
    ],
)
def test_a_bad_row_is_named(model: Any, bad: Any, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as refused:
        model.predict(pd.DataFrame({"image": [_png(), bad]}))
    assert refused.value.get_http_status_code() == 400


@pytest.mark.parametrize("value", ["yes", 3])
def test_a_parameter_of_another_type_is_refused(model: Any, value: Any) -> None:
    with pytest.raises(MlflowException, match="heat_map"):
        model.predict({"image": _png()}, params={"heat_map": value})


def test_versions_with_other_code_live_in_one_process(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    changed = tmp_path / "stlm_core"
    root = Path(mlflow_model.stlm_core.__file__).parent
    for name in mlflow_model.SOURCES:
        target = changed / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((root / name).read_text().replace('"row {number}"', '"picture {number}"'))
    monkeypatch.setattr(mlflow_model.stlm_core, "__file__", str(changed / "__init__.py"))
    other = mlflow.pyfunc.load_model(str(_saved(tmp_path / "two")))
    for loaded, message in ((other, "picture 0: not an image"), (model, "row 0: not an image")):
        with pytest.raises(MlflowException, match=message):
            loaded.predict({"image": b"no image"})


def test_the_same_sources_make_the_same_package(folder: Path, tmp_path: Path) -> None:
    again = _saved(tmp_path / "again", code_version="r2")
    assert [path.name for path in (again / "code").iterdir()] == [path.name for path in (folder / "code").iterdir()]
