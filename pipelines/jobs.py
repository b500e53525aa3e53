"""What a line asks the cluster for: a compiled pipeline and its arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.api import version_name
from pipelines.arguments import digests_of, promotion_arguments, training_arguments, training_pipeline_name
from pipelines.compilation import compile_pipeline
from pipelines.cron import parse
from pipelines.placement import Images
from pipelines.schedules import Schedule
from pipelines.submit import Job
from pipelines.timezones import in_cluster_time, zone
from stlm_core.config import LineConfig, line_names, load_line
from stlm_core.errors import UserError


def training_job(config: LineConfig, images: Images, data_revision: str = "latest", force: bool = False) -> Job:
    """The training of a line."""
    name = training_pipeline_name(config)
    return Job(
        config.name,
        f"stlm-{name}",
        compile_pipeline(name, images),
        training_arguments(config, digests_of(images), data_revision, force),
    )


def promotion_job(config: LineConfig, images: Images, by: str = "", reason: str = "") -> Job:
    """The judgement of the line's challenger."""
    ir = compile_pipeline("promotion", images)
    return Job(config.name, "stlm-promotion", ir, promotion_arguments(config, by, reason))


def retrain_all_job(jobs: list[Job], images: Images, experiment: str) -> Job:
    """The pipeline that starts ``jobs``, each as a run of its own, in ``experiment``."""
    lines = [{"line": job.line, "pipeline": job.pipeline, "arguments": job.arguments} for job in jobs]
    arguments = {"lines": lines, "experiment": experiment}
    return Job("retrain-all", "stlm-retrain-all", compile_pipeline("retrain-all", images), arguments)


def scheduled(params: Path, images: Images, cluster_timezone: str, only: str | None = None) -> dict[Schedule, str]:
    """The schedules of all lines that have one, or of the line ``only``, each with the IR of its pipeline.

    Raises:
        UserError: an unknown line, or a wrong setting, named by its path in ``params.yaml``.
    """
    zone(cluster_timezone, "--cluster-timezone")
    irs: dict[str, str] = {}
    found = {}
    for name in line_names(params) if only is None else [only]:
        config = load_line(params, name)
        timing, setting = config.schedule, f"{params}: lines.{name}.schedule"
        if timing.cron is None:
            continue
        zone(timing.timezone, f"{setting}.timezone")
        cron = in_cluster_time(
            parse(timing.cron, f"{setting}.cron"), timing.timezone, cluster_timezone, f"{setting}.timezone"
        )
        pipeline = training_pipeline_name(config)
        if pipeline not in irs:
            irs[pipeline] = compile_pipeline(pipeline, images)
        ir = irs[pipeline]
        arguments = training_arguments(config, digests_of(images))
        found[Schedule(name, f"stlm-{pipeline}", version_name(ir), cron.text, arguments, timing.enabled)] = ir
    return found


def chosen_images(given: list[str]) -> Images:
    """The project's images, some of them replaced by ``NAME=REFERENCE``.

    Raises:
        UserError: another form, or no image of that name.
    """
    images = Images()
    for text in given:
        name, _, reference = text.partition("=")
        if name not in vars(images) or not reference:
            raise UserError(f"--image {text}: must be NAME=REFERENCE with a name of {', '.join(vars(images))}")
        images = replace(images, **{name: reference})
    return images
