"""The model's ``python_function`` flavour: images in, decisions out, without stlm installed.

Shipped inside the model, see :mod:`stlm_core.integrations.mlflow_model`. Needs numpy, pandas, Pillow, onnxruntime and
mlflow or mlflow-skinny.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from stlm_core.errors import StlmError, UserError
from stlm_core.integrations.mlflow_pyfunc_input import single_images, to_pixels
from stlm_core.runtime.model import DetectorSession
from stlm_core.runtime.render import overlay_to_png

COLUMN, HEAT_MAP = "image", "heat_map"
OUTPUTS = ("score", "is_anomalous", "threshold", "line", "picture")
OVERLAY = "heat_map_png"


class PredictionError(MlflowException):
    """One sentence for the caller, and that alone.

    MLflow's scoring server puts the whole input in front of a message: of an image in base64 that would be megabytes
    in every answer and log. So the message cannot be changed.
    """

    @property
    def message(self) -> str:
        """The sentence."""
        return str(self.args[0]) if self.args else ""

    @message.setter
    def message(self, value: str) -> None:
        """Ignored."""


class Detector:
    """The detector as MLflow calls it."""

    def __init__(self, session: DetectorSession) -> None:
        self._session = session

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Score the images of a column ``image``, one after the other: memory is that of one image.

        Args:
            model_input: what a cell may hold is said at
                :func:`stlm_core.integrations.mlflow_pyfunc_input.to_pixels`.
            params: with ``heat_map`` true the answer has a column ``heat_map_png``.

        Returns:
            A row an image: ``score`` in [0, 1], ``is_anomalous``, ``threshold``, ``line``, ``picture``: how it differs
            in light and focus from the line's good ones, such as "dark blurred", empty if it does not, and, if asked
            for, ``heat_map_png``: base64 of a PNG, the heat map over the image.

        Raises:
            PredictionError: a row is no image (HTTP status 400; counted from 0), or inference failed (500).
        """
        wanted = bool((params or {}).get(HEAT_MAP, False))
        columns = [*OUTPUTS, OVERLAY] if wanted else [*OUTPUTS]
        try:
            rows = [
                self._row(value, f"row {number}", wanted)
                for number, value in enumerate(single_images(model_input[COLUMN]))
            ]
        except UserError as error:
            raise PredictionError(str(error), INVALID_PARAMETER_VALUE) from None
        except StlmError as error:
            raise PredictionError(str(error), INTERNAL_ERROR) from None
        return pd.DataFrame(rows, columns=columns)

    def _row(self, value: Any, name: str, with_overlay: bool) -> tuple[Any, ...]:
        session, pixels = self._session, to_pixels(value, name)
        prediction = session.predict(pixels[None])
        score, is_anomalous = float(prediction.scores[0]), bool(prediction.is_anomalous[0])
        row = score, is_anomalous, session.threshold, session.line, " ".join(session.complaints(pixels))
        if not with_overlay:
            return row
        overlay = overlay_to_png(pixels, prediction.anomaly_maps[0], session.raw_threshold)
        return (*row, base64.b64encode(overlay).decode("ascii"))


def _load_pyfunc(data_path: str) -> Detector:
    """Called by MLflow, which knows it by this name. ``data_path``: the ONNX file."""
    return Detector(DetectorSession(Path(data_path)))
