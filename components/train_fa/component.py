"""Component ``train-fa``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def train_fa(
    line: str,
    image: dict,
    synthesize: dict,
    teacher: dict,
    model: dict,
    fa: dict,
    gpus: int,
    train_image: str,
    bank: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    streams: dsl.Input[dsl.Model],
    detector: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Train the feature aggregation, one process a GPU."""
    return task(TRAIN_IMAGE, "train-fa", line)
