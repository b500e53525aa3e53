"""The training pipeline of one line."""

from typing import Any

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent

from components.cache_teacher.component import cache_teacher as cache_teacher_step
from components.cache_teacher_shard.component import cache_teacher_shard as cache_teacher_shard_step
from components.check_freshness.component import check_freshness as check_freshness_step
from components.distill.component import distill as distill_step
from components.evaluate.component import evaluate as evaluate_step
from components.export.component import export as export_step
from components.fetch_images.component import fetch_images as fetch_images_step
from components.promote.component import promote as promote_step
from components.record_outcome.component import record_outcome as record_outcome_step
from components.register.component import register as register_step
from components.synthesize.component import synthesize as synthesize_step
from components.train_fa.component import train_fa as train_fa_step
from components.validate.component import validate as validate_step
from pipelines.placement import Images, never_cached, place, with_digest, with_gpus, with_storage, with_weights


def training_pipeline(images: Images, *, gpu: bool) -> BaseComponent:
    """Data, training, evaluation, export, registration and promotion of one line, when anything changed.

    ``gpu``: the steps that train or run the teacher get ``gpus`` GPUs of ``gpu_type`` each.
    """
    kind = "gpu" if gpu else "cpu"

    @dsl.pipeline(
        name=f"stlm-training-{kind}",
        display_name=f"STLM training ({kind.upper()})",
        description="Train, check and register the anomaly detector of one product line.",
    )
    def training(
        line: str,
        profile: str,
        image: dict,
        validate: dict,
        synthesize: dict,
        teacher: dict,
        model: dict,
        distill: dict,
        fa: dict,
        evaluate: dict,
        export: dict,
        register: dict,
        promote: dict,
        data_image: str,
        train_image: str,
        serve_image: str,
        launch_image: str,
        shards: list[dict],
        data_revision: str = "latest",
        force: bool = False,
        automatic: bool = True,
        data_cpu: str = "1",
        data_memory: str = "2Gi",
        train_cpu: str = "2",
        train_memory: str = "6Gi",
        serve_cpu: str = "1",
        serve_memory: str = "2Gi",
        gpus: int = 1 if gpu else 0,
        gpu_type: str = "nvidia.com/gpu",
    ) -> None:
        def on_data(task: PipelineTask, title: str) -> PipelineTask:
            return place(task, title, images.data, data_cpu, data_memory)

        def on_train(task: PipelineTask, title: str) -> PipelineTask:
            return place(task, title, images.train_cuda if gpu else images.train, train_cpu, train_memory)

        def on_gpu(task: PipelineTask, title: str, count: Any = 1) -> PipelineTask:
            return with_gpus(on_train(task, title), count, gpu_type) if gpu else on_train(task, title)

        def on_serve(task: PipelineTask, title: str) -> PipelineTask:
            return never_cached(with_storage(place(task, title, images.serve, serve_cpu, serve_memory)))

        outcome = on_serve(
            record_outcome_step(
                line=line,
                run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                register=register,
            ),
            "Record the outcome",
        )
        with dsl.ExitHandler(outcome, name="Training"):
            fresh = on_serve(
                check_freshness_step(
                    line=line,
                    data_revision=data_revision,
                    force=force,
                    image=image,
                    validate=validate,
                    synthesize=synthesize,
                    teacher=teacher,
                    model=model,
                    distill=distill,
                    fa=fa,
                    evaluate=evaluate,
                    export=export,
                    register=register,
                    promote=promote,
                ),
                "Anything new?",
            )
            data: Any = fresh.outputs["data"]
            revision: Any = fresh.outputs["revision"]
            with dsl.If(fresh.outputs["stale"] == True, name="Something changed"):  # noqa: E712  a condition for KFP
                fetched = with_storage(
                    place(
                        fetch_images_step(
                            line=line,
                            data_revision=revision,
                            champion=fresh.outputs["champion"],
                            data=data,
                            launch_image=launch_image,
                        ),
                        "Fetch the images",
                        images.launch,
                        data_cpu,
                        data_memory,
                    )
                )
                packed = fetched.outputs["images"]
                checked = on_data(
                    validate_step(line=line, data=data, validate=validate, data_image=data_image, images=packed),
                    "Validate the images",
                )
                manifest = checked.outputs["manifest"]
                bank = with_weights(  # where textures of the line's own can be put, too
                    on_train(
                        synthesize_step(
                            line=line,
                            image=image,
                            data=data,
                            synthesize=synthesize,
                            train_image=train_image,
                            images=packed,
                            manifest=manifest,
                        ),
                        "Make pseudo anomalies",
                    )
                ).outputs["bank"]
                with dsl.ParallelFor(shards, name="Shards of the teacher cache") as shard:
                    part = with_weights(
                        on_gpu(
                            cache_teacher_shard_step(
                                line=line,
                                shard=shard,
                                image=image,
                                teacher=teacher,
                                model=model,
                                train_image=train_image,
                                bank=bank,
                            ),
                            "Run the teacher",
                        )
                    )
                features = with_weights(
                    on_train(
                        cache_teacher_step(
                            line=line,
                            image=image,
                            teacher=teacher,
                            model=model,
                            train_image=train_image,
                            bank=bank,
                            parts=dsl.Collected(part.outputs["part"]),
                        ),
                        "Join the teacher cache",
                    )
                ).outputs["features"]
                streams = with_weights(
                    on_gpu(
                        distill_step(
                            line=line,
                            image=image,
                            synthesize=synthesize,
                            teacher=teacher,
                            model=model,
                            distill=distill,
                            gpus=gpus,
                            train_image=train_image,
                            bank=bank,
                            features=features,
                        ),
                        "Distill the two streams",
                        gpus,
                    )
                ).outputs["streams"]
                detector = with_weights(
                    on_gpu(
                        train_fa_step(
                            line=line,
                            image=image,
                            synthesize=synthesize,
                            teacher=teacher,
                            model=model,
                            fa=fa,
                            gpus=gpus,
                            train_image=train_image,
                            bank=bank,
                            features=features,
                            streams=streams,
                        ),
                        "Train the feature aggregation",
                        gpus,
                    )
                ).outputs["detector"]
                evaluation = on_gpu(
                    evaluate_step(
                        line=line,
                        data=data,
                        distill=distill,
                        fa=fa,
                        evaluate=evaluate,
                        train_image=train_image,
                        images=packed,
                        manifest=manifest,
                        detector=detector,
                    ),
                    "Evaluate",
                ).outputs["evaluation"]
                onnx = on_train(
                    export_step(
                        line=line,
                        profile=profile,
                        data_revision=revision,
                        image=image,
                        data=data,
                        validate=validate,
                        synthesize=synthesize,
                        teacher=teacher,
                        model=model,
                        distill=distill,
                        fa=fa,
                        evaluate=evaluate,
                        export=export,
                        train_image=train_image,
                        images=packed,
                        manifest=manifest,
                        detector=detector,
                        evaluation=evaluation,
                    ),
                    "Export and prove",
                ).outputs["onnx"]
                registered = on_serve(
                    register_step(
                        line=line,
                        profile=profile,
                        data_revision=revision,
                        image=image,
                        data=data,
                        validate=validate,
                        synthesize=synthesize,
                        teacher=teacher,
                        model=model,
                        distill=distill,
                        fa=fa,
                        evaluate=evaluate,
                        export=export,
                        register=register,
                        promote=promote,
                        manifest=manifest,
                        streams=streams,
                        detector=detector,
                        evaluation=evaluation,
                        onnx=onnx,
                    ),
                    "Register the challenger",
                )
                with_digest(registered, images.serve)
                with dsl.If(automatic == True, name="Promotion is automatic"):  # noqa: E712, SIM117
                    with dsl.If(registered.outputs["alias"] == "challenger", name="It is a challenger"):
                        on_serve(
                            promote_step(
                                line=line,
                                data=data,
                                promote=promote,
                                by="",
                                run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
                                reason="",
                            ),
                            "Judge and promote",
                        )

    return training
