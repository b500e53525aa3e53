"""Latency of single images."""

from __future__ import annotations

import json

import numpy as np
from tiny_onnx import tiny_onnx

from stlm_core.export.latency import cpu_model, measure_latency, usable_cores
from stlm_core.runtime.model import DetectorSession


def test_the_figures_are_consistent_and_say_what_they_were_measured_on() -> None:
    content = tiny_onnx()
    runs: list[int] = []
    image = np.zeros((40, 60, 3), np.uint8)
    report = measure_latency(DetectorSession(content, threads=1), image, 7, threads=1, on_run=lambda: runs.append(1))
    assert len(runs) == report.runs == 7
    assert 0 < report.min_ms <= report.p50_ms <= report.p95_ms
    assert (report.width, report.height, report.threads) == (60, 40, 1)
    assert report.cores == usable_cores() >= 1
    assert report.cpu == cpu_model() != ""
    assert report.size_mb == round(len(content) / 1e6, 3)
    assert json.loads(json.dumps(report.to_dict()))["providers"] == ["CPUExecutionProvider"]
