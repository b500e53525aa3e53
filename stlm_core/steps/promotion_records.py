"""What a promotion leaves besides tags and aliases: the verdicts, and the statistics that drift is measured against."""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from stlm_core.config import LineConfig
from stlm_core.data.drift import reference_path
from stlm_core.errors import StlmError
from stlm_core.files import write_json_atomic
from stlm_core.integrations.mlflow_registry import Registry, Version
from stlm_core.promotion.candidate import Decision

STATISTICS_ARTIFACT = "validation/statistics.json"


def keep_decision(
    registry: Registry, challenger: Version, outcome: str, reasons: tuple[str, ...], decision: Decision
) -> None:
    """Put the verdicts among the files of the challenger's run, ``promotion/decision-<time>.json``.

    The decision is made and carried out already: a store that refuses the file is a warning.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {
        "decided_at": now,
        "line": registry.line,
        "version": challenger.number,
        "outcome": outcome,
        "reasons": list(reasons),
        "rules": decision.to_dict(),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"decision-{re.sub(r'[^0-9T]', '', now[:19])}.json"
        write_json_atomic(path, content)
        try:
            registry.keep_file(challenger.run_id, path, "promotion")
        except StlmError as error:
            print(f"warning: the decision could not be put among the run's files: {error}", file=sys.stderr)


def keep_reference(config: LineConfig, registry: Registry, champion: Version) -> None:
    """Let the validation compare with the champion's training images; with none where their statistics are unknown.

    The champion is in service by now, so a store that does not answer or a folder that cannot be written is a warning;
    the next ``stlm promote`` tries again.
    """
    path = reference_path(config)
    try:
        statistics = registry.run_json(champion.run_id, STATISTICS_ARTIFACT)
        if statistics is not None:
            write_json_atomic(path, statistics)
        else:
            path.unlink(missing_ok=True)
    except (OSError, StlmError) as error:
        print(f"warning: {error}; drift is measured against the model before", file=sys.stderr)
