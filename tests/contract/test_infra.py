"""The manifests of `infra/kustomize`, checked without a cluster: built by kustomize, held against the Kubernetes API's
schemas and the custom resources' own, and against our rules for pods, secrets, accounts and the network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from manifests import (
    MISSING,
    OVERLAYS,
    SECRETS,
    Resource,
    build,
    kustomize_command,
    of_kind,
    overlay,
    pods,
    predictor_pod,
    title,
)

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
jsonschema = pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
pytestmark = pytest.mark.skipif(kustomize_command() is None, reason=MISSING)

# Somewhat old and the newest that has schemas.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
CUSTOM = {"InferenceService": "inferenceservice.json", "PodDefault": "poddefault.json"}
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN$|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_CREDENTIALS_IN_ADDRESS = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest, repository: Path) -> list[Resource]:
    """The resources of each overlay in turn."""
    return overlay(repository, request.param)


def check(resource: Resource, version: str, schemas: Path) -> None:
    """Hold a resource against its schema; a custom one against its own, and what of it is a pod against Pod's."""
    kind = resource["kind"]
    if kind not in CUSTOM:
        kubernetes_validate.validate(resource, version, strict=True)
        return
    schema = json.loads((schemas / CUSTOM[kind]).read_text())
    jsonschema.Draft202012Validator(schema).validate(resource)
    spec = resource["spec"]
    if kind == "InferenceService":
        inner = predictor_pod(resource)
    else:
        container = {"name": "any", "env": spec["env"], "volumeMounts": spec["volumeMounts"]}
        inner = {"containers": [container], "volumes": spec["volumes"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": inner}
    kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_keeps_to_its_schema(resources: list[Resource], version: str, repository: Path) -> None:
    for resource in resources:
        check(resource, version, repository / "tests" / "contract" / "schemas")


def test_the_schemas_refuse_what_no_field_is_called(repository: Path) -> None:
    schemas = repository / "tests" / "contract" / "schemas"
    broken: list[Resource] = []
    for resource in overlay(repository, "dev") + overlay(repository, "prod"):
        if resource["kind"] in ("StatefulSet", "NetworkPolicy", "InferenceService", "PodDefault"):
            broken.append({**resource, "spec": {**resource["spec"], "replica": 2}})
        if resource["kind"] == "InferenceService":
            predictor = resource["spec"]["predictor"]
            container = {**predictor["containers"][0], "imagePullPolice": "Always"}
            broken.append({**resource, "spec": {"predictor": {**predictor, "containers": [container]}}})
    for resource in broken:
        with pytest.raises(jsonschema.ValidationError):
            check(resource, VERSIONS[-1], schemas)


def test_all_is_in_one_namespace_and_named_once(resources: list[Resource]) -> None:
    names = [title(resource) for resource in resources]
    assert len(names) == len(set(names))
    for resource in resources:
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == "stlm", title(resource)


def test_pods_are_confined(resources: list[Resource]) -> None:
    for pod in pods(resources):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"], pod
        assert (context["runAsUser"], context["runAsGroup"]) == (10001, 10001), pod
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert pod.spec["automountServiceAccountToken"] is False, pod
        # A service called `mlflow` would give every pod the setting MLFLOW_PORT=tcp://...
        assert pod.spec["enableServiceLinks"] is False, pod
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec), pod
        assert not any("hostPath" in volume for volume in pod.spec["volumes"]), pod
        for container in pod.containers:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, pod
            assert own["readOnlyRootFilesystem"] is True, pod
            assert own["capabilities"] == {"drop": ["ALL"]}, pod
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], pod


def test_containers_state_what_they_need(resources: list[Resource]) -> None:
    for pod in pods(resources):
        for container in pod.containers:
            for part in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][part]), pod
            probes = {"startupProbe", "readinessProbe", "livenessProbe"} & set(container)
            assert len(probes) == (3 if pod.is_server else 0), pod


def test_images_are_pinned(repository: Path) -> None:
    images = {
        name: {c["image"] for pod in pods(overlay(repository, name)) for c in pod.containers} for name in OVERLAYS
    }
    assert all(re.search(r":[\w][\w.-]*$", image) and not image.endswith(":latest") for image in images["dev"])
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in images["prod"])


def test_no_secret_is_written_down(resources: list[Resource], repository: Path) -> None:
    assert not of_kind(resources, "Secret")
    for config in of_kind(resources, "ConfigMap").values():
        assert not [key for key in config["data"] if _SECRET_NAME.search(key)], title(config)
    for pod in pods(resources):
        for variable in (entry for container in pod.containers for entry in container.get("env", [])):
            if _SECRET_NAME.search(variable["name"]):
                assert "secretKeyRef" in variable.get("valueFrom", {}), (str(pod), variable["name"])
    for file in (repository / "infra").rglob("*"):
        if file.suffix in {".yaml", ".py", ".example"}:
            assert not _CREDENTIALS_IN_ADDRESS.search(file.read_text(encoding="utf-8")), file


def references(pod_spec: dict[str, Any]) -> set[tuple[str, str, str | None]]:
    """What a pod names: kind, name and key (None: all of it)."""
    found: set[tuple[str, str, str | None]] = {("ServiceAccount", pod_spec["serviceAccountName"], None)}
    for container in pod_spec["containers"]:
        for entry in container.get("env", []):
            for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if ref := entry.get("valueFrom", {}).get(field):
                    found.add((kind, ref["name"], ref["key"]))
        for entry in container.get("envFrom", []):
            found.add(("Secret", entry["secretRef"]["name"], None))
    for volume in pod_spec["volumes"]:
        if "configMap" in volume:
            found.add(("ConfigMap", volume["configMap"]["name"], None))
        if "persistentVolumeClaim" in volume:
            found.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None))
    return found


def test_what_pods_name_exists_or_is_documented(resources: list[Resource], repository: Path) -> None:
    guide = (repository / "docs" / "cluster.md").read_text(encoding="utf-8")
    for pod in pods(resources):
        for kind, name, key in references(pod.spec):
            if kind == "Secret":
                assert name in SECRETS, (str(pod), name)
                assert {key} <= SECRETS[name] | {None}, (str(pod), name, key)
                made = re.search(rf"kubectl .*create secret generic {name} (?:.*\\\n)*.*", guide)
                assert made, name
                assert all(known in made[0] for known in SECRETS[name]), name
            else:
                assert name in of_kind(resources, kind), (str(pod), kind, name)
                assert key is None or key in of_kind(resources, kind)[name]["data"], (str(pod), name, key)


def test_mounted_volumes_are_declared(resources: list[Resource]) -> None:
    for pod in pods(resources):
        claimed = [claim["metadata"]["name"] for claim in pod.owner["spec"].get("volumeClaimTemplates", [])]
        declared = {volume["name"] for volume in pod.spec["volumes"]} | set(claimed)
        assert {mount["name"] for container in pod.containers for mount in container["volumeMounts"]} == declared, pod


def test_the_pipelines_find_what_they_name(resources: list[Resource]) -> None:
    from pipelines.placement import CONFIG, MLFLOW_SECRET, STORE_SECRET
    from pipelines.submit import SERVICE_ACCOUNT

    assert set(CONFIG) == set(of_kind(resources, "ConfigMap")["stlm-config"]["data"])
    assert set(STORE_SECRET) == SECRETS["stlm-s3"]
    assert set(MLFLOW_SECRET) == SECRETS["stlm-mlflow"]
    assert {SERVICE_ACCOUNT, "stlm-launch"} <= set(of_kind(resources, "ServiceAccount"))
    assert "stlm-weights" in of_kind(resources, "PersistentVolumeClaim")


def test_accounts_may_do_little(resources: list[Resource]) -> None:
    assert not of_kind(resources, "ClusterRole")
    assert not of_kind(resources, "ClusterRoleBinding")
    rules = {name: role["rules"] for name, role in of_kind(resources, "Role").items()}
    for rule in (rule for own in rules.values() for rule in own):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        if "secrets" in rule["resources"] or "configmaps" in rule["resources"]:
            assert rule["verbs"] == ["get"]
            assert rule["resourceNames"]
    # Pods of runs change nothing but the results that Argo's executor reports.
    assert {r for rule in rules["stlm-pipeline"] if rule["verbs"] != ["get"] for r in rule["resources"]} == {
        "workflowtaskresults"
    }
    assert {group for rule in rules["stlm-launch"] for group in rule["apiGroups"]} == {"pipelines.kubeflow.org"}
    accounts = of_kind(resources, "ServiceAccount")
    with_token = {name for name, account in accounts.items() if account["automountServiceAccountToken"]}
    bound: dict[str, set[str]] = {}
    for binding in of_kind(resources, "RoleBinding").values():
        assert binding["roleRef"]["name"] in rules
        bound[binding["roleRef"]["name"]] = {subject["name"] for subject in binding["subjects"]}
    assert bound == {"stlm-pipeline": {"stlm-pipeline", "stlm-launch"}, "stlm-launch": {"stlm-launch"}}
    assert with_token == {"stlm-pipeline", "stlm-launch"}


def test_a_second_line_is_a_copy_with_another_name(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "infra" / "kustomize", tmp_path / "kustomize")
    lines = tmp_path / "kustomize" / "lines"
    shutil.copytree(lines / "sample", lines / "cable-ties")
    config = lines / "cable-ties" / "line.yaml"
    config.write_text(config.read_text().replace("name: sample", "name: cable-ties"))
    kustomization = tmp_path / "kustomize" / "overlays" / "dev" / "kustomization.yaml"
    sample = "  - ../../lines/sample\n"
    both = sample + sample.replace("sample", "cable-ties")
    kustomization.write_text(kustomization.read_text().replace(sample, both))
    resources = build(kustomization.parent)
    services = of_kind(resources, "InferenceService")
    assert set(services) == {"stlm-sample", "stlm-cable-ties"}
    for line in ("sample", "cable-ties"):
        container = services[f"stlm-{line}"]["spec"]["predictor"]["containers"][0]
        variables = {entry["name"]: entry.get("value") for entry in container["env"]}
        model = next(word for word in container["command"] if word.startswith("models:/"))
        assert model.replace("$(STLM_LINE)", variables["STLM_LINE"]) == f"models:/stlm-{line}@champion"
        labels = {"serving.kserve.io/inferenceservice": f"stlm-{line}"}
        assert of_kind(resources, "PodDisruptionBudget")[f"stlm-{line}"]["spec"]["selector"]["matchLabels"] == labels
        assert of_kind(resources, "NetworkPolicy")[f"stlm-{line}"]["spec"]["podSelector"]["matchLabels"] == labels
    assert not {"line", "stlm-line", "sample", "cable-ties"} & {resource["metadata"]["name"] for resource in resources}


def test_gpu_work_goes_to_gpu_nodes_and_serving_does_not(repository: Path) -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    by_name = {pod.owner["metadata"]["name"]: pod.spec for pod in pods(overlay(repository, "prod"))}
    job = by_name["stlm-gpu-check"]
    assert job["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert job["tolerations"] == [taint]
    assert [name for name, spec in by_name.items() if "tolerations" in spec] == ["stlm-gpu-check"]
    required = by_name["stlm-sample"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchExpressions"] == [
        {"key": "nvidia.com/gpu.present", "operator": "NotIn", "values": ["true"]}
    ]
    quotas = {name: of_kind(overlay(repository, name), "ResourceQuota")["stlm"]["spec"]["hard"] for name in OVERLAYS}
    assert quotas["dev"]["requests.nvidia.com/gpu"] == "0"
    assert int(quotas["prod"]["requests.nvidia.com/gpu"]) > 0


def test_buckets_are_made_for_all_that_is_stored(repository: Path) -> None:
    by_name = {pod.owner["metadata"]["name"]: pod.spec["containers"][0] for pod in pods(overlay(repository, "dev"))}
    destination = next(word for word in by_name["mlflow"]["command"] if word.startswith("--artifacts-destination="))
    addresses = [destination, of_kind(overlay(repository, "dev"), "ConfigMap")["stlm-config"]["data"]["STLM_DATA_URL"]]
    assert {re.sub(r"^.*s3://([^/]+).*$", r"\1", address) for address in addresses} == set(
        by_name["stlm-buckets"]["command"][2:]
    )
