"""Component ``register``."""

from kfp import dsl

from components.command import SERVE_IMAGE, task


@dsl.container_component
def register(
    line: str,
    profile: str,
    data_revision: str,
    image: dict,
    data: dict,
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
    manifest: dsl.Input[dsl.Dataset],
    streams: dsl.Input[dsl.Model],
    detector: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    onnx: dsl.Input[dsl.Model],
    registration: dsl.Output[dsl.Artifact],
    version: dsl.OutputPath(int),
    alias: dsl.OutputPath(str),
    model_uri: dsl.OutputPath(str),
) -> dsl.ContainerSpec:
    """Log the run to MLflow and register the model as the line's challenger."""
    return task(SERVE_IMAGE, "register", line)
