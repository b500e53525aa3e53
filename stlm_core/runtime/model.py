"""An exported detector opened with ONNX Runtime, and the contract that tells ours from any other ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stlm_core.errors import StlmError, UserError, first_line
from stlm_core.files import sha256_bytes
from stlm_core.runtime.capture import SMALLEST_SIDE, CaptureRange, Complaint, measure_capture

FORMAT = "1"
"""Version of the contract between the file and its readers; written by export as ``stlm_format``."""

INPUT = "image"
OUTPUTS = ("score", "anomaly_map", "is_anomalous")
REQUIRED_METADATA = (
    "stlm_format",
    "line",
    "threshold",
    "raw_threshold",
    "image_size",
    "dataset_sha256",
    "code_version",
)
PROVIDERS = ("CPUExecutionProvider",)
ROUNDING = 1e-6
"""What a score or a map may be outside [0, 1] by: where a map is enlarged, ONNX Runtime makes 1.0000001 of ones."""

_OUTPUT_TYPES = {"score": "tensor(float)", "anomaly_map": "tensor(float)", "is_anomalous": "tensor(bool)"}


@dataclass(frozen=True)
class Prediction:
    """What the model says about a batch of N images of H x W pixels.

    ``scores``: float32 (N,), calibrated, in [0, 1]. ``anomaly_maps``: float32 (N, H, W) in [0, 1], not calibrated.
    ``is_anomalous``: bool (N,), the score is above the threshold.
    """

    scores: npt.NDArray[np.float32]
    anomaly_maps: npt.NDArray[np.float32]
    is_anomalous: npt.NDArray[np.bool_]


class DetectorSession:
    """One exported detector, ready to predict on the CPU.

    The file is read once and given to ONNX Runtime as bytes, so ``sha256`` is that of what runs, and weights outside
    the file (which we never write) cannot be pulled in by it.

    Args:
        model: path of the file, or its bytes.
        threads: threads inside one operator; 0 leaves the choice to ONNX Runtime.
        name: what to call a model given as bytes in error messages.

    Raises:
        UserError: the file cannot be read, is not ONNX, or was not made by ``stlm export``.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 0, name: str = "model") -> None:
        import onnxruntime

        if threads < 0:
            raise UserError(f"threads: {threads} is negative; use 0 for all cores")
        self.name = name if isinstance(model, bytes) else str(model)
        content = model if isinstance(model, bytes) else _read(model)
        self.sha256 = sha256_bytes(content)
        self.size_bytes = len(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=list(PROVIDERS))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise UserError(f"{self.name}: not a readable ONNX model: {first_line(error)}") from None
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._refuse_foreign()
        self.line = self.metadata["line"]
        self.threshold = self._number("threshold")
        self.raw_threshold = self._number("raw_threshold")
        self._captures = self._capture_range()
        self._side = self._input_side() if self._captures else 0

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use, in order of preference."""
        return tuple(self._session.get_providers())

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Score a batch.

        Args:
            images: uint8 (N, H, W, 3) RGB.

        Raises:
            UserError: wrong dtype or shape.
            StlmError: ONNX Runtime failed, or the model put out something that is not a number, or is outside [0, 1] by
                more than :data:`ROUNDING`.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise UserError(f"{self.name}: needs uint8 images N x H x W x 3, got {images.dtype} {images.shape}")
        try:
            scores, maps, decisions = self._session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(images)})
        except Exception as error:
            raise StlmError(f"{self.name}: inference failed on images {images.shape}: {first_line(error)}") from None
        return Prediction(self._in_unit(scores), self._in_unit(maps), decisions)

    def complaints(self, pixels: npt.NDArray[np.uint8]) -> tuple[Complaint, ...]:
        """How the picture, uint8 (H, W, 3) RGB, differs in light and focus from the line's good ones; empty if it does
        not, or if the file does not say what is ordinary."""
        if self._captures is None:
            return ()
        return self._captures.complaints(measure_capture(pixels, self._side))

    def _in_unit(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        low, high = float(values.min(initial=0)), float(values.max(initial=1))  # NaN spreads through both
        if not (np.isfinite(low) and np.isfinite(high)):
            raise StlmError(f"{self.name}: the model's output is not a number; export it again")
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise StlmError(f"{self.name}: an output is not between 0 and 1; export it again")
        return values.clip(0, 1) if low < 0 or high > 1 else values

    def _refuse_foreign(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        problem = None
        if len(inputs) != 1 or inputs[0].name != INPUT:
            problem = f"its inputs are {_names(inputs)}, not `{INPUT}`"
        elif inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4 or inputs[0].shape[3] != 3:
            problem = f"its input is {inputs[0].type} {inputs[0].shape}, not uint8 N x H x W x 3"
        elif {output.name: output.type for output in outputs} != _OUTPUT_TYPES:
            problem = f"its outputs are {_names(outputs)}, not {', '.join(OUTPUTS)}"
        elif missing := [key for key in REQUIRED_METADATA if key not in self.metadata]:
            problem = f"its metadata lacks {', '.join(missing)}"
        elif self.metadata["stlm_format"] != FORMAT:
            problem = f"it has format {self.metadata['stlm_format']}, this version reads format {FORMAT}"
        if problem:
            raise UserError(f"{self.name}: not a detector made by `stlm export`: {problem}")

    def _capture_range(self) -> CaptureRange | None:
        text = self.metadata.get("capture")
        try:
            return CaptureRange.from_json(text) if text else None
        except ValueError as error:
            raise UserError(f"{self.name}: metadata `capture` is damaged: {error}") from None

    def _input_side(self) -> int:
        text = self.metadata["image_size"]
        if not text.isdecimal() or int(text) < SMALLEST_SIDE:
            raise UserError(f"{self.name}: metadata `image_size` is not a side of an image: {text!r}")
        return int(text)

    def _number(self, key: str) -> float:
        try:
            return float(self.metadata[key])
        except ValueError:
            raise UserError(f"{self.name}: metadata `{key}` is not a number: {self.metadata[key]!r}") from None


def _names(values: list[Any]) -> str:
    return ", ".join(value.name for value in values) or "none"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `stlm export` makes it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
