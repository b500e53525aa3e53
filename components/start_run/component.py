"""Component ``start_run``."""

from kfp import dsl

from components.command import LAUNCH_IMAGE


@dsl.container_component
def start_run(job: dict, request: str, experiment: str) -> dsl.ContainerSpec:
    """Start one run of a line's pipeline and end; ``request`` makes a second attempt find the first one's run."""
    return dsl.ContainerSpec(
        image=LAUNCH_IMAGE,
        command=["python", "-m", "pipelines", "start"],
        args=["--job", job, "--request", request, "--experiment", experiment],
    )
