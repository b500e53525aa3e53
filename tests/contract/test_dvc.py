"""dvc.yaml says the same about every step as the step's own code."""

from __future__ import annotations

import ast
import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from PIL import Image

from stlm_core.config import SECTIONS, load_line
from stlm_core.steps.workspace import STEPS, Workspace

# Modules that every step uses and that do not decide what it makes.
PLUMBING = (
    "addresses",
    "errors",
    "files",
    "progress",
    "integrations.revision",
    "integrations.s3",
    "steps.contract",
    "steps.provenance",
    "steps.weights",
    "steps.workspace",
    "weights.download",
    "weights.fetch",
    "weights.http",
    "weights.store",
    "weights.wheel",
)
LAYERS = ("defaults.", "profiles.${item.profile}.", "lines.${key}.")


class AnyFile(Workspace):
    """A workspace in which every output exists."""

    def need(self, step: str, file: str) -> Path:
        return self.folder(step) / file


class Declared(Exception):
    """What a step told the step contract it reads."""

    def __init__(self, sections: tuple[str, ...], inputs: Mapping[str, str], folder: str) -> None:
        super().__init__()
        self.sections, self.inputs, self.folder = sections, inputs, folder


@pytest.fixture(scope="module")
def dvc_stages(repository: Path) -> dict[str, dict[str, Any]]:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    assert all(stage["foreach"] == "${lines}" for stage in stages.values())
    return {name: stage["do"] for name, stage in stages.items()}


@pytest.fixture(scope="module")
def declared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Declared]:
    """What every step reads, for the sample line."""
    root = tmp_path_factory.mktemp("project")
    good = root / "data" / "sample" / "train" / "good"
    good.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(good / "000.png")
    config = load_line(repository / "params.yaml", "sample").model_copy(update={"root": root})

    def stop(
        _: str,
        __: object,
        sections: tuple[str, ...],
        inputs: Mapping[str, Path | str],
        folder: Path,
        *___: Any,
        **____: Any,
    ) -> None:
        # A digest stands for the line's images, which the step has looked at already.
        read = {
            name: config.resolve(config.data.path) if isinstance(path, str) else path for name, path in inputs.items()
        }
        relative = {name: path.relative_to(root).as_posix() for name, path in read.items()}
        raise Declared(sections, relative, folder.relative_to(root).as_posix())

    found = {}
    for step in STEPS:
        name = step.replace("-", "_")
        module = importlib.import_module(f"stlm_core.steps.{name}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "run_step", stop)
            if hasattr(module, "open_tracking"):  # nothing is registered, so no server is asked
                patch.setattr(module, "open_tracking", lambda _: contextlib.nullcontext())
            for holder in (module, importlib.import_module("stlm_core.steps.training")):
                if hasattr(holder, "locate_weights"):
                    patch.setattr(holder, "locate_weights", lambda *_, **__: root / "weights.pth")
            with pytest.raises(Declared) as caught:
                getattr(module, name)(config, AnyFile(root / "outputs", "sample"))
        found[step] = caught.value
    return found


def test_stages_are_the_steps_in_order(dvc_stages: dict[str, dict[str, Any]]) -> None:
    assert tuple(dvc_stages) == STEPS
    for step, stage in dvc_stages.items():
        assert stage["cmd"] == f"stlm {step} --line ${{key}}"


@pytest.mark.parametrize("step", STEPS)
def test_params_are_the_sections_the_step_reads(
    step: str, declared: dict[str, Declared], dvc_stages: dict[str, dict[str, Any]]
) -> None:
    sections = declared[step].sections
    assert set(sections) <= set(SECTIONS)
    assert set(dvc_stages[step]["params"]) == {f"{layer}{section}" for section in sections for layer in LAYERS}


@pytest.mark.parametrize("step", [step for step in STEPS if step != "register"])
def test_settings_used_are_settings_declared(step: str, declared: dict[str, Declared], repository: Path) -> None:
    """Every ``config.<section>`` in a step's code is one of its sections; ``register`` logs them all as they are."""
    names = [step.replace("-", "_"), *(["training"] if step in ("distill", "train-fa") else [])]
    used = {
        node.attr.rstrip("_")
        for name in names
        for node in ast.walk(ast.parse((repository / "stlm_core" / "steps" / f"{name}.py").read_text()))
        if isinstance(node, ast.Attribute) and "config" in ast.unparse(node.value).split(".")[-1:]
    }
    assert used & set(SECTIONS) <= set(declared[step].sections)


@pytest.mark.parametrize("step", STEPS)
def test_deps_include_the_files_the_step_reads(
    step: str, declared: dict[str, Declared], dvc_stages: dict[str, dict[str, Any]]
) -> None:
    assert declared[step].folder == f"outputs/sample/{step}"
    templates = {
        "data/sample": "${item.data.path}",
        **{path: path.replace("/sample/", "/${key}/") for path in declared[step].inputs.values() if "outputs/" in path},
    }
    # The teacher's weights are pinned by their hash, in the settings or the catalogue.
    read = {templates[path] for name, path in declared[step].inputs.items() if name != "teacher"}
    assert read <= set(dvc_stages[step]["deps"])


@pytest.mark.parametrize("step", STEPS)
def test_deps_include_the_code_the_step_runs(
    step: str, dvc_stages: dict[str, dict[str, Any]], repository: Path
) -> None:
    code = [dep for dep in dvc_stages[step]["deps"] if dep.startswith("stlm_core/")]
    assert all((repository / dep).exists() for dep in code)
    covered = tuple(dep.removesuffix(".py").replace("/", ".") for dep in code)
    graph = grimp.build_graph("stlm_core", cache_dir=None)
    module = f"stlm_core.steps.{step.replace('-', '_')}"
    for used in {module, *graph.find_upstream_modules(module)} - {f"stlm_core.{name}" for name in PLUMBING}:
        if (repository / Path(*used.split("."))).is_dir():
            continue  # a package's __init__ holds no code of its own
        assert any(used == dep or used.startswith(f"{dep}.") for dep in covered), f"{step} imports {used}"


def test_every_dep_on_an_output_is_an_output(dvc_stages: dict[str, dict[str, Any]]) -> None:
    """Nothing depends on a step's manifest.json, which holds seconds, nor on a file that no stage makes."""
    outputs = {
        next(iter(out))
        for stage in dvc_stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    for stage in dvc_stages.values():
        for dep in stage["deps"]:
            if dep.startswith("outputs/"):
                folder = dep.rpartition("/")[0]
                assert dep in outputs or folder in outputs
                assert not dep.endswith("/manifest.json")
