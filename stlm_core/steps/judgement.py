"""A challenger against the champion: what is known of both, brought together and put before the gate."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from stlm_core.config import LineConfig
from stlm_core.errors import StlmError, UserError
from stlm_core.evaluation.evidence import FILE, Evidence
from stlm_core.integrations.mlflow_registry import ROLLED_BACK, Registry, Version
from stlm_core.integrity import VERIFY_KEY, key_path, verify_signature
from stlm_core.promotion.candidate import Candidate, Decision
from stlm_core.promotion.gate import COMPARED, decide
from stlm_core.promotion.pairing import common_images
from stlm_core.steps.champion_test import test_again

PARITY_ARTIFACT = "export/parity.json"
EVIDENCE_ARTIFACT = f"evaluation/{FILE}"


def judge(config: LineConfig, registry: Registry, challenger: Version, champion: Version | None) -> Decision:
    """What the line's policy says of the challenger. Reads from the registry, writes nothing to it.

    Where the two have too few test images in common, and the challenger's are at hand in the project, the champion's
    file is tested on them; the decision's warnings say so.
    """
    new = replace(
        _candidate(registry, challenger),
        parity_passed=_parity(registry, challenger),
        evidence=_evidence(registry, challenger),
    )
    if champion is None:
        return decide(new, None, config.promote)
    old, warnings = _candidate(registry, champion), []
    try:
        old = replace(old, evidence=_evidence(registry, champion))
    except StlmError as error:  # damaged or lost: must not keep its successor out
        warnings.append(f"{error}; it is not used")
    if new.evidence is not None and not _comparable(new.evidence, old.evidence, config):
        try:
            again = test_again(config, registry, champion, new.test_sha256)
        except UserError:
            raise
        except StlmError as error:
            again = None
            warnings.append(f"champion {champion.number} cannot be tested again: {error}")
        if again is not None:
            old, told = _tested_again(old, again)
            warnings.append(told)
    decision = decide(new, old, config.promote)
    return replace(decision, warnings=(*decision.warnings, *warnings))


def _comparable(challenger: Evidence, champion: Evidence | None, config: LineConfig) -> bool:
    return champion is not None and common_images(challenger, champion).enough(config.promote)


def _tested_again(champion: Candidate, again: Evidence) -> tuple[Candidate, str]:
    """The champion with its verdicts on the challenger's test images, but those that it knows; and what was done."""
    told = f"champion {champion.version} was tested again, on this version's {len(again)} test images"
    if champion.evidence is None or not len(champion.evidence.trained_on):
        return replace(champion, evidence=again), f"{told}; whether it was made from some of them is not known"
    known = champion.evidence.learned_from(again)
    if known.any():
        told += f"; {int(known.sum())} of them are left out, as the champion was made from these parts"
    return replace(champion, evidence=again.take(np.flatnonzero(~known))), told


def _parity(registry: Registry, version: Version) -> bool | None:
    """Whether the proof of exactly this file passed; None without one."""
    proof = registry.run_json(version.run_id, PARITY_ARTIFACT)
    if proof is None or proof.get("onnx_sha256") != version.tags.get("onnx_sha256"):
        return None
    return proof.get("passed") is True


def _candidate(registry: Registry, version: Version) -> Candidate:
    """What its tags say of a version."""
    tags = version.tags
    metrics = {name: value for name in COMPARED if (value := _number(tags.get(name))) is not None}
    return Candidate(
        version=version.number,
        metrics=metrics,
        test_sha256=tags.get("test_sha256", ""),
        parity_passed=None,
        size_mb=_number(tags.get("size_mb")),
        latency_p95_ms=_number(tags.get("latency_p95_ms")),
        rolled_back=", ".join(tags[name] for name in ROLLED_BACK if name in tags),
        false_reject_budget=_number(tags.get("false_reject_budget")),
        data_license=tags.get("data_license", ""),
        non_commercial=tags.get("non_commercial", ""),
        unsigned=_unsigned(registry, version),
    )


def _unsigned(registry: Registry, version: Version) -> str:
    """Why the version's signature does not hold; "" if it does, or no key asks for one."""
    key = key_path(VERIFY_KEY)
    if key is None:
        return ""
    sha256, signature = version.tags.get("onnx_sha256", ""), version.tags.get("onnx_signature")
    try:
        verify_signature(sha256, line=registry.line, signature=signature, public_key=key)
    except UserError:
        raise
    except StlmError as error:
        return str(error)
    return ""


def _evidence(registry: Registry, version: Version) -> Evidence | None:
    """None for versions that were registered before there was any.

    Raises:
        UserError: it is there and damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = registry.run_file(version.run_id, EVIDENCE_ARTIFACT, Path(folder))
        try:
            return None if path is None else Evidence.load(path)
        except UserError as error:
            told = str(error).partition(": ")[2]
            raise UserError(f"{EVIDENCE_ARTIFACT} of {registry.name} version {version.number}: {told}") from None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
