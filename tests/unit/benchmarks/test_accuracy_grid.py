"""Lines, configurations and finished cells of the accuracy benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.configurations import CONFIGURATIONS, Configuration, read_configurations
from benchmarks.accuracy.grid import Grid, pipeline_figures
from benchmarks.accuracy.lines import Line, find_line, line_settings, write_params
from benchmarks.accuracy.records import Record, read_record, read_records, same_settings, write_record
from benchmarks.accuracy.tracking import flat, log_record, measured
from stlm_core.config import load_line
from stlm_core.errors import UserError

CELL = Record("part", "default", 1, {"fa": {"steps": 3}}, {"selection": 0.5}, {"image_auroc": 0.9}, {"distill": 2.0})


@pytest.mark.parametrize(
    ("rest", "layout", "data"),
    [("", "mvtec", {}), (":elpv", "elpv", {}), (":elpv:mono", "elpv", {"category": "mono"})],
)
def test_any_folder_is_a_line(tmp_path: Path, rest: str, layout: str, data: dict[str, str]) -> None:
    line = find_line(f"part={tmp_path}{rest}", tmp_path / "none", tmp_path)
    assert (line.name, line.folder, line.format) == ("part", tmp_path, layout)
    assert line.own.get("data", {}) == data
    assert line.own.get("validate", {}) == ({"require_masks": False} if layout == "elpv" else {})


@pytest.mark.parametrize("rest", [":nonsense", ":elpv:mono:more", "/missing"])
def test_lines_that_are_none(tmp_path: Path, rest: str) -> None:
    with pytest.raises(UserError, match="line part"):
        find_line(f"part={tmp_path}{rest}", tmp_path, tmp_path)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown line screwdriver: sample"):
        find_line("screwdriver", tmp_path, tmp_path)
    with pytest.raises(UserError, match="unknown configuration fast"):
        Grid(tmp_path, CONFIGURATIONS).check(["default", "padim", "fast"])


def test_textures_are_used_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "dtd_textures").mkdir()
    line = find_line(f"part={tmp_path}", tmp_path, tmp_path)
    assert line.own == {"synthesize": {"textures": str(tmp_path / "dtd_textures")}}


def test_a_configuration_lies_over_the_line_and_every_seed_is_set(tmp_path: Path) -> None:
    line = Line("part", tmp_path, "mvtec", {"synthesize": {"variants": 1}, "data": {"license": "CC0-1.0"}})
    settings = line_settings(line, 7, {"profile": "best", "synthesize": {"variants": 2}})
    write_params(tmp_path, "part-7-own", settings)
    config = load_line(tmp_path / "params.yaml", "part-7-own")
    assert (config.profile, config.synthesize.variants, config.image.size) == ("best", 2, 512)
    assert {config.data.seed, config.synthesize.seed, config.distill.seed, config.fa.seed} == {7}
    assert config.resolve(config.data.path) == tmp_path


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_are_valid(tmp_path: Path, name: str) -> None:
    settings = line_settings(Line("part", tmp_path, "mvtec", {}), 0, CONFIGURATIONS[name].settings)
    write_params(tmp_path, "part", settings)
    load_line(tmp_path / "params.yaml", "part")
    assert CONFIGURATIONS[name].weights_of in (None, *CONFIGURATIONS)


def test_configurations_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("long: {distill: {steps: 9}}\nraw: {weights_of: long, evaluate: {map_source: tlm}}\nplain:\n")
    assert read_configurations(file) == {
        "long": Configuration({"distill": {"steps": 9}}),
        "raw": Configuration({"evaluate": {"map_source": "tlm"}}, "long"),
        "plain": Configuration(),
    }


@pytest.mark.parametrize("text", ["a: {distil: {steps: 9}}", "a: 3", "- a", "a: ["])
def test_files_without_configurations(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"own\.yaml"):
        read_configurations(file)


def test_records_come_back(tmp_path: Path) -> None:
    other = replace(CELL, seed=0, settings={"distill": {"optimiser": {"betas": (0.9, 0.999)}}})
    write_record(tmp_path, CELL)
    write_record(tmp_path, other)
    assert [record.name for record in read_records(tmp_path)] == ["part-0-default", "part-1-default"]
    assert read_record(tmp_path, CELL.name) == CELL
    back = read_record(tmp_path, other.name)
    assert back is not None
    assert same_settings(back, other.settings)
    assert not same_settings(back, CELL.settings)
    assert read_record(tmp_path, "part-2-default") is None


def test_a_record_of_something_else(tmp_path: Path) -> None:
    write_record(tmp_path, CELL)
    (tmp_path / "records" / f"{CELL.name}.json").write_text(json.dumps({"line": "part"}))
    with pytest.raises(UserError, match="run the cell again"):
        read_record(tmp_path, CELL.name)


def test_a_finished_cell_is_kept(tmp_path: Path) -> None:
    """There are no images: whatever ran would fail."""
    line = Line("part", tmp_path / "none", "mvtec", {})
    cell = replace(CELL, settings=line_settings(line, 1, {}))
    write_record(tmp_path, cell)
    kept = Grid(tmp_path, CONFIGURATIONS).run(line, "default", 1)
    assert kept.test == CELL.test


def test_figures_of_a_finished_evaluation(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"image_auroc": 0.75, "threshold": 0.3, "test_good": 2}))
    (tmp_path / "images.csv").write_text("path,label,raw_score\na,0,0.1\nb,0,0.4\nc,1,0.5\nd,1,0.3\n")
    assert pipeline_figures(tmp_path) == {"image_auroc": 0.75, "recall_at_1": 0.5}


def test_names_of_nested_settings() -> None:
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": "x"})) == {"a.b": 1, "d": "x"}


@pytest.mark.integration
def test_every_cell_is_a_run_of_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_id = log_record(tmp_path, replace(CELL, facts={"revision": "abc", "machine": {"cores": 2}}))
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(run_id)
    assert run.data.metrics == pytest.approx(measured(CELL))
    assert run.data.params == {"fa.steps": "3", "line": "part", "configuration": "default", "seed": "1"}
    assert (run.data.tags["revision"], run.data.tags["machine.cores"]) == ("abc", "2")
    assert run.info.status == "FINISHED"
