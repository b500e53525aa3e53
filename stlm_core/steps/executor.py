"""What Kubeflow Pipelines hands to a container and takes back: the executor input and output of KFP v2.

The input is one JSON text with ``inputs.parameterValues``, ``inputs.artifacts`` and ``outputs``; the output is a JSON
file at ``outputs.outputFile``. Both are messages of KFP's ``pipeline_spec.proto`` (ExecutorInput, ExecutorOutput).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic

# Where KFP's launcher mounts the object stores.
_MOUNTS = {"gs": "/gcs/", "s3": "/s3/", "minio": "/minio/"}


@dataclass(frozen=True)
class OutputArtifact:
    """An artifact to be made at ``path``; ``metadata`` is what KFP's interface shows of it."""

    name: str
    uri: str
    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One container's inputs and outputs, by the names of the component's signature.

    ``artifacts`` are local paths, several where a list was given. ``parameter_files`` is where output parameters go.
    """

    parameters: Mapping[str, Any]
    artifacts: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, OutputArtifact]
    parameter_files: Mapping[str, Path]
    output_file: Path

    def need(self, name: str) -> Any:
        """An input parameter.

        Raises:
            UserError: the component has none of that name.
        """
        if name not in self.parameters:
            raise UserError(f"--executor-input: no parameter `{name}`; the component needs it in its signature")
        return self.parameters[name]

    def number(self, name: str) -> int:
        """A whole number among the input parameters, or in one that is a struct: ``shard.index``.

        Raises:
            UserError: the component has none of that name, or it is something else.
        """
        parameter, *keys = name.split(".")
        value = self.need(parameter)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        # KFP's structs hold 2 as 2.0.
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise UserError(f"--executor-input: parameter `{name}` is no whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        """A yes or no among the input parameters.

        Raises:
            UserError: the component has none of that name, or it is something else.
        """
        value = self.need(name)
        if not isinstance(value, bool):
            raise UserError(f"--executor-input: parameter `{name}` is neither true nor false")
        return value

    def output(self, name: str) -> OutputArtifact:
        """An output artifact.

        Raises:
            UserError: the component has none of that name.
        """
        if name not in self.outputs:
            raise UserError(f"--executor-input: no output artifact `{name}`; the component needs it in its signature")
        return self.outputs[name]

    def artifact(self, name: str) -> Path:
        """The path of an input artifact.

        Raises:
            UserError: the component has none of that name.
        """
        if not self.artifacts.get(name):
            raise UserError(f"--executor-input: no artifact `{name}`; the component needs it in its signature")
        return self.artifacts[name][0]

    def finish(self, parameters: Mapping[str, Any]) -> None:
        """Write the output parameters and describe the output artifacts.

        Parameters the component does not declare are left out.

        Raises:
            UserError: an output cannot be written.
        """
        values = {name: value for name, value in parameters.items() if name in self.parameter_files}
        described = {
            name: {"artifacts": [{"name": output.name, "uri": output.uri, "metadata": output.metadata}]}
            for name, output in self.outputs.items()
        }
        write_json_atomic(self.output_file, {"parameterValues": values, "artifacts": described})


def read_task(text: str) -> Task:
    """The task that an executor input describes.

    Raises:
        UserError: ``text`` is no executor input.
    """
    try:
        given = json.loads(text)
        inputs, outputs = given.get("inputs", {}), given["outputs"]
        return Task(
            parameters=dict(inputs.get("parameterValues", {})),
            artifacts={
                name: tuple(_path(artifact) for artifact in listed.get("artifacts", []))
                for name, listed in inputs.get("artifacts", {}).items()
            },
            outputs={name: _output(listed["artifacts"][0]) for name, listed in outputs.get("artifacts", {}).items()},
            parameter_files={
                name: _local(value["outputFile"]) for name, value in outputs.get("parameters", {}).items()
            },
            output_file=_local(outputs["outputFile"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--executor-input: not the executor input of Kubeflow Pipelines: {type(error).__name__}: {error}"
        ) from None


def _output(artifact: Mapping[str, Any]) -> OutputArtifact:
    return OutputArtifact(str(artifact["name"]), str(artifact["uri"]), _path(artifact))


def _path(artifact: Mapping[str, Any]) -> Path:
    if custom := artifact.get("customPath"):
        return _local(custom)
    uri = artifact["uri"]
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _local(uri)
    if scheme not in _MOUNTS:
        raise ValueError(f"{uri!r} is in no store that is mounted")
    return _local(_MOUNTS[scheme] + rest)


def _local(path: str) -> Path:
    """``path`` as a path, if a file can have it."""
    if not path or b"\0" in os.fsencode(path):
        raise ValueError(f"{path!r} is not a path")
    return Path(path)
