"""A repair of compiled pipelines: parameters that only a task's resources use reach it through the groups around it.

KFP's compiler (2.17) lets a task inside a condition, a loop or an exit handler refer to a pipeline parameter in its
CPU, memory or accelerator, but does not pass the parameter into the group: neither a backend nor kfp.local finds it.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "pipelinechannel--"


def close_over_parameters(spec: dict[str, Any]) -> None:
    """Declare, in every group of a PipelineSpec, the inputs that tasks inside read and the group lacks; in place.

    Raises:
        ValueError: a task reads what is not a parameter of the pipeline.
    """
    root = spec["root"]
    _close(root, spec["components"], root.get("inputDefinitions", {}).get("parameters", {}))
    declared = root.get("inputDefinitions", {}).get("parameters", {})
    for name, task in root["dag"]["tasks"].items():
        for given in task.get("inputs", {}).get("parameters", {}).values():
            if (read := given.get("componentInputParameter")) is not None and read not in declared:
                raise ValueError(f"task {name} reads {read}, which is not a parameter of the pipeline")


def _close(component: dict[str, Any], components: dict[str, Any], parameters: dict[str, Any]) -> None:
    for task in component["dag"]["tasks"].values():
        inner = components[task["componentRef"]["name"]]
        if "dag" not in inner:
            continue
        _close(inner, components, parameters)
        declared = inner.setdefault("inputDefinitions", {}).setdefault("parameters", {})
        given = task.setdefault("inputs", {}).setdefault("parameters", {})
        for name in _read(inner) - set(declared):
            parameter = name.removeprefix(_PREFIX)
            declared[name] = {"parameterType": parameters[parameter]["parameterType"]}
            at_root = component.get("inputDefinitions", {}).get("parameters") is parameters
            given[name] = {"componentInputParameter": parameter if at_root else name}


def _read(component: dict[str, Any]) -> set[str]:
    """Inputs of the group that its tasks read."""
    return {
        given["componentInputParameter"]
        for task in component["dag"]["tasks"].values()
        for given in task.get("inputs", {}).get("parameters", {}).values()
        if "componentInputParameter" in given
    }
