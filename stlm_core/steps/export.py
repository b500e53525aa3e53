"""Step ``export``: the trained detector as one proven ONNX file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from stlm_core.config import EVALUATED_SECTIONS, TRAINED_SECTIONS, LineConfig
from stlm_core.data.manifest import Manifest, ManifestRow
from stlm_core.errors import UserError
from stlm_core.evaluation.evidence import FILE as EVIDENCE
from stlm_core.evaluation.operating_point import OperatingPoint
from stlm_core.export.facts import ExportFacts, digest_of_test_split
from stlm_core.export.latency import measure_latency
from stlm_core.export.model_card import model_card
from stlm_core.export.model_card_findings import read_findings
from stlm_core.export.model_card_html import card_html
from stlm_core.export.model_card_making import Making
from stlm_core.export.model_card_markdown import card_markdown
from stlm_core.export.onnx_graph import export_onnx
from stlm_core.export.parity import ParityImage, passes, prove_parity
from stlm_core.files import read_json_object, sha256_file, write_bytes_atomic, write_json_atomic
from stlm_core.integrations.revision import data_revision as revision_of_data
from stlm_core.integrations.revision import git_revision
from stlm_core.models.detector import Detector, ShippedDetector, asks_memory, load_detector, parameters_used
from stlm_core.models.remembered import add_remembered
from stlm_core.progress import progress
from stlm_core.runtime.capture import CaptureRange, measure_capture, ordinary_captures
from stlm_core.runtime.model import DetectorSession
from stlm_core.steps.contract import StepResult, code_version, run_step
from stlm_core.steps.manifest_images import row_image
from stlm_core.steps.provenance import require_made_from, require_trained_as_now
from stlm_core.steps.workspace import Workspace

# The card names all settings by one hash, and the seeds.
SECTIONS = TRAINED_SECTIONS
MODEL = "model.onnx"
PARITY = "parity.json"
LATENCY = "latency.json"
CARD, CARD_PAGE = "model_card.md", "model_card.html"
_CAPTURE_IMAGES = 200
_REMEDY = "run `stlm evaluate` again"


def export(
    config: LineConfig, workspace: Workspace, *, force: bool = False, data_revision: str | None = None
) -> StepResult:
    """Write ``model.onnx``, ``parity.json``, ``latency.json``, ``model_card.md`` and ``model_card.html``.

    The model is written only after its proof has passed. The commit checked out is recorded in the file when it is
    made, and the version of the images in the card; they are no inputs of the step, so a new commit that changes
    nothing else makes no new file. ``latency.json`` (and its table in the card) is a measurement: it differs from run
    to run.

    Args:
        data_revision: name of the version of the images; None to tell it from the project's files.

    Raises:
        UserError: an input is missing or damaged, detector or evaluation are of other settings or of other files than
            those at hand, or the line has no image to prove the export on.
        StlmError: the graph cannot be exported, or the proof failed.
    """
    inputs = {
        "detector": workspace.need("train-fa", "detector.safetensors"),
        "operating_point": workspace.need("evaluate", "operating_point.json"),
        "remembered": workspace.need("evaluate", "remembered.safetensors"),
        "metrics": workspace.need("evaluate", "metrics.json"),
        "images": workspace.need("evaluate", "images.csv"),
        "defects": workspace.need("evaluate", "defects.csv"),
        "examples": workspace.need("evaluate", "examples"),
        "evidence": workspace.need("evaluate", EVIDENCE),
        "manifest": workspace.need("validate", "manifest.parquet"),
    }

    require_trained_as_now(config, workspace)
    evaluated_on = {name: inputs[name] for name in ("detector", "manifest")}
    require_made_from(workspace.folder("evaluate"), "evaluate", config, EVALUATED_SECTIONS, evaluated_on)

    def work(folder: Path) -> str:
        manifest = Manifest.read(inputs["manifest"], config.resolve(config.data.path))
        detector = load_detector(inputs["detector"], config.evaluate.top_pixels, config.evaluate.map_source)
        add_remembered(detector, inputs["remembered"])
        facts = _facts(config, inputs, manifest, detector, _captures(config, manifest))
        parts = {row.path: row.group for row in manifest.test()}
        findings = read_findings(inputs, parts, seed=facts.test_sha256)
        point = facts.operating_point
        shipped = ShippedDetector(detector, point.raw_threshold, point.scale).eval()
        images = _parity_images(config, manifest)
        settings = config.export
        # Not under the progress: writing the graph takes far longer than a pass, and the time left would be nonsense.
        content = export_onnx(shipped, facts.metadata(), opset=settings.opset)
        session = DetectorSession(content, name=MODEL)
        with progress("export", passes(len(images)) + settings.latency_runs) as shown:
            shown.advance(0, note="proof")
            parity = prove_parity(
                shipped,
                session,
                images,
                tolerance=settings.tolerance,
                score_tolerance=settings.score_tolerance,
                on_batch=shown.advance,
            )
            parity.require()
            shown.advance(0, note="latency")
            latency = measure_latency(session, images[0].pixels, settings.latency_runs, on_run=shown.advance)
        write_json_atomic(folder / PARITY, parity.to_dict())
        write_json_atomic(folder / LATENCY, latency.to_dict())
        revision = revision_of_data(config) if data_revision is None else data_revision
        card = model_card(facts, parity, latency, findings, _making(config, manifest, detector, revision))
        write_bytes_atomic(folder / CARD, card_markdown(card).encode())
        write_bytes_atomic(folder / CARD_PAGE, card_html(card).encode())
        write_bytes_atomic(folder / MODEL, content)
        return (
            f"{MODEL} {latency.size_mb:.1f} MB, scores equal to torch's within "
            f"{parity.max_abs_score:.1e}, {latency.p50_ms:.0f} ms an image ({latency.cores} cores)"
        )

    return run_step("export", config, SECTIONS, inputs, workspace.folder("export"), work, force=force)


def _facts(
    config: LineConfig, inputs: dict[str, Path], manifest: Manifest, detector: Detector, captures: CaptureRange
) -> ExportFacts:
    metrics = {
        name: value
        for name, value in read_json_object(inputs["metrics"], _REMEDY).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return ExportFacts(
        line=config.name,
        profile=config.profile,
        detector=detector.facts,
        detector_sha256=sha256_file(inputs["detector"]),
        top_pixels=detector.top_pixels,
        map_source=detector.map_source,
        operating_point=OperatingPoint.from_dict(read_json_object(inputs["operating_point"], _REMEDY)),
        metrics=metrics,
        dataset_sha256=manifest.digest(),
        test_sha256=digest_of_test_split(manifest),
        images={split: len(manifest.split(split)) for split in ("train", "validation", "calibration", "test")},
        data_license=config.data.license,
        code_version=code_version(),
        git_revision=git_revision(config.root),
        captures=captures,
        start=_start(config, detector),
        remembered_sha256=sha256_file(inputs["remembered"]) if asks_memory(detector.facts, detector.map_source) else "",
    )


def _start(config: LineConfig, detector: Detector) -> str:
    """The catalogue's weights that a stream of ``detector`` was trained from; "" for the teacher's own or none."""
    init = config.model.init
    own = init in ("random", "teacher", config.teacher.name)
    return init if detector.facts.denoising and not own else ""


def _captures(config: LineConfig, manifest: Manifest) -> CaptureRange:
    """What is ordinary, from good images that are not for the test, evenly chosen."""
    good = [*manifest.train(), *manifest.validation(), *manifest.calibration()]
    some = good[:: -(-len(good) // _CAPTURE_IMAGES)]
    measured = []
    with progress("light and focus", len(some)) as shown:
        for row in some:
            measured.append(measure_capture(row_image(manifest, row, config.data.max_pixels), config.image.size))
            shown.advance()
    return ordinary_captures(measured)


def _making(config: LineConfig, manifest: Manifest, detector: Detector, revision: str) -> Making:
    sizes = Counter((row.width, row.height) for row in manifest.rows)
    return Making(
        config_sha256=config.model_hash(),
        data_revision=revision,
        parameters=parameters_used(detector),
        seeds={
            "data": config.data.seed,
            "synthesize": config.synthesize.seed,
            "distill": config.distill.seed,
            "train-fa": config.fa.seed,
        },
        photo=sizes.most_common(1)[0][0] if sizes else None,
    )


def _parity_images(config: LineConfig, manifest: Manifest) -> list[ParityImage]:
    """Test images, good and defective in turn; held-back good images where the line has no test images.

    Raises:
        UserError: there are neither, or an image has changed since the manifest was made.
    """
    test = manifest.test()
    ranked = [sorted((row for row in test if row.label == label), key=lambda row: row.sha256) for label in (0, 1)]
    good, anomalous = ranked
    shortest = min(len(good), len(anomalous))
    rows: list[ManifestRow] = [row for pair in zip(good, anomalous, strict=False) for row in pair]
    rows += good[shortest:] + anomalous[shortest:]
    rows = rows or sorted(manifest.calibration(), key=lambda row: row.sha256)
    if not rows:
        raise UserError(f"line {config.name}: no test or calibration image to prove the export on")
    return [
        ParityImage(row.path, row.split, row.sha256, row_image(manifest, row, config.data.max_pixels))
        for row in rows[: config.export.parity_images]
    ]
