"""Component ``evaluate``."""

from kfp import dsl

from components.command import TRAIN_IMAGE, task


@dsl.container_component
def evaluate(
    line: str,
    data: dict,
    distill: dict,
    fa: dict,
    evaluate: dict,
    train_image: str,
    images: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Dataset],
    detector: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Fit the threshold on held-back good images, measure the test images once."""
    return task(TRAIN_IMAGE, "evaluate", line)
