"""Component ``cache-teacher``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def cache_teacher(
    line: str,
    image: dict,
    teacher: dict,
    model: dict,
    train_image: str,
    bank: dsl.Input[dsl.Dataset],
    parts: dsl.Input[list[dsl.Dataset]],
    features: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Join the parts of the teacher's features; a row that is missing or damaged is computed again."""
    return task(TRAIN_IMAGE, "cache-teacher", line)
