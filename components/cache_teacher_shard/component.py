"""Component ``cache-teacher-shard``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def cache_teacher_shard(
    line: str,
    shard: dict,
    image: dict,
    teacher: dict,
    model: dict,
    train_image: str,
    bank: dsl.Input[dsl.Dataset],
    part: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Compute one of several parts of the teacher's features."""
    return task(TRAIN_IMAGE, "cache-teacher-shard", line)
