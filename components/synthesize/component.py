"""Component ``synthesize``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def synthesize(
    line: str,
    image: dict,
    data: dict,
    synthesize: dict,
    train_image: str,
    images: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Dataset],
    bank: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Make the bank of pseudo-anomalous variants of the good images."""
    return task(TRAIN_IMAGE, "synthesize", line)
