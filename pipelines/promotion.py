"""The promotion pipeline: judge a line's challenger now."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.promote.component import promote as promote_step
from components.record_outcome.component import record_outcome as record_outcome_step
from pipelines.placement import Images, never_cached, place, with_storage


def promotion_pipeline(images: Images) -> BaseComponent:
    """One task behind the gate, and the record of how it ended."""

    @dsl.pipeline(
        name="stlm-promotion",
        display_name="STLM promotion",
        description="Put the challenger of one product line in service if it passes the gate.",
    )
    def promotion(
        line: str,
        data: dict,
        promote: dict,
        register: dict,
        by: str = "",
        reason: str = "",
        serve_cpu: str = "1",
        serve_memory: str = "2Gi",
    ) -> None:
        outcome = record_outcome_step(
            line=line,
            run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
            run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            register=register,
        )
        never_cached(with_storage(place(outcome, "Record the outcome", images.serve, serve_cpu, serve_memory)))
        with dsl.ExitHandler(outcome, name="Promotion"):
            judged = promote_step(
                line=line, data=data, promote=promote, by=by, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, reason=reason
            )
            never_cached(with_storage(place(judged, "Judge and promote", images.serve, serve_cpu, serve_memory)))

    return promotion
