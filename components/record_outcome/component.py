"""Component ``record-outcome``: the exit handler."""

from kfp import dsl

from components.command import SERVE_IMAGE, task


@dsl.container_component
def record_outcome(
    line: str,
    run_name: str,
    run_id: str,
    register: dict,
    status: dsl.PipelineTaskFinalStatus,
) -> dsl.ContainerSpec:
    """Record in MLflow how the run of the pipeline ended."""
    return task(SERVE_IMAGE, "record-outcome", line)
