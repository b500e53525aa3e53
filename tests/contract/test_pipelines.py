"""The pipelines of Kubeflow: compiled as checked in, and the same steps as dvc.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

import stlm_core
from components.command import VERSION
from pipelines.arguments import TRAINING_SECTIONS, digests_of, promotion_arguments, training_arguments
from pipelines.closure import close_over_parameters
from pipelines.compilation import COMPILED, PIPELINES, compile_pipeline
from pipelines.placement import CONFIG, MLFLOW_SECRET, STORE_SECRET, Images
from stlm_core.config import SECTIONS, as_parameter, from_parameter, line_from_sections, load_line
from stlm_core.steps.container import ARTIFACTS, TASKS
from stlm_core.steps.contract import code_version
from stlm_core.steps.version_tags import IMAGE_DIGEST
from stlm_core.steps.workspace import STEPS

# Tasks of the cluster's pipeline that are no steps on a workstation.
AROUND = {"check-freshness", "fetch-images", "cache-teacher-shard", "promote", "record-outcome"}
TRAINING = ("training-cpu", "training-gpu")


class Compiled:
    """A pipeline as checked in: ``tasks`` are its containers' task specs and component specs, by name."""

    def __init__(self, name: str) -> None:
        self.spec, *platform = yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text())
        self.platform = platform[0] if platform else {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.components: dict[str, dict[str, Any]] = {}
        self._walk(self.spec["root"])

    def _walk(self, component: dict[str, Any]) -> None:
        for name, task in component["dag"]["tasks"].items():
            inner = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in inner:
                self._walk(inner)
            else:
                self.tasks[name], self.components[name] = task, inner

    def container(self, task: str) -> dict[str, Any]:
        return self.spec["deploymentSpec"]["executors"][self.components[task]["executorLabel"]]["container"]

    def kubernetes(self, task: str) -> dict[str, Any]:
        return self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][
            self.components[task]["executorLabel"]
        ]


@pytest.fixture(scope="module", params=TRAINING)
def training(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(request.param)


@pytest.fixture(scope="module")
def stages(repository: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    return {name: stage["do"] for name, stage in found.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_checked_in_is_what_the_code_compiles_to(name: str) -> None:
    checked_in = (COMPILED / f"{name}.yaml").read_text()
    assert checked_in == compile_pipeline(name, Images()), "run `python -m pipelines compile`"


@pytest.mark.parametrize("name", PIPELINES)
def test_the_ir_is_what_kfp_defines(name: str) -> None:
    """Both documents parse into KFP's own messages, with no field that they do not know."""
    spec, platform = yaml.safe_load_all((COMPILED / f"{name}.yaml").read_text())
    json_format.ParseDict(spec, PipelineSpec())
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, KubernetesExecutorConfig())


@pytest.mark.parametrize("name", PIPELINES)
def test_every_value_that_a_task_reads_is_passed_to_it(name: str) -> None:
    """What the compiler leaves out, and close_over_parameters puts in: at every level, up to the pipeline itself."""
    spec = Compiled(name).spec
    levels = [spec["root"], *(component for component in spec["components"].values() if "dag" in component)]
    for component in levels:
        declared = component.get("inputDefinitions", {})
        for task_name, task in component["dag"]["tasks"].items():
            for given_ in task.get("inputs", {}).get("parameters", {}).values():
                if "componentInputParameter" in given_:
                    assert given_["componentInputParameter"] in declared["parameters"], task_name
            for given_ in task.get("inputs", {}).get("artifacts", {}).values():
                if "componentInputArtifact" in given_:
                    assert given_["componentInputArtifact"] in declared["artifacts"], task_name


def test_a_parameter_of_nobody_is_an_error() -> None:
    task = {"componentRef": {"name": "c"}, "inputs": {"parameters": {"a": {"componentInputParameter": "nobody"}}}}
    with pytest.raises(ValueError, match="nobody"):
        close_over_parameters({"root": {"dag": {"tasks": {"t": task}}}, "components": {"c": {"executorLabel": "e"}}})


def test_the_steps_are_those_of_dvc(training: Compiled, stages: dict[str, dict[str, Any]]) -> None:
    assert set(training.tasks) - AROUND == set(stages) == set(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_edges_are_those_of_dvc(step: str, training: Compiled, stages: dict[str, dict[str, Any]]) -> None:
    """A step reads the folders of the steps that its DVC stage depends on, and the images where that does."""
    before = {dep.split("/")[2] for dep in stages[step]["deps"] if dep.startswith("outputs/")}
    artifacts = training.components[step].get("inputDefinitions", {}).get("artifacts", {})
    assert {ARTIFACTS[name] for name in artifacts if name in ARTIFACTS} == before - {step}
    if "${item.data.path}" in stages[step]["deps"]:
        assert "images" in artifacts
    for name, given_ in training.tasks[step].get("inputs", {}).get("artifacts", {}).items():
        producer = given_.get("taskOutputArtifact", {}).get("producerTask")
        if name in ARTIFACTS:
            assert producer == ARTIFACTS[name]


@pytest.mark.parametrize("step", STEPS)
def test_parameters_are_the_sections_of_dvc(step: str, training: Compiled, stages: dict[str, dict[str, Any]]) -> None:
    """`register` writes all settings into the run, so it gets them all; resources decide nothing."""
    listed = {name.rpartition(".")[2] for name in stages[step]["params"]}
    given_ = set(training.components[step]["inputDefinitions"]["parameters"]) & set(SECTIONS)
    assert given_ == (set(SECTIONS) - {"resources", "schedule"} if step == "register" else listed)
    assert listed <= given_


def test_freshness_is_judged_by_every_setting_of_the_run(training: Compiled) -> None:
    """``promote`` too: `promote.automatic` says whether a challenger that nobody judged is a reason to train. ``data``
    is the published version's."""
    parameters = training.components["check-freshness"]["inputDefinitions"]["parameters"]
    assert set(parameters) & set(SECTIONS) == set(TRAINING_SECTIONS)


def test_every_container_runs_stlm_and_nothing_else() -> None:
    for name in ("training-cpu", "training-gpu", "promotion"):
        compiled = Compiled(name)
        for task in compiled.tasks:
            container = compiled.container(task)
            assert container["command"] == ["stlm", "task", task]
            assert container["args"] == ["--line", "{{$.inputs.parameters['line']}}", "--executor-input", "{{$}}"]
            assert task in TASKS


def test_what_touches_the_world_is_never_cached(training: Compiled) -> None:
    uncached = {"check-freshness", "register", "promote", "record-outcome"}
    for name, task in training.tasks.items():
        assert task["cachingOptions"].get("enableCache", False) is (name not in uncached), name


def test_caching_sees_new_images_and_new_data(training: Compiled) -> None:
    for name in set(training.tasks) - {"check-freshness", "register", "promote", "record-outcome"}:
        parameters = training.components[name]["inputDefinitions"]["parameters"]
        assert any(parameter.endswith("_image") for parameter in parameters), name
    assert {"data_revision", "champion"} <= set(training.components["fetch-images"]["inputDefinitions"]["parameters"])


def test_storage_has_its_addresses_credentials_and_retries(training: Compiled) -> None:
    for name in ("check-freshness", "fetch-images", "register", "promote", "record-outcome"):
        config = training.kubernetes(name)
        secrets = {entry["secretKey"] for found in config["secretAsEnv"] for entry in found["keyToEnv"]}
        assert secrets == {*STORE_SECRET, *MLFLOW_SECRET}
        maps = {entry["configMapKey"] for found in config["configMapAsEnv"] for entry in found["keyToEnv"]}
        assert maps == set(CONFIG)
        assert training.tasks[name]["retryPolicy"]["maxRetryCount"] == 2
    for name in ("distill", "validate"):
        assert "secretAsEnv" not in training.kubernetes(name)


def test_gpus_and_weights_where_they_are_used() -> None:
    gpu, cpu = Compiled("training-gpu"), Compiled("training-cpu")
    # The bank: textures of a line's own can be put beside the weights.
    with_weights = {"synthesize", "cache-teacher-shard", "cache-teacher", "distill", "train-fa"}
    computes = {"cache-teacher-shard", "distill", "train-fa", "evaluate"}
    for name in gpu.tasks:
        assert ("accelerator" in gpu.container(name)["resources"]) is (name in computes)
        assert ("tolerations" in gpu.kubernetes(name)) is (name in computes)
        assert "accelerator" not in cpu.container(name)["resources"]
        mounted = [mount["mountPath"] for mount in cpu.kubernetes(name).get("pvcMount", [])]
        assert mounted == (["/weights"] if name in with_weights else [])
        assert cpu.kubernetes(name)["securityContext"] == {
            "runAsUser": "10001",
            "runAsGroup": "10001",
            "runAsNonRoot": True,
        }
    assert gpu.container("distill")["image"] != cpu.container("distill")["image"]


@pytest.mark.parametrize("name", PIPELINES)
def test_loops_are_as_a_backend_resolves_them(name: str) -> None:
    """Within an iteration the list itself is gone, and an item that is no struct arrives as a text."""
    spec = Compiled(name).spec
    levels = [spec["root"], *(component for component in spec["components"].values() if "dag" in component)]
    loops = [task for component in levels for task in component["dag"]["tasks"].values() if "parameterIterator" in task]
    for loop in loops:
        iterator = loop["parameterIterator"]
        inside = spec["components"][loop["componentRef"]["name"]]
        inputs = inside["inputDefinitions"]["parameters"]
        assert inputs[iterator["itemInput"]]["parameterType"] == "STRUCT"
        for task in inside["dag"]["tasks"].values():
            read = {given_.get("componentInputParameter") for given_ in task["inputs"]["parameters"].values()}
            assert iterator["items"]["inputParameter"] not in read
    assert len(loops) == (0 if name == "promotion" else 1)


@pytest.mark.parametrize("name", PIPELINES)
def test_placeholders_stand_alone(name: str) -> None:
    """A backend replaces a value that is a placeholder, and none within a text."""
    spec = Compiled(name).spec
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            for given_ in task.get("inputs", {}).get("parameters", {}).values():
                value = given_.get("runtimeValue", {}).get("constant")
                if isinstance(value, str) and "{{$" in value:
                    assert value.startswith("{{$")
                    assert value.endswith("}}")
                    assert value.count("{{$") == 1


def test_a_tag_is_told_apart_by_the_code_behind_it() -> None:
    pinned = Images(data="registry.example/stlm-data@sha256:" + "a" * 64)
    assert digests_of(pinned)["data"] == "sha256:" + "a" * 64
    assert digests_of(pinned)["serve"].endswith(code_version())


@pytest.mark.filterwarnings("ignore")
def test_register_knows_its_image_where_that_has_a_digest() -> None:
    image = "registry.example/stlm-serve@sha256:" + "a" * 64
    spec = next(yaml.safe_load_all(compile_pipeline("training-cpu", Images(serve=image))))
    executors = spec["deploymentSpec"]["executors"].items()
    environments = {name: executor["container"].get("env", []) for name, executor in executors}
    told = {name: found for name, found in environments.items() if found}
    assert told == {"exec-register": [{"name": IMAGE_DIGEST, "value": image}]}
    assert not any(Compiled(name).container("register").get("env") for name in TRAINING), "a tag is no digest"


def test_arguments_are_the_parameters_of_the_pipelines(repository: Path) -> None:
    config = load_line(repository / "params.yaml", "sample")
    digests = digests_of(Images())
    for name in TRAINING:
        parameters = Compiled(name).spec["root"]["inputDefinitions"]["parameters"]
        assert set(training_arguments(config, digests)) == set(parameters)
    parameters = Compiled("promotion").spec["root"]["inputDefinitions"]["parameters"]
    assert set(promotion_arguments(config, "somebody")) == set(parameters)
    assert "None" not in repr(training_arguments(config, digests)), "KFP's structs hold no null"


def test_settings_survive_the_way_through_kfp(repository: Path, tmp_path: Path) -> None:
    """To JSON with every number a float, as protobuf's structs have them, and back: the same hash of every section."""
    params = tmp_path / "params.yaml"
    tree = yaml.safe_load((repository / "params.yaml").read_text())
    tree["lines"]["sample"]["promote"] = {"min_image_auroc": None, "max_size_mb": None}
    tree["lines"]["sample"]["distill"] = {"optimiser": {"clip_norm": None, "betas": [0.8, 0.9]}}
    params.write_text(yaml.safe_dump(tree))
    config = load_line(params, "sample")
    sent = json.loads(json.dumps(training_arguments(config, digests_of(Images()))), parse_int=float)
    received = line_from_sections("sample", {name: sent[name] for name in TRAINING_SECTIONS}, tmp_path)
    for section in TRAINING_SECTIONS:
        assert received.section_hash(section) == config.section_hash(section), section


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=3) | st.lists(st.integers(), max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1), values, max_size=4))
def test_nulls_survive_the_way_through_kfp(section: dict[str, Any]) -> None:
    assert from_parameter(as_parameter(section)) == section


def test_versions_agree() -> None:
    assert stlm_core.__version__ == VERSION
