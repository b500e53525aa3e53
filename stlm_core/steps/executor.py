"""What Kubeflow Pipelines hands to a container and takes back: the executor input and output of KFP v2.

The input is one JSON text, ``inputs.parameterValues``, ``inputs.artifacts`` and ``outputs``; the output is a JSON file at
``outputs.outputFile``. Both are messages of KFP's ``pipeline_spec.proto`` (ExecutorInput, ExecutorOutput).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stlm_core.errors import UserError
from stlm_core.files import write_json_atomic

# Where KFP's launcher mounts the object stores.
_MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/", "oci://": "/oci/"}


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
            parameter_files={name: Path(value["outputFile"]) for name, value in outputs.get("parameters", {}).items()},
            output_file=Path(outputs["outputFile"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--executor-input: not the executor input of Kubeflow Pipelines: {type(error).__name__}: {error}"
        ) from None


def _output(artifact: Mapping[str, Any]) -> OutputArtifact:
    return OutputArtifact(str(artifact["name"]), str(artifact["uri"]), _path(artifact))


def _path(artifact: Mapping[str, Any]) -> Path:
    if custom := artifact.get("customPath"):
        return Path(custom)
    uri = str(artifact["uri"])
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    return Path(uri)
