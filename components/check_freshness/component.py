"""Component ``check-freshness``."""

from kfp import dsl

from components.command import SERVE_IMAGE, task


@dsl.container_component
def check_freshness(
    line: str,
    data_revision: str,
    force: bool,
    image: dict,
    validate: dict,
    synthesize: dict,
    teacher: dict,
    model: dict,
    distill: dict,
    fa: dict,
    evaluate: dict,
    export: dict,
    register: dict,
    promote: dict,
    stale: dsl.OutputPath(bool),
    reason: dsl.OutputPath(str),
    revision: dsl.OutputPath(str),
    data: dsl.OutputPath(dict),
    champion: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """Compare data, settings and code with the model in service; ``stale`` says whether to train."""
    return task(SERVE_IMAGE, "check-freshness", line)
