"""Great Expectations: the rules of a line as a suite, checked and kept in a file-backed context with its Data Docs.

The context lies in the step's output folder and holds nothing that names another place, so the folder can be moved.
Open it with ``great_expectations.get_context(context_root_dir="<folder>/gx")``; its checkpoint, named like the line,
runs on the table that was checked, which is beside it:
``context.checkpoints.get(line).run(batch_parameters={"dataframe": pandas.read_parquet("images.parquet")})``.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stlm_core.config import LineConfig
from stlm_core.data.drift import TrainingStatistics
from stlm_core.data.inspection import Inspection
from stlm_core.data.quarantine import Unusable
from stlm_core.files import write_bytes_atomic
from stlm_core.integrations.data_docs import write_front_page
from stlm_core.integrations.expectation_rules import Rule, ValidationReport, rules_of
from stlm_core.integrations.expectation_table import find_everything, table_of

if TYPE_CHECKING:
    from great_expectations.checkpoint.checkpoint import CheckpointResult
    from great_expectations.data_context.data_context.file_data_context import FileDataContext

CONTEXT_FOLDER = "gx"
DOCS_FOLDER = "data_docs"
TABLE_FILE = "images.parquet"
RESULT_FILE = "checkpoint_result.json"
_SITE = "line"
_SEVERITY = {"fail": "critical", "warn": "warning", "info": "info"}
_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem 2rem; max-width: 70rem; color: #1d2329 }
table { border-collapse: collapse; margin: .4rem 0; width: 100% }
td, th { border: 1px solid #d0d7de; padding: .3rem .6rem; vertical-align: top; text-align: left }
h1, h2, h3, h4, h5, h6 { font-size: 1.1rem; margin: .8rem 0 .2rem }
.fa-times::before { content: "\\2717"; color: #c62828 }
.fa-check-circle::before { content: "\\2713"; color: #2e7d32 }
.fa-exclamation-triangle::before { content: "!"; color: #a66300; font-weight: bold }
.alert { background: #f6f8fa; padding: .2rem .8rem; margin: 1rem 0 .2rem }
ol, ul { list-style: none; padding: 0 } .breadcrumb li { display: inline; margin-right: .8rem }
.sticky, .collapse, [data-toggle="collapse"] { display: none }
</style>"""


def validate_inspection(
    inspection: Inspection,
    config: LineConfig,
    folder: Path,
    *,
    quarantined: Sequence[Unusable] = (),
    reference: TrainingStatistics | None = None,
) -> ValidationReport:
    """Check an inspected line against ``config.validate_``; write the context ``gx`` and ``data_docs`` into ``folder``.

    The docs need no network: pages, styles and small pictures inside them. Context and docs carry the time of the run
    and random identifiers, so their bytes differ from run to run.

    Args:
        quarantined: images that are left out, and why.
        reference: statistics of the images that the champion was trained on, None where there is no champion.
    """
    findings = find_everything(inspection, config, quarantined, reference)
    table = table_of(findings)
    rules = rules_of(config, findings)
    outcomes = _check(config.name, table, rules, folder)
    report = ValidationReport(tuple(rule.result(outcomes[rule.name], findings) for rule in rules), findings.drift)
    write_front_page(folder / DOCS_FOLDER, config, inspection.root, findings, report)
    return report


def _check(line: str, table: pd.DataFrame, rules: Sequence[Rule], folder: Path) -> dict[str, list[tuple[bool, Any]]]:
    """Of every rule, whether each of its expectations holds, and what it observed."""
    # Read by the package while it is imported: no usage statistics leave the factory.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations import expectations

    root = folder / CONTEXT_FOLDER
    context = _open_context(root)
    suite = context.suites.add(gx.ExpectationSuite(name=line))
    for rule in rules:
        for number, (kind, arguments) in enumerate(rule.expectations):
            expectation = getattr(expectations, kind)
            suite.add_expectation(
                expectation(
                    **arguments,
                    description=rule.asks,
                    severity=_SEVERITY[rule.level],
                    meta={"rule": rule.name, "number": number},
                )
            )
    batch = (
        context.data_sources.add_pandas("images").add_dataframe_asset(line).add_batch_definition_whole_dataframe("all")
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=line, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=line,
            validation_definitions=[definition],
            # Of many images at fault twenty are kept here; validation.json names them all.
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["path"]},
        )
    )
    result = checkpoint.run(batch_parameters={"dataframe": table}, run_id=gx.RunIdentifier(run_name=line))
    context.build_data_docs(site_names=[_SITE])
    _keep(root, table, result)
    _make_self_contained(folder / DOCS_FOLDER)
    return _outcomes(result)


def _open_context(root: Path) -> FileDataContext:
    """A new context in the folder ``root``, with one site of Data Docs beside it and no progress bars."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context: FileDataContext = gx.get_context(mode="file", context_root_dir=root)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    context.variables.save()
    for site in list(context.list_data_docs_sites()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": f"../{DOCS_FOLDER}/"},
        },
    )
    return context


def _keep(root: Path, table: pd.DataFrame, result: CheckpointResult) -> None:
    """The table that was checked and the checkpoint's result, and the package's own decoration away."""
    stream = io.BytesIO()
    table.to_parquet(stream, index=False)
    write_bytes_atomic(root / TABLE_FILE, stream.getvalue())
    write_bytes_atomic(root / RESULT_FILE, (result.describe() + "\n").encode())
    shutil.rmtree(root / "plugins", ignore_errors=True)
    (root / ".gitignore").unlink(missing_ok=True)


def _outcomes(result: CheckpointResult) -> dict[str, list[tuple[bool, Any]]]:
    (run,) = result.run_results.values()
    found: defaultdict[str, dict[int, tuple[bool, Any]]] = defaultdict(dict)
    for outcome in run.results:
        if outcome.expectation_config is not None:
            meta = outcome.expectation_config.meta
            found[meta["rule"]][meta["number"]] = (bool(outcome.success), outcome.result.get("observed_value"))
    return {rule: [by_number[number] for number in sorted(by_number)] for rule, by_number in found.items()}


def _make_self_contained(docs: Path) -> None:
    """Take out what the pages would load from elsewhere, and the scripts that need it; style them ourselves."""
    shutil.rmtree(docs / "static", ignore_errors=True)
    for page in docs.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<(script|style|footer)\b.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.sub(r"<(link|img)\b[^>]*>", "", text, flags=re.IGNORECASE)
        page.write_text(text.replace("</head>", f"{_STYLE}\n</head>", 1), encoding="utf-8")
