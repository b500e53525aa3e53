"""Component ``fetch-images``."""

from kfp import dsl

from components.command import LAUNCH_IMAGE, task


@dsl.container_component
def fetch_images(
    line: str,
    data_revision: str,
    champion: str,
    data: dict,
    launch_image: str,
    images: dsl.Output[dsl.Dataset],
) -> dsl.ContainerSpec:
    """Fetch a published version of the line's images, verified, as one file."""
    return task(LAUNCH_IMAGE, "fetch-images", line)
