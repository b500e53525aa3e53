"""The folder of a model in MLflow, usable by itself: flavours ``onnx`` and ``python_function``, no pickle.

The second one runs on sources of this very package, copied into the model, so that an image is read, scored and drawn
by one implementation only. In the copy the package has another name, which ends in a hash of the sources: it hides
no stlm that is installed, and two versions of a model can be loaded in one process, each with the code it was
proven with.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stlm_core
from stlm_core.files import sha256_bytes, sha256_file, write_json_atomic
from stlm_core.integrations.names import MODEL_FILE
from stlm_core.integrity import SIGNATURE_SUFFIX

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

HASHES = "hashes.json"
"""sha256 of every other file in the folder, by its path: ``{"model.onnx": "ab12..."}``."""

_LOADER = "integrations/mlflow_pyfunc.py"
SOURCES = (
    _LOADER,
    "integrations/mlflow_pyfunc_input.py",
    "data/decoders.py",
    "data/images.py",
    "errors.py",
    "evaluation/heatmap.py",
    "files.py",
    "runtime/capture.py",
    "runtime/model.py",
    "runtime/render.py",
)
"""The loader and all it imports, below the package's folder."""
_PACKAGE = re.compile(r"\bstlm_core\b")
_EXAMPLE_SIDE = 32


def save_model(folder: Path, content: bytes, model: Model, *, signature: str | None = None) -> None:
    """Write the model's folder.

    Args:
        content: the exported file, kept byte for byte.
        model: its MLmodel to be.
        signature: of the file; goes into one beside it, for those who have the folder and not the registry.
    """
    import mlflow
    import mlflow.onnx
    import numpy
    import onnx
    import onnxruntime
    import pandas
    import PIL

    sources = folder.parent / "sources"
    loader = _write_sources(sources)
    mlflow.onnx.save_model(
        onnx.load_model_from_string(content),
        str(folder),
        code_paths=[str(path) for path in sources.iterdir()],
        mlflow_model=model,
        signature=_signature(),
        input_example=_example(),
        pip_requirements=[
            f"mlflow=={mlflow.__version__}",
            f"numpy=={numpy.__version__}",
            f"onnx=={onnx.__version__}",
            f"onnxruntime=={onnxruntime.__version__}",
            f"pandas=={pandas.__version__}",
            f"pillow=={PIL.__version__}",
        ],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    (folder / MODEL_FILE).write_bytes(content)
    if signature is not None:
        (folder / (MODEL_FILE + SIGNATURE_SUFFIX)).write_text(f"{signature}\n", encoding="ascii")
    model.flavors["python_function"]["loader_module"] = loader
    model.save(str(folder / "MLmodel"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json_atomic(folder / HASHES, {path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def _write_sources(folder: Path) -> str:
    """Copy the sources as a package of its own under ``folder``; returns the name of the loader's module."""
    root = Path(stlm_core.__file__).parent
    texts = {name: (root / name).read_text(encoding="utf-8") for name in SOURCES}
    digest = sha256_bytes("\0".join(text for pair in sorted(texts.items()) for text in pair).encode())
    package = f"stlm_model_{digest[:12]}"
    for name, text in texts.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in (path.parent, folder / package):
            (parent / "__init__.py").touch()
        path.write_text(_PACKAGE.sub(package, text), encoding="utf-8")
    return f"{package}.{_LOADER.removesuffix('.py').replace('/', '.')}"


def _signature() -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    return ModelSignature(
        # Bytes, text and arrays: what is in a cell is for the loader to see, MLflow has no type for all of them.
        inputs=Schema([ColSpec(AnyType(), "image")]),  # type: ignore[no-untyped-call]
        outputs=Schema(
            [
                ColSpec(DataType.double, "score"),
                ColSpec(DataType.boolean, "is_anomalous"),
                ColSpec(DataType.double, "threshold"),
                ColSpec(DataType.string, "line"),
                ColSpec(DataType.string, "picture"),
                ColSpec(DataType.string, "heat_map_png", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("heat_map", DataType.boolean, False)]),
    )


def _example() -> tuple[Any, dict[str, bool]]:
    """A small picture with all levels of brightness, as base64 of a PNG, and the parameters."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    ramp = np.arange(_EXAMPLE_SIDE, dtype=np.uint8) * (256 // _EXAMPLE_SIDE)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)  # (S, S, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(stream.getvalue()).decode("ascii")]}), {"heat_map": False}
