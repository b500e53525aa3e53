"""What this project makes in Kubeflow Pipelines (v2beta1 API): experiment, pipelines, runs, recurring runs."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api as models

from pipelines.connection import Connection, NotFound
from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes

PAGE = 100
# Collecting the results of a ParallelFor needs it.
OLDEST_BACKEND = (2, 14)


def version_name(ir: str) -> str:
    """The name of a pipeline's version: a hash of its IR, so that the same text is one version."""
    return f"ir-{sha256_bytes(ir.encode())[:16]}"


class Kubeflow:
    """What the commands need of the API, in the connection's namespace.

    A backend for a single user ignores the namespace and runs everything in its own.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        client = connection.client
        self._health = models.HealthzServiceApi(client)
        self._experiments = models.ExperimentServiceApi(client)
        self._pipelines = models.PipelineServiceApi(client)
        self._uploads = models.PipelineUploadServiceApi(client)
        self._runs = models.RunServiceApi(client)
        self._recurring = models.RecurringRunServiceApi(client)

    @property
    def address(self) -> str:
        return self._connection.endpoint.address

    @property
    def namespace(self) -> str:
        return self._connection.endpoint.namespace

    def check(self) -> str | None:
        """Whether this is a backend to work with: None, or a warning about its version.

        Raises:
            UserError: the address has no v2 API, or the backend is too old.
        """
        address = self.address
        try:
            self._connection.call("check the server", self._health.healthz_service_get_healthz)
        except NotFound:
            raise UserError(
                f"--endpoint: {address} has no Kubeflow Pipelines v2 API; check the address (a gateway's needs the "
                "path /pipeline)"
            ) from None
        # The server says its version, which its schema and so the generated model leave out.
        told = str(json.loads(self._connection.client.last_response.data).get("tag_name", ""))
        found = re.match(r"v?(\d+)\.(\d+)", told)
        if found is None:
            return None
        backend = (int(found[1]), int(found[2]))
        sdk = tuple(int(part) for part in kfp.__version__.split(".")[:2])
        if backend < OLDEST_BACKEND:
            raise UserError(f"--endpoint: {address} runs Kubeflow Pipelines {told}; these pipelines need 2.14 or newer")
        if backend != sdk:
            return f"{address} runs Kubeflow Pipelines {told}, the pipelines are compiled with kfp {kfp.__version__}"
        return None

    def find_experiment(self, name: str) -> str | None:
        """The id of the experiment ``name``."""
        return next(
            (
                experiment.experiment_id
                for experiment in self._listed(
                    f"look for the experiment {name}",
                    self._experiments.experiment_service_list_experiments,
                    "experiments",
                    namespace=self.namespace,
                    filter=_where("display_name", name),
                )
                if experiment.display_name == name
            ),
            None,
        )

    def experiment(self, name: str) -> str:
        """The id of the experiment ``name``, created where it is missing."""
        return self.find_experiment(name) or self._connection.create(
            f"create the experiment {name}",
            lambda **options: self._experiments.experiment_service_create_experiment(**options).experiment_id,
            lambda: self.find_experiment(name),
            experiment=models.V2beta1Experiment(display_name=name, namespace=self.namespace),
        )

    def find_pipeline(self, name: str) -> str | None:
        """The id of the pipeline ``name``."""
        try:
            found = self._connection.call(
                f"look for the pipeline {name}",
                self._pipelines.pipeline_service_get_pipeline_by_name,
                name,
                namespace=self.namespace,
            )
        except NotFound:
            return None
        return str(found.pipeline_id)

    def find_version(self, pipeline_id: str, name: str) -> str | None:
        """The id of a pipeline's version ``name``."""
        versions = self._listed(
            f"look for the version {name}",
            self._pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id,
            filter=_where("name", name),
        )
        return next((version.pipeline_version_id for version in versions if version.name == name), None)

    def newest_version(self, pipeline: str) -> Any:
        """Reference to the newest version of ``pipeline``.

        Raises:
            UserError: there is no such pipeline, or it has no version.
        """
        pipeline_id = self.find_pipeline(pipeline)
        if pipeline_id is not None:
            page = self._connection.call(
                f"look for versions of {pipeline}",
                self._pipelines.pipeline_service_list_pipeline_versions,
                pipeline_id,
                page_size=1,
                sort_by="created_at desc",
            )
            for version in page.pipeline_versions or []:
                return _reference(pipeline_id, version.pipeline_version_id)
        raise UserError(
            f"{pipeline}: no such pipeline on the server; run `python -m pipelines submit` for a line first"
        )

    def publish(self, name: str, ir: str) -> tuple[Any, bool]:
        """Reference to the version of the pipeline ``name`` that is ``ir``, and whether it had to be uploaded."""
        pipeline_id = self.find_pipeline(name) or self._connection.create(
            f"create the pipeline {name}",
            lambda **options: self._pipelines.pipeline_service_create_pipeline(**options).pipeline_id,
            lambda: self.find_pipeline(name),
            pipeline=models.V2beta1Pipeline(name=name, display_name=name, namespace=self.namespace),
        )
        version = version_name(ir)
        found = self.find_version(pipeline_id, version)
        if found is not None:
            return _reference(pipeline_id, found), False
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.yaml"
            file.write_text(ir, encoding="utf-8")
            version_id = self._connection.create(
                f"upload {name} {version}",
                lambda **options: self._uploads.upload_pipeline_version(str(file), **options).pipeline_version_id,
                lambda: self.find_version(pipeline_id, version),
                name=version,
                display_name=version,
                pipelineid=pipeline_id,
            )
        return _reference(pipeline_id, version_id), True

    def find_run(self, name: str, experiment_id: str) -> Any | None:
        """The run of that name in the experiment."""
        runs = self._listed(
            f"look for the run {name}",
            self._runs.run_service_list_runs,
            "runs",
            namespace=self.namespace,
            experiment_id=experiment_id,
            filter=_where("display_name", name),
        )
        return next((run for run in runs if run.display_name == name), None)

    def start(
        self, name: str, reference: Any, arguments: dict[str, Any], experiment_id: str, account: str | None
    ) -> Any:
        """The new run ``name``, which must be nobody else's name: it is how a run whose answer was lost is found."""
        return self._connection.create(
            f"start the run {name}",
            self._runs.run_service_create_run,
            lambda: self.find_run(name, experiment_id),
            run=models.V2beta1Run(
                display_name=name,
                experiment_id=experiment_id,
                pipeline_version_reference=reference,
                runtime_config=models.V2beta1RuntimeConfig(parameters=arguments),
                service_account=account,
            ),
        )

    def run(self, run_id: str) -> Any:
        """A run with its tasks."""
        return self._connection.call("read the run", self._runs.run_service_get_run, run_id)

    def recurring_runs(self, experiment_id: str) -> list[Any]:
        """All recurring runs of an experiment, anybody's."""
        return list(
            self._listed(
                "list the recurring runs",
                self._recurring.recurring_run_service_list_recurring_runs,
                "recurring_runs",
                namespace=self.namespace,
                experiment_id=experiment_id,
            )
        )

    def create_recurring_run(self, recurring: Any) -> str:
        """The id of the new recurring run. Its description must tell it from every other of its experiment."""

        def find() -> str | None:
            runs = self.recurring_runs(recurring.experiment_id)
            return next((str(run.recurring_run_id) for run in runs if run.description == recurring.description), None)

        return self._connection.create(
            f"create the recurring run {recurring.display_name}",
            lambda **options: str(
                self._recurring.recurring_run_service_create_recurring_run(**options).recurring_run_id
            ),
            find,
            recurring_run=recurring,
        )

    def switch_recurring_run(self, recurring_run_id: str, enabled: bool) -> None:
        """Enable or disable a recurring run."""
        switch = (
            self._recurring.recurring_run_service_enable_recurring_run
            if enabled
            else self._recurring.recurring_run_service_disable_recurring_run
        )
        what = "enable the recurring run" if enabled else "pause the recurring run"
        self._connection.call(what, switch, recurring_run_id)

    def delete_recurring_run(self, recurring_run_id: str) -> None:
        """Delete a recurring run, one that is gone too. What it has started goes on.

        ORPHAN is what lets it go on: Kubernetes would delete the workflows with their owner. Backends before 2.16 know
        no such parameter and stop what is running.
        """
        try:
            self._connection.call(
                "delete the recurring run",
                self._recurring.recurring_run_service_delete_recurring_run,
                recurring_run_id,
                propagation_policy="ORPHAN",
            )
        except NotFound:
            return

    def _listed(
        self, what: str, function: Callable[..., Any], field: str, *arguments: Any, **options: Any
    ) -> Iterator[Any]:
        """The items of all pages."""
        token = ""
        while True:
            page = self._connection.call(what, function, *arguments, page_size=PAGE, page_token=token, **options)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return


def _where(key: str, value: str) -> str:
    """A filter as the API takes it."""
    return json.dumps({"predicates": [{"key": key, "operation": "EQUALS", "string_value": value}]})


def _reference(pipeline_id: str, version_id: str) -> Any:
    return models.V2beta1PipelineVersionReference(pipeline_id=pipeline_id, pipeline_version_id=version_id)
