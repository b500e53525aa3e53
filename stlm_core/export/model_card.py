"""The model card in Markdown: what the detector is for, what it was made of, what it was measured to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stlm_core.export.facts import ExportFacts
from stlm_core.export.latency import LatencyReport
from stlm_core.export.parity import ParityReport

_METRICS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro_30": "AUPRO@0.3",
    "aupro_05": "AUPRO@0.05",
    "recall_at_budget": "recall at the false-reject budget",
    "false_reject_rate": "false-reject rate",
}


def model_card(facts: ExportFacts, parity: ParityReport, latency: LatencyReport) -> str:
    """The card as Markdown, a function of its arguments alone."""
    sections = [
        f"# Anomaly detector for the line `{facts.line}`",
        _use(facts),
        "## Data and licences",
        _licences(facts),
        "## Measured on the test split",
        _metrics(facts.metrics),
        "## Operating point",
        _operating_point(facts),
        "## Does the file say what the trained model says?",
        _parity(parity),
        "## Speed and size",
        _latency(latency),
        "## How to reproduce",
        _reproduce(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _use(facts: ExportFacts) -> str:
    return (
        "## Intended use\n\n"
        f"Finds visible defects on parts of the line `{facts.line}` in photographs taken as the training images were: "
        "same camera position, light and kind of part. It was trained on good parts only, so it marks what looks "
        "unlike them, known defect or not. It supports an inspector or a sorter; it is not a safety device, does not "
        "measure sizes, and says nothing about defects that a photograph does not show. After a change of camera, "
        "light or part it must be trained and calibrated again.\n\n"
        f"Input: uint8 RGB images of any size (looked at in {facts.detector.size} x {facts.detector.size} pixels: "
        "defects that vanish at that size cannot be found). Output: score in [0, 1], anomaly map, decision "
        "(score > 0.5)."
    )


def _licences(facts: ExportFacts) -> str:
    rows = [
        ("images", ", ".join(f"{count} {split}" for split, count in facts.images.items())),
        ("data sha256", f"`{facts.dataset_sha256}`"),
        ("data licence", facts.data_license),
        ("teacher", f"{facts.detector.teacher or 'not recorded'}, sha256 `{facts.detector.teacher_sha256 or '-'}`"),
        ("teacher licence", facts.teacher_license),
    ]
    text = _table(("what", "value"), rows)
    if facts.non_commercial:
        text += f"\n\n**These weights are not for commercial use: {'; '.join(facts.non_commercial)}.**"
    if facts.data_license == "unknown":
        text += (
            "\n\n**The licence of the line's images is not recorded.** Set `data.license` of the line before the model "
            "leaves the house."
        )
    return text


def _metrics(metrics: Mapping[str, float]) -> str:
    rows = []
    for name, label in _METRICS.items():
        if name not in metrics:
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = f"{low:.1%} to {high:.1%}" if low is not None and high is not None else ""
        rows.append((label, f"{metrics[name]:.2%}", interval))
    if not rows:
        return "The line has no defective test images, or no test images at all: nothing could be measured."
    counts = (
        f"{metrics['test_good']:.0f} good and {metrics['test_anomalous']:.0f} defective test images, never used for "
        "training or for the threshold. One training run: the spread over seeds is not in these figures."
        if {"test_good", "test_anomalous"} <= metrics.keys()
        else ""
    )
    return "\n\n".join(part for part in (_table(("metric", "value", "95 % interval"), rows), counts) if part)


def _operating_point(facts: ExportFacts) -> str:
    point = facts.operating_point
    lines = [
        f"Budget: {_per_thousand(point.budget)} good parts may be rejected.",
        f"Guarantee, on average over calibration sets: at most {_per_thousand(point.guaranteed_false_reject)}.",
    ]
    if "false_reject_rate" in facts.metrics:
        lines.append(f"Measured on the good test images: {_per_thousand(facts.metrics['false_reject_rate'])}.")
    if "recall_at_budget" in facts.metrics:
        lines.append(f"Of defective test parts it finds {_per_thousand(facts.metrics['recall_at_budget'])}.")
    return "\n".join(f"- {line}" for line in lines) + f"\n\n{point.explain()}"


def _parity(parity: ParityReport) -> str:
    rows = [
        (
            str(case.batch),
            f"{case.width} x {case.height}",
            str(case.images),
            f"{case.max_abs_score:.1e}",
            f"{case.max_abs_map:.1e}",
            f"{case.flipped} ({case.excused} within tolerance of the threshold)" if case.flipped else "0",
        )
        for case in parity.cases
    ]
    versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
    table = _table(("batch", "image size", "images", "score, max abs", "map, max abs", "decisions changed"), rows)
    verdict = "Passed" if parity.passed else "FAILED"
    return (
        f"{verdict}: torch against ONNX Runtime on {len(parity.images)} real images, tolerance "
        f"{parity.score_tolerance:.0e} on scores and {parity.tolerance:.0e} on maps ({versions}; "
        f"{', '.join(parity.providers)}).\n\n{table}"
    )


def _latency(latency: LatencyReport) -> str:
    threads = f"{latency.threads} threads" if latency.threads else f"all {latency.cores} cores"
    rows = [
        ("one image, median", f"{latency.p50_ms:.1f} ms"),
        ("one image, 95th percentile", f"{latency.p95_ms:.1f} ms"),
        ("file", f"{latency.size_mb:.1f} MB"),
    ]
    return (
        f"{_table(('what', 'value'), rows)}\n\n{latency.width} x {latency.height} pixels, {latency.runs} runs after "
        f"{latency.warm_up} of warm-up, ONNX Runtime {latency.onnxruntime} on {latency.cpu}, {threads}."
    )


def _reproduce(facts: ExportFacts) -> str:
    revision = f"git checkout {facts.git_revision.removesuffix('-dirty')}\n" if facts.git_revision else ""
    dirty = (
        "\n\nThe checkout had local changes when this file was made." if facts.git_revision.endswith("-dirty") else ""
    )
    return (
        f"```\n{revision}dvc pull\nstlm export --line {facts.line}\n```\n\n"
        f"Code {facts.code_version}, profile `{facts.profile}`, detector sha256 `{facts.detector_sha256}`.{dirty}"
    )


def _per_thousand(fraction: float) -> str:
    return f"{fraction * 1000:.0f} of 1000"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
