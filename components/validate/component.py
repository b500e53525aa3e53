"""Component ``validate``."""

from kfp import dsl

from components.command import DATA_IMAGE, task


@dsl.container_component
def validate(
    line: str,
    data: dict,
    validate: dict,
    data_image: str,
    images: dsl.Input[dsl.Dataset],
    manifest: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> dsl.ContainerSpec:
    """Check every image, divide the line into train, validation, calibration and test."""
    return task(DATA_IMAGE, "validate", line)
