"""Step ``quantize``: an int8 version of the exported file, where a proof on the line's own images holds.

Nobody's input: `stlm run`, DVC and Kubeflow know nothing of it, and the registry takes the float file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.config import LineConfig
from stlm_core.data.manifest import Manifest
from stlm_core.errors import UserError
from stlm_core.export.int8 import quantised
from stlm_core.export.int8_proof import Int8Proof, ProofImage, prove_int8
from stlm_core.export.latency import LatencyReport, measure_in_turns
from stlm_core.files import write_bytes_atomic, write_json_atomic
from stlm_core.progress import progress
from stlm_core.runtime.model import DetectorSession
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.manifest_images import row_image, row_mask
from stlm_core.steps.workspace import Workspace
from stlm_core.synthesis.bank import Bank

SECTIONS = ("data", "export")
MODEL = "model.onnx"
PROOF = "proof.json"
CALIBRATION_IMAGES = 64
"""Good training images that the ranges come from, and as many pseudo-anomalous views of the bank, without which the
decoder would be cut off where a defect drives it. Each costs a pass of the float file. The threshold's and the test
images are kept for the proof."""


def quantize(config: LineConfig, workspace: Workspace, *, force: bool = False) -> StepResult:
    """Write ``model.onnx`` in int8 and ``proof.json``, or refuse and write neither.

    The time of both files is measured and reported; it decides nothing, since another machine has another.

    Raises:
        UserError: an input is missing or damaged, an image has changed since the manifest was made, there is no
            training image, or the detector has another structure than int8 is for.
        StlmError: the proof failed; the message names the figure.
    """
    inputs = {
        "model": workspace.need("export", MODEL),
        "manifest": workspace.need("validate", "manifest.parquet"),
        "bank": workspace.need("synthesize", "index.parquet"),
    }

    def work(folder: Path) -> str:
        manifest = Manifest.read(inputs["manifest"], config.resolve(config.data.path))
        pixels = config.data.max_pixels
        bank = Bank.open(inputs["bank"].parent)
        chosen = sorted(manifest.train(), key=lambda row: row.sha256)[:CALIBRATION_IMAGES]
        if not chosen:
            raise UserError(f"line {config.name}: no training image to find the ranges of int8 on")
        painted = bank.index[bank.index["mask_fraction"] > 0].sort_values("view_sha256")["view"][:CALIBRATION_IMAGES]
        float32 = DetectorSession(inputs["model"])
        runs = config.export.latency_runs
        ranged = len(chosen) + len(painted)
        total = ranged + len(manifest.calibration()) + len(manifest.test()) + runs
        with progress(f"quantize {config.name}", total) as shown:

            def calibration() -> Iterator[npt.NDArray[np.uint8]]:
                goods = (row_image(manifest, row, pixels) for row in chosen)
                for image in chain(goods, (bank.views([view])[0] for view in painted)):
                    yield image
                    shown.advance(note="ranges")

            content = quantised(inputs["model"].read_bytes(), calibration())
            int8 = DetectorSession(content, name=MODEL)
            proof = prove_int8(
                float32,
                int8,
                _proof_images(manifest, pixels),
                score_tolerance=config.export.score_tolerance,
                on_image=lambda: shown.advance(note="proof"),
            )
            proof.require()
            first = row_image(manifest, manifest.test()[0], pixels)
            latency = measure_in_turns([float32, int8], first, runs, on_run=lambda: shown.advance(note="latency"))
        write_json_atomic(folder / PROOF, proof.to_dict((latency[0], latency[1]), ranged))
        write_bytes_atomic(folder / MODEL, content)
        return _summary(proof, latency[0], latency[1])

    return run_step("quantize", config, SECTIONS, inputs, workspace.folder("quantize"), work, force=force)


def _proof_images(manifest: Manifest, max_pixels: int) -> Iterator[ProofImage]:
    for held_back, rows in ((True, manifest.calibration()), (False, manifest.test())):
        for row in rows:
            pixels = row_image(manifest, row, max_pixels)
            mask = row_mask(manifest, row, (pixels.shape[0], pixels.shape[1]), max_pixels)
            yield ProofImage(row.path, row.label, held_back, pixels, mask)


def _summary(proof: Int8Proof, float32: LatencyReport, int8: LatencyReport) -> str:
    before, after = proof.float32, proof.int8
    excused = f" (and {len(proof.excused)} on the threshold)" if proof.excused else ""
    parts = [
        f"{MODEL} in int8, {after.size_mb:.1f} MB instead of {before.size_mb:.1f}",
        f"{int8.p50_ms / float32.p50_ms:.2f} of the time ({int8.p50_ms:.0f} instead of {float32.p50_ms:.0f} ms an "
        f"image, {int8.cores} cores)",
        f"{len(proof.flipped) - len(proof.excused)} of {proof.images} decisions differ{excused}",
    ]
    shown = (
        ("image AUROC", before.image_auroc, after.image_auroc),
        ("pixel AUROC", before.pixel_auroc, after.pixel_auroc),
        ("AUPRO", before.aupro_30, after.aupro_30),
    )
    parts += [f"{title} {now:.4f} ({was:.4f})" for title, was, now in shown if was is not None and now is not None]
    return ", ".join(parts)
