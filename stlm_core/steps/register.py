"""Step ``register``: the export and all that is known of it into MLflow, as the line's challenger."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stlm_core.addresses import without_credentials
from stlm_core.config import SECTIONS, TRAINED_SECTIONS, LineConfig
from stlm_core.errors import UserError
from stlm_core.evaluation.evidence import FILE as EVIDENCE
from stlm_core.files import read_json_object, sha256_bytes, sha256_file, write_json_atomic
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    REJECTED,
    ROLLED_BACK,
    Registry,
    Version,
    registry_lock,
)
from stlm_core.integrations.mlflow_run import RunContent, finish_run
from stlm_core.integrations.revision import data_revision as revision_of_data
from stlm_core.integrations.revision import dvc_revision, git_revision
from stlm_core.integrity import SHA256_TAG, SIGNATURE_TAG, SIGNING_KEY, key_path, sign_model
from stlm_core.runtime.model import DetectorSession
from stlm_core.steps.card_excerpt import excerpt
from stlm_core.steps.contract import StepResult, run_step
from stlm_core.steps.provenance import require_made_from
from stlm_core.steps.version_tags import KEPT, NEEDS_HUMAN, version_tags
from stlm_core.steps.workspace import Workspace

REGISTRATION = "registration.json"
# Tags of a version by which `stlm check-freshness` knows what it was made from.
DATA_TAG, CONFIG_TAG = "data_revision", "config_sha256"
_REMEDY = "run the step that makes it again"
_LONGEST_PARAM = 6000  # characters, MLflow's limit
_FILE_FACTS = (
    "dataset_sha256",
    "test_sha256",
    "detector_sha256",
    "remembered_sha256",
    "teacher",
    "data_license",
    "non_commercial",
    "false_reject_budget",
    "code_version",
    "git_revision",
    "image_size",
    "raw_threshold",
)


def register(
    config: LineConfig, workspace: Workspace, *, force: bool = False, data_revision: str | None = None
) -> StepResult:
    """Log a run, register its model as ``stlm-<line>`` with alias ``challenger``, write ``registration.json``.

    The same export registered again is the same version, whatever happened in between: a registration that was
    killed is completed. Outputs that are up to date are still checked against the server. Where ``STLM_SIGNING_KEY``
    names a private key the version is signed, one that was registered before, too. A version that somebody rejected
    or that was withdrawn does not become the challenger again, nor does one that was registered from here before: what
    waits now, or is in service, came later.

    Args:
        force: do it although the outputs are up to date, and propose the version although it was rejected.
        data_revision: name of the version of the images; None to tell it from the project's files.

    Raises:
        UserError: an input is missing, the export is of another evaluation or of other settings, the key cannot be
            read, or MLflow does not answer.
        StlmError: MLflow refused.
    """
    inputs = {
        "model": workspace.need("export", "model.onnx"),
        "parity": workspace.need("export", "parity.json"),
        "latency": workspace.need("export", "latency.json"),
        "model_card": workspace.need("export", "model_card.md"),
        "model_card_page": workspace.need("export", "model_card.html"),
        "metrics": workspace.need("evaluate", "metrics.json"),
        "report": workspace.need("evaluate", "report.html"),
        "figures": workspace.need("evaluate", "figures"),
        "images": workspace.need("evaluate", "images.csv"),
        "defects": workspace.need("evaluate", "defects.csv"),
        "evidence": workspace.need("evaluate", EVIDENCE),
        "validation": workspace.need("validate", "validation.json"),
        "statistics": workspace.need("validate", "statistics.json"),
        "distill_curve": workspace.need("distill", "curve.csv"),
        "fa_curve": workspace.need("train-fa", "curve.csv"),
    }
    exported_from = {name: inputs[name] for name in ("metrics", "images", "defects", "evidence")}
    require_made_from(workspace.folder("export"), "export", config, TRAINED_SECTIONS, exported_from)
    folder = workspace.folder("register")
    made_from = {
        DATA_TAG: revision_of_data(config) if data_revision is None else data_revision,
        CONFIG_TAG: config.model_hash(),
    }

    def wanted() -> dict[str, str]:
        digest = sha256_file(inputs["model"])
        return {**made_from, SHA256_TAG: digest, **_signature(config, digest)}

    with open_tracking(config.root) as tracking:
        gone = (folder / REGISTRATION).is_file() and not _still_there(tracking, config, folder, wanted())

        def work(partial: Path) -> str:
            with registry_lock(config.root, config.name):
                record, summary = _register(tracking, config, inputs, made_from, _recorded(folder), force=force)
            write_json_atomic(partial / REGISTRATION, record)
            return summary

        return run_step("register", config, ("register",), inputs, folder, work, force=force or gone)


def _register(
    tracking: Tracking,
    config: LineConfig,
    inputs: dict[str, Path],
    made_from: Mapping[str, str],
    recorded: tuple[int, str, str] | None,
    *,
    force: bool,
) -> tuple[dict[str, Any], str]:
    content = run_content(config, inputs, made_from)
    registry = Registry(tracking, config.name)
    registry.create()
    known = registry.find("onnx_sha256", content.onnx_sha256) is not None
    run = None if known else finish_run(tracking, content)  # uploads, before the lock
    current = {**made_from, **({SIGNATURE_TAG: content.signature} if content.signature else {})}
    with registry.locked("register"):
        version = registry.find("onnx_sha256", content.onnx_sha256)
        reused = version is not None
        if version is None:
            version = registry.add(
                run or finish_run(tracking, content), version_tags(content, inputs), _description(inputs)
            )
        else:  # other inputs may make the same file, and the key may be new
            registry.tag(version.number, _changed(version, current))
        aliases = registry.aliases()
        alias = next((one for one in (CHAMPION, CHALLENGER) if aliases.get(one) == version.number), "")
        out = () if alias or force else next((tags for tags in (REJECTED, ROLLED_BACK) if tags[0] in version.tags), ())
        # What was proposed from here is not proposed again because the step runs again: another may wait by now.
        again = reused and recorded == (version.number, tracking.store, content.onnx_sha256)
        if alias != CHAMPION and (force or not (alias or out or again)):
            registry.untag(version.number, *REJECTED, *KEPT, *NEEDS_HUMAN)
            registry.point(CHALLENGER, version.number)
            alias = CHALLENGER
    record = {
        "line": config.name,
        "model": registry.name,
        "version": version.number,
        "alias": alias,
        "model_uri": f"models:/{registry.name}/{version.number}",
        "run_id": version.run_id,
        "experiment": content.experiment,
        "onnx_sha256": content.onnx_sha256,
        "store": tracking.store,
    }
    how = "was registered already" if reused else "registered"
    if out:
        how += f" and {'rejected' if out is REJECTED else 'withdrawn'}: {version.tags.get(out[-1], '')}; it stays out "
        how += "unless `stlm register --force` proposes it again"
    elif not alias:
        how += "; it was proposed before, so only `stlm register --force` proposes it again"
    else:
        how += f", {alias}"
    return record, f"{registry.name} version {version.number} {how} ({tracking.store})"


def _still_there(tracking: Tracking, config: LineConfig, folder: Path, tags: Mapping[str, str]) -> bool:
    """Whether the version that was registered is in this store, with these tags."""
    recorded = _recorded(folder)
    if recorded is None:
        return False
    version: Version | None = Registry(tracking, config.name).version(recorded[0])
    return version is not None and recorded[1] == tracking.store and _has_tags(version, tags)


def _recorded(folder: Path) -> tuple[int, str, str] | None:
    """Version, store and hash of what was registered from ``folder``; None if nothing was."""
    try:
        record = json.loads((folder / REGISTRATION).read_text(encoding="utf-8"))
        return int(record["version"]), record["store"], record["onnx_sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _has_tags(version: Version, tags: Mapping[str, str]) -> bool:
    return not _changed(version, tags)


def _changed(version: Version, tags: Mapping[str, str]) -> dict[str, str]:
    """Those of ``tags`` that the version has otherwise; one that it lacks is empty."""
    return {name: value for name, value in tags.items() if version.tags.get(name, "") != value}


def run_content(config: LineConfig, inputs: dict[str, Path], made_from: Mapping[str, str]) -> RunContent:
    """What the run holds, gathered from the outputs of the earlier steps; ``made_from`` are tags.

    Raises:
        UserError: an output is damaged.
    """
    model = inputs["model"].read_bytes()
    facts = DetectorSession(model, name=str(inputs["model"])).metadata
    latency = read_json_object(inputs["latency"], _REMEDY)
    parity = read_json_object(inputs["parity"], _REMEDY)
    metrics: dict[str, Any] = {
        **read_json_object(inputs["metrics"], _REMEDY),
        **{f"latency_{name}": latency.get(name) for name in ("p50_ms", "p95_ms")},
        "onnx_size_mb": latency.get("size_mb"),
        "parity_max_abs_score": parity.get("max_abs_score"),
        "parity_max_abs_map": parity.get("max_abs_map"),
    }
    return RunContent(
        experiment=config.register_.experiment or f"stlm-{config.name}",
        run_name=f"{config.name} {facts['code_version']}",
        params=dict(flatten_config(config)),
        metrics={name: float(value) for name, value in metrics.items() if _is_number(value)},
        curves={"distill": inputs["distill_curve"], "fa": inputs["fa_curve"]},
        artifacts=(
            (inputs["report"], ""),
            (inputs["figures"], "figures"),
            (inputs["images"], "evaluation"),
            (inputs["defects"], "evaluation"),
            (inputs["evidence"], "evaluation"),
            (inputs["validation"], "validation"),
            (inputs["statistics"], "validation"),
            (inputs["parity"], "export"),
            (inputs["latency"], "export"),
            (inputs["model_card"], "export"),
            (inputs["model_card_page"], "export"),
        ),
        dataset_name=config.name,
        dataset_sha256=facts["dataset_sha256"],
        dataset_source=without_credentials(config.data.path),
        tags={
            **{name: facts[name] for name in _FILE_FACTS if facts.get(name)},
            **{name: value for name, value in {**_revisions(config), **made_from}.items() if value},
        },
        model=model,
        signature=_signature(config, sha256_bytes(model)).get(SIGNATURE_TAG),
    )


def _signature(config: LineConfig, sha256: str) -> dict[str, str]:
    """The tag with the model's signature; the same key always signs the same, byte for byte."""
    key = key_path(SIGNING_KEY)
    return {SIGNATURE_TAG: sign_model(sha256, config.name, key)} if key is not None else {}


def flatten_config(config: LineConfig) -> Iterator[tuple[str, str]]:
    """Settings as dotted names and texts; the project's folder and credentials in addresses are left out."""
    dumped = config.model_dump(mode="json", by_alias=True)
    yield "profile", config.profile
    for section in SECTIONS:
        yield from _flatten(section, dumped[section])


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{name}.{key}", inner)
        return
    text = without_credentials(value) if isinstance(value, str) and re.match(r"\w+://", value) else str(value)
    yield name, text[:_LONGEST_PARAM]


def _revisions(config: LineConfig) -> dict[str, str]:
    return {
        "registered_git_revision": git_revision(config.root),
        "dvc_revision": dvc_revision(config.resolve(config.data.path)),
    }


def _description(inputs: dict[str, Path]) -> str:
    """The beginning of the model card, which MLflow shows as Markdown."""
    try:
        return excerpt(inputs["model_card"].read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{inputs['model_card']}: cannot be read: {error}; {_REMEDY}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
