"""A challenger against the champion: what is known of both, brought together and put before the gate."""

from __future__ import annotations

from stlm_core.config import LineConfig
from stlm_core.integrations.mlflow_registry import Registry, Version
from stlm_core.promotion.gate import COMPARED, Candidate, Decision, decide

PARITY_ARTIFACT = "export/parity.json"
ROLLED_BACK = ("rolled_back_at", "rolled_back_by", "rollback_reason")


def judge(config: LineConfig, registry: Registry, challenger: Version, champion: Version | None) -> Decision:
    """What the line's policy says of the challenger. Reads from the registry, writes nothing to it."""
    return decide(
        _candidate(registry, challenger), _candidate(registry, champion) if champion else None, config.promote
    )


def _candidate(registry: Registry, version: Version) -> Candidate:
    tags = version.tags
    proof = registry.run_json(version.run_id, PARITY_ARTIFACT)
    parity = None
    if proof is not None and proof.get("onnx_sha256") == tags.get("onnx_sha256"):
        parity = proof.get("passed") is True
    metrics = {name: value for name in COMPARED if (value := _number(tags.get(name))) is not None}
    return Candidate(
        version=version.number,
        metrics=metrics,
        test_sha256=tags.get("test_sha256", ""),
        parity_passed=parity,
        size_mb=_number(tags.get("size_mb")),
        latency_p95_ms=_number(tags.get("latency_p95_ms")),
        rolled_back=", ".join(tags[name] for name in ROLLED_BACK if name in tags),
    )


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
