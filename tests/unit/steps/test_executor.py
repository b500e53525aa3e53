"""The executor input and output: what KFP's own messages say, and garbage of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from kfp.dsl import Artifact
from kfp.pipeline_spec.pipeline_spec_pb2 import ExecutorInput, ExecutorOutput

from stlm_core.errors import UserError
from stlm_core.steps.executor import Task, read_task

STORES = ("s3://models/v2/a", "minio://mlpipeline/v2/artifacts/b", "gs://bucket/c", "/var/runs/d", "runs/e")


def artifact(name: str, uri: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uri": uri, "type": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}, **more}


def executor_input(folder: Path = Path("/runs")) -> dict[str, Any]:
    """As the message of KFP says it: two inputs, one of them a list, an output artifact and two output parameters."""
    text = {
        "inputs": {
            "parameterValues": {"line": "tiny", "shard": 1, "force": False, "fa": {"steps": 3, "seed": 0.5}},
            "artifacts": {
                "bank": {"artifacts": [artifact("bank", "minio://mlpipeline/v2/bank")]},
                "parts": {"artifacts": [artifact(f"part-{n}", f"s3://models/{n}/part") for n in range(3)]},
            },
        },
        "outputs": {
            "artifacts": {"features": {"artifacts": [artifact("features", f"{folder}/features")]}},
            "parameters": {
                "stale": {"outputFile": f"{folder}/stale"},
                "version": {"outputFile": f"{folder}/version"},
            },
            "outputFile": f"{folder}/output.json",
        },
    }
    given_: dict[str, Any] = json_format.MessageToDict(json_format.ParseDict(text, ExecutorInput()))
    return given_


def read(**changed: Any) -> Task:
    return read_task(json.dumps(executor_input() | changed))


def test_inputs_and_outputs_by_name() -> None:
    task = read()
    assert task.parameters == {"line": "tiny", "shard": 1, "force": False, "fa": {"steps": 3, "seed": 0.5}}
    assert task.artifact("bank") == Path("/minio/mlpipeline/v2/bank")
    assert task.artifacts["parts"] == tuple(Path(f"/s3/models/{n}/part") for n in range(3))
    assert task.output("features").path == Path("/runs/features")
    assert task.parameter_files == {"stale": Path("/runs/stale"), "version": Path("/runs/version")}
    assert task.output_file == Path("/runs/output.json")


def test_numbers_and_flags_come_back_as_what_they_are() -> None:
    """Protobuf knows no integers: 1 arrives as 1.0."""
    parameters = {"n": 1.0, "half": 0.5, "force": True, "text": "1", "none": None, "shard": {"index": 2.0, "of": {}}}
    task = read(inputs={"parameterValues": parameters})
    assert (task.number("n"), task.number("shard.index")) == (1, 2)
    assert isinstance(task.number("n"), int)
    assert task.flag("force") is True
    for name in ("half", "force", "text", "none", "shard", "shard.of", "shard.of.index", "n.index"):
        with pytest.raises(UserError, match=f"`{name}` is no whole number"):
            task.number(name)
    for name in ("n", "text", "none"):
        with pytest.raises(UserError, match=f"`{name}` is neither true nor false"):
            task.flag(name)


def test_a_name_the_signature_lacks_is_named() -> None:
    for ask in (Task.need, Task.number, Task.flag):
        with pytest.raises(UserError, match="no parameter `reason`"):
            ask(read(), "reason")
    with pytest.raises(UserError, match="no artifact `manifest`"):
        read().artifact("manifest")
    with pytest.raises(UserError, match="no output artifact `part`"):
        read().output("part")
    with pytest.raises(UserError, match="no artifact `parts`"):
        read(inputs={"artifacts": {"parts": {}}}).artifact("parts")


@pytest.mark.parametrize("uri", STORES)
def test_an_artifact_is_where_kfp_mounts_it(uri: str) -> None:
    task = read(inputs={"artifacts": {"bank": {"artifacts": [artifact("bank", uri)]}}})
    assert str(task.artifact("bank")) == Artifact(uri=uri).path


def test_a_path_of_its_own_goes_before_the_uri() -> None:
    listed = {"artifacts": [artifact("bank", "s3://models/bank", customPath="/mnt/bank")]}
    assert read(inputs={"artifacts": {"bank": listed}}).artifact("bank") == Path("/mnt/bank")


@pytest.mark.parametrize(
    "uri", ["", "http://example.com/bank", "oci://registry/bank", "s3://a\0b", "/a\ud800", 5, None]
)
def test_a_uri_that_is_nowhere(uri: Any) -> None:
    with pytest.raises(UserError, match="--executor-input: not the executor input of Kubeflow Pipelines"):
        read(inputs={"artifacts": {"bank": {"artifacts": [{"name": "bank", "uri": uri}]}}})


def test_a_task_without_inputs_and_outputs() -> None:
    """Protobuf leaves out what is empty."""
    task = read_task('{"outputs": {"outputFile": "/runs/output.json"}}')
    assert (task.parameters, task.artifacts, task.outputs, task.parameter_files) == ({}, {}, {}, {})


def test_kfp_reads_what_is_written(tmp_path: Path) -> None:
    """Into its own message; a parameter that the component does not declare is left out."""
    task = read_task(json.dumps(executor_input(tmp_path / "not" / "there")))
    task.output("features").metadata.update(auroc=0.5, passed=True)
    task.finish({"stale": True, "version": 3, "secret": "not declared"})
    written = json_format.Parse(task.output_file.read_text(), ExecutorOutput())
    assert {name: json_format.MessageToDict(value) for name, value in written.parameter_values.items()} == {
        "stale": True,
        "version": 3.0,
    }
    (features,) = written.artifacts["features"].artifacts
    assert (features.name, features.uri) == ("features", f"{tmp_path}/not/there/features")
    assert dict(features.metadata) == {"auroc": 0.5, "passed": True}


@given(st.dictionaries(st.sampled_from(["stale", "version", "other"]), st.none() | st.booleans() | st.text()))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    task = read_task(json.dumps(executor_input(tmp_path_factory.mktemp("run"))))
    task.finish(values)
    message = json_format.MessageToDict(json_format.Parse(task.output_file.read_text(), ExecutorOutput()))
    assert message.get("parameterValues", {}) == {name: value for name, value in values.items() if name != "other"}


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    task = read_task(json.dumps(executor_input(tmp_path / "file")))
    with pytest.raises(UserError, match="cannot be written"):
        task.finish({})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every node of a JSON value."""
    nodes = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, inner in nodes for place in places(inner, (*here, key)))]


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """An executor input of which one node is something else or missing."""
    whole = {"": executor_input()}
    *way, last = ("", *draw(st.sampled_from(places(whole[""]))))
    holder: Any = whole
    for key in way:
        holder = holder[key]
    if draw(st.booleans()) and way:
        del holder[last]
    else:
        holder[last] = draw(JSON)
    return json.dumps(whole[""])


CUT_OFF = st.integers(0, 900).map(lambda length: json.dumps(executor_input())[:length])


@given(spoilt() | JSON.map(json.dumps) | st.text() | CUT_OFF)
def test_garbage_is_a_task_or_one_sentence(text: str) -> None:
    told = ""
    try:
        task = read_task(text)
    except UserError as error:
        told = str(error)
    else:
        paths = [*task.parameter_files.values(), task.output_file, *(output.path for output in task.outputs.values())]
        for path in (*paths, *(path for listed in task.artifacts.values() for path in listed)):
            path.exists()  # a path that a file can have
    assert not told or told.startswith("--executor-input: not the executor input of Kubeflow Pipelines: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    "text", ["", "null", "[" * 100_000, '{"outputs": {"outputFile": ' + "9" * 5000 + "}}", "{{$}}"]
)
def test_other_texts(text: str) -> None:
    with pytest.raises(UserError, match="not the executor input"):
        read_task(text)
