"""Who reaches whom in the namespace, worked out from the network policies, services and labels of `infra/kustomize`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from manifests import (
    KFP_POD,
    MISSING,
    OVERLAYS,
    Resource,
    allowed,
    kustomize_command,
    of_kind,
    overlay,
    pods,
    selects,
    title,
)

pytestmark = pytest.mark.skipif(kustomize_command() is None, reason=MISSING)


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest, repository: Path) -> list[Resource]:
    """The resources of each overlay in turn."""
    return overlay(repository, request.param)


def test_selectors_match_pods(resources: list[Resource]) -> None:
    known = [pod.labels for pod in pods(resources)] + [KFP_POD]
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "Service"):
        for resource in of_kind(resources, kind).values():
            spec = resource["spec"]
            selectors = [spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]]
            if kind == "Service":
                selectors = [{"matchLabels": spec["selector"]}]
            rules = [*spec.get("ingress", []), *spec.get("egress", [])]
            peers = [peer for rule in rules for peer in rule.get("from", rule.get("to", []))]
            selectors += [peer["podSelector"] for peer in peers if set(peer) == {"podSelector"}]
            for selector in selectors:
                assert any(selects(selector, labels) for labels in known), (title(resource), selector)


def test_services_reach_their_containers(repository: Path) -> None:
    for service in of_kind(overlay(repository, "dev"), "Service").values():
        for port in service["spec"]["ports"]:
            for pod in pods(overlay(repository, "dev")):
                if selects({"matchLabels": service["spec"]["selector"]}, pod.labels):
                    named = {p["name"]: p["containerPort"] for c in pod.containers for p in c["ports"]}
                    assert named[port["targetPort"]] == port["port"], title(service)


def test_the_network_lets_through_what_is_needed_and_nothing_else(repository: Path) -> None:
    resources = overlay(repository, "dev")
    policies = list(of_kind(resources, "NetworkPolicy").values())
    labels = {pod.owner["metadata"]["name"]: pod.labels for pod in pods(resources)} | {"pipeline": KFP_POD}
    ports = {"mlflow": 5000, "postgres": 5432, "seaweedfs": 8333, "stlm-sample": 8080, "stlm-inspection": 8080}
    open_ways = {
        (source, target)
        for source in labels
        for target, port in ports.items()
        if allowed(policies, labels[source], labels[target], port)
    }
    assert open_ways == {
        ("pipeline", "mlflow"),
        ("pipeline", "seaweedfs"),
        ("stlm-sample", "mlflow"),
        ("stlm-inspection", "mlflow"),
        ("mlflow", "postgres"),
        ("mlflow", "seaweedfs"),
        ("stlm-buckets", "seaweedfs"),
    }
    # SeaweedFS's master, volume server, filer and table service ask for no credentials.
    for port in (9333, 8080, 8888, 18888, 19333, 9101):
        assert not any(allowed(policies, own, labels["seaweedfs"], port) for own in labels.values())


def test_every_pod_is_denied_by_default_and_may_ask_for_names(resources: list[Resource]) -> None:
    policies = of_kind(resources, "NetworkPolicy")
    deny = policies["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["dns"]["spec"]["podSelector"] == {}
    internet = [
        name
        for name, policy in policies.items()
        if "0.0.0.0/0" in yaml.safe_dump(policy["spec"]) and name != "weights-to-internet"
    ]
    assert internet == []
