"""Tasks as a container of Kubeflow Pipelines runs them: ``stlm task`` with a real executor input."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kfp.pipeline_spec.pipeline_spec_pb2 import ExecutorInput, ExecutorOutput
from line_project import mvtec_dataset
from registry_project import make_project, write_export

from stlm_core.cli.main import main
from stlm_core.config import as_parameter
from stlm_core.data.manifest import Manifest
from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking
from stlm_core.steps.container import TASKS, open_task
from stlm_core.steps.packed_images import pack_images

DATA = {"path": "data/tiny", "license": "CC0-1.0"}
Stlm = Callable[..., tuple[int, str]]


def executor_input(
    folder: Path,
    parameters: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, Path | list[Path]] | None = None,
    made: tuple[str, ...] = (),
    written: tuple[str, ...] = (),
) -> str:
    """As kfp.local makes it of a task that makes the artifacts ``made`` and the parameters ``written``."""
    listed = {name: path if isinstance(path, list) else [path] for name, path in (artifacts or {}).items()}
    text = {
        "inputs": {
            "parameterValues": dict(parameters or {}),
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": str(path)} for path in paths]}
                for name, paths in listed.items()
            },
        },
        "outputs": {
            "artifacts": {name: {"artifacts": [{"name": name, "uri": str(folder / name)}]} for name in made},
            "parameters": {name: {"outputFile": str(folder / name)} for name in written},
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    return json_format.MessageToJson(json_format.ParseDict(text, ExecutorInput()))


def executor_output(folder: Path) -> dict[str, Any]:
    text = (folder / "executor_output.json").read_text()
    message: dict[str, Any] = json_format.MessageToDict(json_format.Parse(text, ExecutorOutput()))
    return message


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def stlm(scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stlm:
    """``stlm task``: exit code and what was printed. Nothing is left in the folder for temporary files."""

    def run(name: str, given_: str, line: str = "tiny") -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["stlm", "task", name, "--line", line, "--executor-input", given_])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert list(scratch.glob("stlm-*")) == []
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The line's images as one file."""
    root = tmp_path_factory.mktemp("line")
    mvtec_dataset(root / "data/tiny", train=22)
    names = [path.relative_to(root).as_posix() for path in (root / "data").rglob("*.png")]
    pack_images("tiny", "r1", root, names, root / "images.tar")
    return root / "images.tar"


def test_validate_leaves_its_folder_its_report_and_a_description(stlm: Stlm, packed: Path, tmp_path: Path) -> None:
    parameters = {"line": "tiny", "data": DATA, "validate": {}, "data_image": "sha256:1"}
    given_ = executor_input(tmp_path / "run", parameters, {"images": packed}, made=("manifest", "report"))
    code, printed = stlm("validate", given_)
    assert code == 0, printed
    assert "validate tiny: " in printed
    manifest = Manifest.read(tmp_path / "run/manifest/manifest.parquet", tmp_path)
    assert len(manifest.rows) == 26
    report = (tmp_path / "run/report").read_bytes()
    assert report == (tmp_path / "run/manifest/data_docs/index.html").read_bytes()
    assert b"<html" in report
    assert executor_output(tmp_path / "run")["artifacts"] == {
        name: {"artifacts": [{"name": name, "uri": str(tmp_path / "run" / name), "metadata": {}}]}
        for name in ("manifest", "report")
    }

    (tmp_path / "run/report").unlink()  # a second attempt finds the step finished, and describes it again
    assert stlm("validate", given_)[0] == 0
    assert (tmp_path / "run/report").read_bytes() == report


def test_a_line_that_is_not_valid(stlm: Stlm, packed: Path, tmp_path: Path) -> None:
    parameters = {"data": DATA, "validate": {"min_train_images": 1000}}
    given_ = executor_input(tmp_path / "run", parameters, {"images": packed}, made=("manifest", "report"))
    code, printed = stlm("validate", given_)
    assert code == 2
    assert "line tiny is not valid" in printed
    assert not (tmp_path / "run/executor_output.json").exists()


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("nonsense", {}, "no task `nonsense`; there are validate, "),
        ("validate", {"validate": {"min_train_images": "many"}}, "line tiny: `validate.min_train_images`"),
        ("validate", {"validate": {"colour": 1}}, "line tiny: `validate.colour`"),
        ("validate", {"validate": "strict"}, "parameter `validate` is not a mapping of settings"),
        ("validate", {"validate": {"null": 5}}, "`null` of a section does not list settings"),
        ("validate", {"data": DATA | {"null": ["path.of"]}}, "`null` of a section does not list settings"),
        ("validate", {"data": DATA}, "data/tiny: no such folder"),
        ("evaluate", {"data": DATA}, "run `stlm"),
        ("distill", {"gpus": "all"}, "parameter `gpus` is no whole number"),
        ("cache-teacher-shard", {}, "no parameter `shard`"),
        ("cache-teacher-shard", {"shard": 0}, "parameter `shard.index` is no whole number"),
        ("cache-teacher-shard", {"shard": {"index": 0}}, "parameter `shard.count` is no whole number"),
        ("cache-teacher-shard", {"shard": {"index": 0, "count": 2}}, "no output artifact `part`"),
        ("register", {}, "no parameter `data_revision`"),
        ("check-freshness", {"data_revision": "latest", "force": "false"}, "`force` is neither true nor false"),
        ("fetch-images", {"data_revision": "latest", "champion": ""}, "no output artifact `images`"),
        ("promote", {"data": DATA}, "no parameter `by`"),
        ("record-outcome", {"status": "SUCCEEDED"}, "parameter `status` is not the final status"),
        ("record-outcome", {"status": {}, "run_name": "n", "run_id": "1"}, "must not be empty"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    stlm: Stlm, tmp_path: Path, name: str, parameters: dict[str, Any], told: str
) -> None:
    code, printed = stlm(name, executor_input(tmp_path / "run", parameters))
    assert code == 2
    assert printed.count("\n") == 1
    assert told in printed


def test_other_mistakes(stlm: Stlm, packed: Path, tmp_path: Path) -> None:
    assert "not the executor input" in stlm("validate", "{{$}}")[1]
    assert "line name `Tiny Line` must be" in stlm("validate", executor_input(tmp_path), "Tiny Line")[1]
    (tmp_path / "cut.tar").write_bytes(packed.read_bytes()[:5000])
    for images, told in (("cut.tar", "fetch it again"), ("absent.tar", "cannot be read: No such file")):
        code, printed = stlm("validate", executor_input(tmp_path, {"data": DATA}, {"images": tmp_path / images}))
        assert (code, told in printed) == (2, True), printed


def test_an_output_that_cannot_be_written(stlm: Stlm, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given_ = executor_input(tmp_path / "file", {"data": DATA}, {"images": packed}, made=("manifest", "report"))
    code, printed = stlm("validate", given_)
    assert code in (1, 2)
    assert str(tmp_path / "file") in printed.splitlines()[-1]


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["null", "path", "seed"]), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["data", "profile", "fa", "register", "promote"]), GARBAGE))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_settings_are_a_configuration_or_one_sentence(
    scratch: Path, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    told = ""
    try:
        with open_task("tiny", executor_input(tmp_path, parameters)) as (_, config, workspace):
            assert workspace.root.is_relative_to(scratch)
            assert config.root.is_relative_to(scratch)
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    assert list(scratch.iterdir()) == []


def test_the_scratch_project_goes_whatever_ends_the_task(scratch: Path, tmp_path: Path) -> None:
    for ended in (KeyboardInterrupt, MemoryError, SystemExit):
        with suppress(ended), open_task("tiny", executor_input(tmp_path)) as (_, config, _workspace):
            (config.root / "half").write_text("done")
            raise ended
        assert list(scratch.iterdir()) == []


def test_inputs_are_found_and_outputs_go_where_kfp_says(scratch: Path, tmp_path: Path) -> None:
    given_ = executor_input(tmp_path / "run", {}, {"bank": tmp_path / "bank"}, made=("features", "report"))
    with open_task("tiny", given_) as (_, _config, workspace):
        assert workspace.folder("synthesize") == tmp_path / "bank"
        assert workspace.folder("cache-teacher") == tmp_path / "run/features"
        assert workspace.folder("distill").is_relative_to(scratch)


def test_every_task_can_be_asked_for() -> None:
    assert {"validate", "export", "cache-teacher-shard", "fetch-images", "promote", "record-outcome"} <= set(TASKS)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that the containers reach by its address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


def test_from_registration_to_promotion_and_the_record_of_the_run(stlm: Stlm, registry: Path) -> None:
    config, workspace = make_project(registry / "project")
    sections = {
        name: as_parameter(section)
        for name, section in config.model_dump(mode="json", by_alias=True).items()
        if name in ("data", "teacher", "promote")
    }
    steps = ("manifest", "validate"), ("streams", "distill"), ("detector", "train-fa")
    folders = {name: workspace.folder(step) for name, step in (*steps, ("evaluation", "evaluate"), ("onnx", "export"))}

    def register(folder: Path, **metrics: float) -> dict[str, Any]:
        write_export(workspace, revision=folder.name, **metrics)
        parameters = {**sections, "profile": "fast", "data_revision": "r1"}
        written = ("version", "alias", "model_uri")
        code, printed = stlm("register", executor_input(folder, parameters, folders, ("registration",), written))
        assert code == 0, printed
        assert (folder / "registration/registration.json").is_file()
        values: dict[str, Any] = executor_output(folder)["parameterValues"]
        return values

    def promote(folder: Path) -> str:
        parameters = {name: sections[name] for name in ("data", "promote")}
        parameters |= {"by": "", "run_name": "stlm-promotion-5", "reason": ""}
        code, printed = stlm("promote", executor_input(folder, parameters, {}, ("decision",), ("outcome",)))
        assert code == 0, printed
        return str(executor_output(folder)["parameterValues"]["outcome"])

    first = {"version": 1.0, "alias": "challenger", "model_uri": "models:/stlm-tiny/1"}
    assert register(registry / "first") == first
    assert promote(registry / "promoted") == "promoted"
    assert (
        (registry / "promoted/decision")
        .read_text()
        .startswith("# version 1 of line tiny is champion\n\n**Promote**\n\n| verdict ")
    )

    assert register(registry / "worse", recall_at_budget=0.2)["alias"] == "challenger"
    assert promote(registry / "kept") == "kept"
    decision = (registry / "kept/decision").read_text().splitlines()
    assert decision[:2] == ["# version 2 of line tiny is kept back", ""]
    assert decision[2] == "**Keep the champion**"
    assert decision[6].startswith(
        "| fail | recall at the budget | recall at the budget 0.2000 against 0.7000 of champion 1"
    )

    # What kfp.local and what a cluster says of the run; the group before the exit handler is no task that failed.
    said = {"pipeline_task_name": "train-fa"}, {"pipelineTaskName": "exit-handler-1"}
    for number, name in enumerate(said):
        status = {"state": "FAILED", **name, "error": {"code": 1, "message": "no more disk"}}
        parameters = {"run_name": f"run-{number}", "run_id": f"id-{number}", "status": status, "register": {}}
        code, printed = stlm("record-outcome", executor_input(registry / f"outcome-{number}", parameters))
        assert (code, printed) == (0, f"record-outcome tiny: run run-{number} of line tiny: FAILED\n")
    with open_tracking(registry) as tracking:
        experiment = tracking.client.get_experiment_by_name("stlm-tiny")
        runs = {run.info.run_name: run.data.tags for run in tracking.client.search_runs([experiment.experiment_id])}
        assert tracking.client.get_model_version("stlm-tiny", "1").tags["promoted_by"] == "pipeline stlm-promotion-5"
    for number, failed in enumerate(("train-fa", None)):
        tags = runs[f"pipeline run-{number}"]
        assert (tags.get("failed_task"), tags["message"]) == (failed, "no more disk")
