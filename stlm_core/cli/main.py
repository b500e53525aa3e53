"""``stlm``: every pipeline step and every tool, one command each.

Only typer is imported here; a command imports what it needs when it runs, so ``stlm --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from stlm_core.cli.cluster import check_freshness_command, fetch_images_command, record_outcome_command
from stlm_core.cli.data import lines_app, sample_command
from stlm_core.cli.keys import keys_app
from stlm_core.cli.predict import predict_command
from stlm_core.cli.registry import promote_command, reject_command, rollback_command
from stlm_core.cli.registry_views import copy_command, history_command, status_command
from stlm_core.cli.serve import serve_command
from stlm_core.cli.steps import (
    cache_teacher_command,
    distill_command,
    evaluate_command,
    export_command,
    quantize_command,
    register_command,
    run_command,
    synthesize_command,
    train_fa_command,
    validate_command,
)
from stlm_core.cli.summary import config_command, summary_command
from stlm_core.cli.task import task_command
from stlm_core.cli.versioning import data_app
from stlm_core.cli.weights import weights_app
from stlm_core.errors import StlmError, first_line

app = typer.Typer(
    help="Train, check, ship and serve one small anomaly detector per product line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_COMMANDS: list[tuple[str, str, Callable[..., None]]] = [
    ("Data", "sample", sample_command),
    ("Data", "config", config_command),
    ("Pipeline steps, in order", "validate", validate_command),
    ("Pipeline steps, in order", "synthesize", synthesize_command),
    ("Pipeline steps, in order", "cache-teacher", cache_teacher_command),
    ("Pipeline steps, in order", "distill", distill_command),
    ("Pipeline steps, in order", "train-fa", train_fa_command),
    ("Pipeline steps, in order", "evaluate", evaluate_command),
    ("Pipeline steps, in order", "export", export_command),
    ("Pipeline steps, in order", "register", register_command),
    ("Pipeline steps, in order", "run", run_command),
    ("Registry", "promote", promote_command),
    ("Registry", "reject", reject_command),
    ("Registry", "rollback", rollback_command),
    ("Registry", "status", status_command),
    ("Registry", "history", history_command),
    ("Registry", "copy", copy_command),
    ("Cluster", "task", task_command),
    ("Cluster", "check-freshness", check_freshness_command),
    ("Cluster", "fetch-images", fetch_images_command),
    ("Cluster", "record-outcome", record_outcome_command),
    ("Use", "quantize", quantize_command),
    ("Use", "predict", predict_command),
    ("Use", "serve", serve_command),
    ("Use", "summary", summary_command),
]
for panel, name, command in _COMMANDS:
    app.command(name, rich_help_panel=panel)(command)
app.add_typer(lines_app, name="lines", rich_help_panel="Data")
app.add_typer(weights_app, name="weights", rich_help_panel="Data")
app.add_typer(data_app, name="data", rich_help_panel="Data")
app.add_typer(keys_app, name="keys", rich_help_panel="Registry")


_INTERRUPTED = 130  # the exit code that typer makes of a KeyboardInterrupt


def main() -> None:
    """Run the command line; a failure is one sentence on standard error and exit code 2 (the user's) or 1 (ours)."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        app(standalone_mode=True)
    except StlmError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:  # not of a pipe that nobody reads any more: typer ends the command quietly for that
        place = "reading or writing failed" if error.filename is None else error.filename
        print(f"error: {place}: {error.strerror or first_line(error)}", file=sys.stderr)
        raise SystemExit(StlmError.exit_code) from None
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            print("interrupted; run the same command again to continue", file=sys.stderr)
        raise
