"""The pipeline that starts a run of its own for every line."""

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from components.start_run.component import start_run
from pipelines.placement import never_cached, place

# Keys of the ConfigMap that a cluster may leave out: where its API is when not at the default, and as whom to ask it.
KFP_CONFIG = ("KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_TOKEN_FILE")


def retrain_all_pipeline(launch_image: str) -> BaseComponent:
    """One task a line, four at once; a line that cannot be started fails its own task only."""

    @dsl.pipeline(
        name="stlm-retrain-all",
        display_name="STLM retrain all lines",
        description="Start a training run of its own for every product line.",
    )
    def retrain_all(lines: list[dict], experiment: str = "stlm") -> None:
        # A struct a line: `line`, `pipeline` (the name on the cluster) and its `arguments`.
        with dsl.ParallelFor(lines, parallelism=4, name="Every line") as job:
            started = start_run(job=job, request=dsl.PIPELINE_JOB_ID_PLACEHOLDER, experiment=experiment)
            never_cached(place(started, "Start the run", launch_image, "100m", "512Mi"))
            kubernetes.use_config_map_as_env(started, "stlm-config", {key: key for key in KFP_CONFIG}, optional=True)
            kubernetes.add_pod_label(started, "access-ml-pipeline", "true")  # the token, infra/kustomize
            started.set_retry(num_retries=3, backoff_duration="20s", backoff_factor=2, backoff_max_duration="300s")

    return retrain_all
