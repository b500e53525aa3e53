"""Component ``distill``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def distill(
    line: str,
    image: dict,
    synthesize: dict,
    teacher: dict,
    model: dict,
    distill: dict,
    gpus: int,
    train_image: str,
    bank: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    streams: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Train the two streams on the teacher's features, one process a GPU."""
    return task(TRAIN_IMAGE, "distill", line)
