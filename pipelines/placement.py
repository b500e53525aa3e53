"""What every task of a pipeline asks the cluster for: image, resources, retries, configuration, scratch space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components import command

USER = 10001  # of the images
WEIGHTS = "/weights"  # where tasks have the pretrained weights, and what else of a line's own is put beside them
# Keys of the ConfigMap, and the variables they become: boto3 reads the region from AWS_DEFAULT_REGION only.
CONFIG = {
    "MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI",
    "AWS_ENDPOINT_URL": "AWS_ENDPOINT_URL",
    "AWS_REGION": "AWS_DEFAULT_REGION",
    "STLM_DATA_URL": "STLM_DATA_URL",
}
STORE_SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
MLFLOW_SECRET = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@dataclass(frozen=True)
class Images:
    """References of the project's images, best by digest: the orchestrator's cache knows an image by this text."""

    data: str = command.DATA_IMAGE
    train: str = command.TRAIN_IMAGE
    train_cuda: str = command.TRAIN_CUDA_IMAGE
    serve: str = command.SERVE_IMAGE
    launch: str = command.LAUNCH_IMAGE


def place(task: PipelineTask, title: str, image: str, cpu: Any, memory: Any) -> PipelineTask:
    """Name, image and resources; ``cpu`` and ``memory`` are quantities or pipeline parameters.

    The memory asked for is the limit too, so a node is never overcommitted by a training. The image's root is
    read-only on a cluster that demands it: all that a step writes besides its outputs is under /tmp.
    """
    task.set_display_name(title).set_container_image(image)
    task.set_cpu_request(cpu).set_memory_request(memory).set_memory_limit(memory)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp")
    return task


def with_storage(task: PipelineTask) -> PipelineTask:
    """Addresses and credentials of the registry and the object store, and patience with their outages."""
    kubernetes.use_config_map_as_env(task, "stlm-config", CONFIG)
    kubernetes.use_secret_as_env(task, "stlm-s3", {name: name for name in STORE_SECRET})
    kubernetes.use_secret_as_env(task, "stlm-mlflow", {name: name for name in MLFLOW_SECRET}, optional=True)
    return task.set_retry(num_retries=2, backoff_duration="20s", backoff_factor=2, backoff_max_duration="300s")


def with_digest(task: PipelineTask, image: str) -> PipelineTask:
    """What a registered version says of the image it comes from, where the image is named by its digest."""
    return task.set_env_variable("STLM_IMAGE_DIGEST", image) if "@sha256:" in image else task


def with_weights(task: PipelineTask) -> PipelineTask:
    """The pretrained weights."""
    kubernetes.mount_pvc(task, pvc_name="stlm-weights", mount_path=WEIGHTS)
    return task


def with_gpus(task: PipelineTask, count: Any, kind: Any) -> PipelineTask:
    """``count`` GPUs of a node whose taint keeps other pods away, and shared memory for the processes that use them."""
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit="1Gi")
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    return task


def never_cached(task: PipelineTask) -> PipelineTask:
    """For what looks at, or changes, the world outside the pipeline."""
    return task.set_caching_options(False)
