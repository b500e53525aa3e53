"""Component ``export``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def export(
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
    train_image: str,
    images: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Dataset],
    detector: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    onnx: dsl.Output[dsl.Model],
    card: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Write the detector as one ONNX file and prove that it says the same."""
    return task(TRAIN_IMAGE, "export", line)
