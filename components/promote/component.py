"""Component ``promote``."""

from kfp import dsl

from components.command import SERVE_IMAGE, task


@dsl.container_component
def promote(
    line: str,
    data: dict,
    promote: dict,
    by: str,
    run_name: str,
    reason: str,
    decision: dsl.Output[dsl.Markdown],
    outcome: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """Put the challenger in service if it passes the gate."""
    return task(SERVE_IMAGE, "promote", line)
