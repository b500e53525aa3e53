"""Running the cells of the grid: each a pipeline run by the steps of ``stlm``, or a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.accuracy.baselines import BASELINES, run_baseline
from benchmarks.accuracy.configurations import Configuration
from benchmarks.accuracy.figures import FIGURES, recall_at_fpr
from benchmarks.accuracy.lines import REPOSITORY, Line, line_settings, stlm, write_params
from benchmarks.accuracy.records import Record, cell_name, read_record, same_settings, write_record
from benchmarks.accuracy.tracking import log_record
from benchmarks.measure import surroundings
from stlm_core.config import load_line
from stlm_core.errors import UserError
from stlm_core.files import read_json_object
from stlm_core.integrations.revision import git_revision
from stlm_core.steps.contract import code_version, read_manifest
from stlm_core.steps.evaluate import METRICS
from stlm_core.steps.training import SELECTION_FILE

_TRAINING = ("validate", "synthesize", "cache-teacher", "distill", "train-fa", "evaluate", "export")
_VALIDATION = ("image", "data", "synthesize")  # decide what is validated on
_AGAIN = "run the cell again"
_PACKAGES = ("torch", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Grid:
    """``results``: folder of everything. ``peers``: interpreter for the baselines of others. ``export``: whether cells
    end with the ONNX file, which takes most of a minute and is needed for ``robustness`` only."""

    results: Path
    configurations: Mapping[str, Configuration]
    peers: Path | None = None
    export: bool = True

    def check(self, names: Sequence[str]) -> None:
        """Refuse names that are neither a configuration nor a baseline before anything runs.

        Raises:
            UserError: such a name.
        """
        known = (*self.configurations, *BASELINES)
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"unknown configuration {unknown[0]}: {', '.join(known)}")

    def run(self, line: Line, name: str, seed: int) -> Record:
        """The finished cell: kept from an earlier run with the same settings, or run, logged and kept now.

        Raises:
            subprocess.CalledProcessError: a step failed.
        """
        if name in BASELINES:
            settings = {"data": line_settings(line, 0, {})["data"]}
        else:
            settings = line_settings(line, seed, self.configurations[name].settings)
        kept = read_record(self.results, cell_name(line.name, name, seed))
        if kept is not None and same_settings(kept, settings):
            return kept
        record = self._baseline(line, name, seed, settings) if name in BASELINES else self._cell(line, name, seed)
        log_record(self.results, record)
        write_record(self.results, record)
        return record

    def _cell(self, line: Line, name: str, seed: int) -> Record:
        configuration, cell = self.configurations[name], cell_name(line.name, name, seed)
        settings = line_settings(line, seed, configuration.settings)
        project = self.project(cell)
        trained = project / "outputs" / cell
        given: list[str] = []
        steps: Sequence[str] = _TRAINING if self.export else _TRAINING[:-1]
        if configuration.weights_of is not None:
            self.run(line, configuration.weights_of, seed)
            other = cell_name(line.name, configuration.weights_of, seed)
            trained = self.project(other) / "outputs" / other
            given, steps = ["--input", f"train-fa={trained / 'train-fa'}"], ("validate", "evaluate")
        write_params(project, cell, settings)
        for step in steps:
            stlm(project, [step, "--line", cell, *(given if step == "evaluate" else [])])
        outputs = project / "outputs" / cell
        costs = {step: read_manifest(outputs / step) for step in steps}
        # The streams' own figures come from the step that trained them.
        selected = "distill" if settings.get("evaluate", {}).get("map_source") == "tlm" else "train-fa"
        return Record(
            line.name,
            name,
            seed,
            settings,
            read_json_object(trained / selected / SELECTION_FILE, _AGAIN)["best"],
            pipeline_figures(outputs / "evaluate"),
            {step: cost["seconds"] for step, cost in costs.items()},
            max(cost["peak_memory_mib"] for cost in costs.values()),
            {**_facts(), "pseudo_anomalies": load_line(project / "params.yaml", cell).section_hash(*_VALIDATION)},
        )

    def project(self, cell: str) -> Path:
        """The folder with the cell's ``params.yaml`` and outputs; one each, so that several can run at once."""
        return self.results / "cells" / cell

    def _baseline(self, line: Line, name: str, seed: int, settings: Mapping[str, Any]) -> Record:
        found = run_baseline(self.results, line, name, seed, self.peers)
        seconds = {"fit": found.pop("fit_seconds")}
        figures, memory = found.pop("test"), found.pop("peak_memory_mib")
        return Record(line.name, name, seed, settings, {}, figures, seconds, memory, {**_facts(), **found})


def pipeline_figures(evaluate: Path) -> dict[str, float]:
    """Figures of the test split that the step left in its folder, and the recall at 1 % false rejects."""
    metrics = read_json_object(evaluate / METRICS, _AGAIN)
    images = pd.read_csv(evaluate / "images.csv")
    found = {**metrics, "recall_at_1": recall_at_fpr(images["label"], images["raw_score"])}
    return {name: float(found[name]) for name in FIGURES if found.get(name) is not None}


def _facts() -> dict[str, Any]:
    return {
        "revision": git_revision(REPOSITORY),
        "code": code_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "machine": surroundings(torch.get_num_threads(), _PACKAGES),
    }
