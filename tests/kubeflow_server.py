"""A Kubeflow Pipelines API of our own, for tests: the v2beta1 paths that the project uses, over HTTP, in memory.

It follows the API server of KFP 2.17 where that can matter to a client: field names and defaults left out as protojson
does, page tokens, filters, gRPC codes and error bodies, the checks of pipelines, arguments, schedules and names. Every
body in either direction is compared with KFP's generated models, errors and the server's own version excepted. Nothing
runs: a test sets the states of a run.

`faults` makes it fail: each is used up by the first requests that match.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kubeflow_schema
import robfig_cron
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

_GRPC = {3: 400, 5: 404, 6: 409, 7: 403, 16: 401, 13: 500, 14: 503}
_TYPES = {
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class Failure(Exception):
    """A gRPC status: its code, and the message that the API's details carry."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose ``METHOD path`` matches ``on``.

    ``status`` answers with it and does nothing; ``lost`` does what is asked, then drops the connection; ``content``
    is a whole answer of another kind; ``seconds`` comes before anything else; ``call`` is called first, and a true
    result drops the connection with nothing done.
    """

    on: str
    times: int = 1
    status: int | None = None
    lost: bool = False
    content: tuple[bytes, str] | None = None
    seconds: float = 0.0
    call: Callable[[], bool] | None = None


@dataclass
class KubeflowServer:
    """State and behaviour; `address` once it serves."""

    token: str | None = None
    multi_user: bool = False
    version: str = "2.17.0"
    page_limit: int = 100
    certificate: Path | None = None  # with its key, for TLS
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    tokens_seen: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    story: list[dict[str, Any]] = field(default_factory=list)  # what each reading of a run adds to it, first to last
    most_enabled: int = 0  # recurring runs of one name that were enabled at the same time
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _clock: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __enter__(self) -> KubeflowServer:
        handler = type("Handler", (_Handler,), {"kubeflow": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
            self.address = f"https://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(re.search(pattern, line) is not None for line in self.log)

    def fault(self, request: str) -> Fault | None:
        """The fault that this request meets, used up by one."""
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.on, request):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[dict[str, Any], str]:
        """The answer's body and the model that it is of."""
        with self._lock:
            for verb, shape, known, action in self._routes():
                match = re.fullmatch(shape, path)
                if match and verb == method:
                    unknown = set(query) - known
                    if unknown:
                        raise Failure(3, f"unknown query parameters {sorted(unknown)}")
                    return action(*match.groups(), query, body)
        raise Failure(5, "Not Found")

    def _routes(self) -> list[tuple[str, str, set[str], Callable[..., tuple[dict[str, Any], str]]]]:
        paged = {"page_token", "page_size", "sort_by", "filter"}
        one = "([^/:]+)"
        recurring = "/apis/v2beta1/recurringruns"
        return [
            ("GET", "/apis/v2beta1/healthz", set(), self._healthz),
            ("GET", "/apis/v2beta1/experiments", paged | {"namespace"}, self._list_experiments),
            ("POST", "/apis/v2beta1/experiments", set(), self._create_experiment),
            ("GET", f"/apis/v2beta1/pipelines/names/{one}", {"namespace"}, self._get_pipeline),
            ("POST", "/apis/v2beta1/pipelines", set(), self._create_pipeline),
            ("GET", f"/apis/v2beta1/pipelines/{one}/versions", paged, self._list_versions),
            ("GET", "/apis/v2beta1/runs", paged | {"namespace", "experiment_id"}, self._list_runs),
            ("POST", "/apis/v2beta1/runs", {"experiment_id"}, self._create_run),
            ("GET", f"/apis/v2beta1/runs/{one}", {"experiment_id"}, self._get_run),
            ("GET", recurring, paged | {"namespace", "experiment_id"}, self._list_recurring),
            ("POST", recurring, set(), self._create_recurring),
            ("POST", f"{recurring}/{one}:(enable|disable)", set(), self._switch),
            ("DELETE", f"{recurring}/{one}", {"propagation_policy"}, self._delete_recurring),
        ]

    def _now(self) -> str:
        object.__setattr__(self, "_clock", self._clock + timedelta(seconds=1))
        return self._clock.isoformat().replace("+00:00", "Z")

    def _namespaced(self, namespace: str) -> str:
        if self.multi_user and not namespace:
            raise Failure(3, "Resource cannot have an empty namespace and experiment id in multi-user mode")
        return namespace if self.multi_user else ""

    def _page(
        self, key: str, items: list[dict[str, Any]], query: dict[str, str], model: str
    ) -> tuple[dict[str, Any], str]:
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["operation"] not in ("EQUALS", 1) or predicate["key"] not in ("display_name", "name"):
                raise Failure(3, f"unsupported predicate {predicate}")
            items = [item for item in items if item.get(predicate["key"]) == predicate["string_value"]]
        if query.get("sort_by") == "created_at desc":
            items = items[::-1]
        start = int(base64.b64decode(query["page_token"])) if query.get("page_token") else 0
        size = min(int(query.get("page_size") or 20), self.page_limit)
        page = {key: items[start : start + size], "total_size": len(items)}
        if start + size < len(items):
            page["next_page_token"] = base64.b64encode(str(start + size).encode()).decode()
        return page, model

    def _healthz(self, _query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        # The server writes two fields that the schema lacks.
        told = {"commit_sha": "unknown", "tag_name": self.version, "multi_user": self.multi_user}
        return {**told, "pipeline_store": "database"}, ""

    def _list_experiments(self, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        namespace = self._namespaced(query.get("namespace", ""))
        found = [one for one in self.experiments if one["namespace"] == namespace]
        return self._page("experiments", found, query, "V2beta1ListExperimentsResponse")

    def _create_experiment(self, _query: dict[str, str], body: Any) -> tuple[dict[str, Any], str]:
        kubeflow_schema.check(body, "V2beta1Experiment")
        namespace = self._namespaced(body.get("namespace", ""))
        if any(
            (one["display_name"], one["namespace"]) == (body["display_name"], namespace) for one in self.experiments
        ):
            raise Failure(6, f"Failed to create a new experiment. The name {body['display_name']} already exists")
        made = {**body, "namespace": namespace, "experiment_id": str(uuid.uuid4()), "created_at": self._now()}
        self.experiments.append(made)
        return made, "V2beta1Experiment"

    def _get_pipeline(self, name: str, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        namespace = self._namespaced(query.get("namespace", ""))
        for one in self.pipelines:
            if (one["name"], one["namespace"]) == (name, namespace):
                return one, "V2beta1Pipeline"
        raise Failure(5, f'Namespace/Pipeline {namespace}/"{name}" not found')

    def _create_pipeline(self, _query: dict[str, str], body: Any) -> tuple[dict[str, Any], str]:
        kubeflow_schema.check(body, "V2beta1Pipeline")
        namespace = self._namespaced(body.get("namespace", ""))
        if any((one["name"], one["namespace"]) == (body["name"], namespace) for one in self.pipelines):
            raise Failure(6, f"Failed to create a new pipeline. The name {body['name']} already exists")
        made = {**body, "namespace": namespace, "pipeline_id": str(uuid.uuid4()), "created_at": self._now()}
        self.pipelines.append(made)
        return made, "V2beta1Pipeline"

    def _list_versions(self, pipeline_id: str, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        found = [one for one in self.versions if one["pipeline_id"] == pipeline_id]
        return self._page("pipeline_versions", found, query, "V2beta1ListPipelineVersionsResponse")

    def upload_version(self, query: dict[str, str], content: bytes) -> tuple[dict[str, Any], str]:
        """`pipelines/upload_version`, which is no gRPC method."""
        documents = [document for document in yaml.safe_load_all(content) if document]
        try:
            spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        except (json_format.ParseError, IndexError) as error:
            raise Failure(3, f"invalid v2 pipeline spec: {error}") from None
        with self._lock:
            name, pipeline_id = query["name"], query["pipelineid"]
            if not any(one["pipeline_id"] == pipeline_id for one in self.pipelines):
                raise Failure(3, "Failed to create a pipeline version")
            if any((one["name"], one["pipeline_id"]) == (name, pipeline_id) for one in self.versions):
                raise Failure(6, "Failed to create a pipeline version")
            made = {
                "pipeline_id": pipeline_id,
                "pipeline_version_id": str(uuid.uuid4()),
                "name": name,
                "display_name": query.get("display_name", name),
                "created_at": self._now(),
                "pipeline_spec": json_format.MessageToDict(spec),
            }
            self.versions.append(made)
            return made, "V2beta1PipelineVersion"

    def _checked(self, body: dict[str, Any]) -> None:
        """Experiment, version and arguments of a run, as the API server validates them."""
        if not body.get("display_name"):
            raise Failure(3, "The run name is empty. Please specify a valid name")
        if not any(one["experiment_id"] == body.get("experiment_id") for one in self.experiments):
            raise Failure(5, f"Experiment {body.get('experiment_id')} not found")
        wanted = body["pipeline_version_reference"]
        version = next(
            (one for one in self.versions if one["pipeline_version_id"] == wanted["pipeline_version_id"]), None
        )
        if version is None or version["pipeline_id"] != wanted["pipeline_id"]:
            raise Failure(5, f"PipelineVersion {wanted['pipeline_version_id']} not found")
        definitions = version["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body.get("runtime_config", {}).get("parameters", {})
        for name, parameter in definitions.items():
            if name not in given:
                if not parameter.get("isOptional") and "defaultValue" not in parameter:
                    raise Failure(
                        3, f"parameter {name} is not optional, yet has neither default value nor user provided value"
                    )
            elif not isinstance(given[name], _TYPES[parameter["parameterType"]]):
                raise Failure(3, f"input parameter {name} requires type {parameter['parameterType']}")
        if extra := sorted(set(given) - set(definitions)):
            raise Failure(3, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")

    def _list_runs(self, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        found = [one for one in self.runs if one["experiment_id"] == query.get("experiment_id")]
        return self._page("runs", found, query, "V2beta1ListRunsResponse")

    def _create_run(self, _query: dict[str, str], body: Any) -> tuple[dict[str, Any], str]:
        kubeflow_schema.check(body, "V2beta1Run")
        self._checked(body)
        made = {**body, "run_id": str(uuid.uuid4()), "state": "PENDING", "created_at": self._now()}
        self.runs.append(made)
        return made, "V2beta1Run"

    def _get_run(self, run_id: str, _query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        for one in self.runs:
            if one["run_id"] == run_id:
                if self.story:
                    one.update(self.story.pop(0))
                return one, "V2beta1Run"
        raise Failure(5, f"Run {run_id} not found")

    def _list_recurring(self, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        found = [one for one in self.recurring if one["experiment_id"] == query.get("experiment_id")]
        return self._page("recurringRuns", found, query, "V2beta1ListRecurringRunsResponse")

    def _create_recurring(self, _query: dict[str, str], body: Any) -> tuple[dict[str, Any], str]:
        kubeflow_schema.check(body, "V2beta1RecurringRun")
        self._checked(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Failure(3, "Max concurrency of a recurring run must be at least 1 and at most 10")
        try:
            robfig_cron.parse(body["trigger"]["cron_schedule"]["cron"])
        except robfig_cron.Refused as error:
            raise Failure(3, f"Schedule cron is not a supported format. Error: {error}") from None
        made = {**body, "recurring_run_id": str(uuid.uuid4()), "created_at": self._now()}
        made["status"] = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
        self.recurring.append(made)
        self._count_enabled(made)
        return made, "V2beta1RecurringRun"

    def _switch(self, run_id: str, way: str, _query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        one = self._recurring_run(run_id)
        one["status"], one["mode"] = f"{way.upper()}D", way.upper()
        self._count_enabled(one)
        return {}, ""

    def _delete_recurring(self, run_id: str, query: dict[str, str], _body: Any) -> tuple[dict[str, Any], str]:
        one = self._recurring_run(run_id)
        if query.get("propagation_policy") != "ORPHAN":
            self.runs = [run for run in self.runs if run.get("recurring_run_id") != run_id]
        self.recurring.remove(one)
        return {}, ""

    def _recurring_run(self, run_id: str) -> dict[str, Any]:
        for one in self.recurring:
            if one["recurring_run_id"] == run_id:
                return one
        raise Failure(5, f"recurring run {run_id} not found")

    def _count_enabled(self, one: dict[str, Any]) -> None:
        same = [other for other in self.recurring if other["display_name"] == one["display_name"]]
        self.most_enabled = max(self.most_enabled, sum(other["status"] == "ENABLED" for other in same))


class _Handler(BaseHTTPRequestHandler):
    kubeflow: KubeflowServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {parts.path}"
        self.kubeflow.log.append(request)
        self.kubeflow.tokens_seen.append(self.headers.get("Authorization", ""))
        fault = self.kubeflow.fault(request)
        if fault is not None:
            time.sleep(fault.seconds)
            if fault.call is not None and fault.call():
                self.close_connection = True
                return
            if fault.content is not None:
                return self._write(200, *fault.content)
            if fault.status is not None:
                return self._write(fault.status, b"upstream connect error", "text/plain")
        status, answer = self._answer(parts.path, dict(parse_qsl(parts.query)), content)
        if fault is not None and fault.lost:
            self.close_connection = True
            return None
        return self._write(status, json.dumps(answer).encode(), "application/json")

    def _answer(self, path: str, query: dict[str, str], content: bytes) -> tuple[int, dict[str, Any]]:
        upload = path == "/apis/v2beta1/pipelines/upload_version"
        try:
            if self.kubeflow.token is not None and self.headers.get("Authorization") != f"Bearer {self.kubeflow.token}":
                raise Failure(16, "Request header error: there is no valid user identity")
            if upload:
                answer, model = self.kubeflow.upload_version(query, self._uploaded(content))
            else:
                body = json.loads(content) if content else None
                answer, model = self.kubeflow.answer(self.command, path, query, body)
            answer = _without_defaults(answer)
            if model:
                kubeflow_schema.check(answer, model)
            return 200, answer
        except Failure as failure:
            if upload:
                return _GRPC[failure.code], {"error_message": failure.message, "error_details": failure.message}
            return _GRPC[failure.code], _status(failure)
        except (ValueError, KeyError) as error:
            # The tests look here: a body that KFP's schema does not know is nobody's answer.
            self.kubeflow.complaints.append(f"{self.command} {path}: {error!r}")
            return 500, _status(Failure(13, repr(error)))

    def _uploaded(self, content: bytes) -> bytes:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + content)
        for part in message.iter_parts():
            if part.get_param("name", header="Content-Disposition") == "uploadfile":
                return bytes(part.get_payload(decode=True))
        raise Failure(3, "Failed to read pipeline from file")

    def _write(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status in (301, 302, 303, 307, 308):
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _status(failure: Failure) -> dict[str, Any]:
    detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": failure.code, "message": failure.message}
    return {"code": failure.code, "message": f"Failed: {failure.message}", "details": [detail]}


def _without_defaults(body: Any) -> Any:
    """protojson leaves out what has its type's zero value, except inside free-form values."""
    if isinstance(body, list):
        return [_without_defaults(item) for item in body]
    if not isinstance(body, dict):
        return body
    kept = {key: value for key, value in body.items() if value not in ("", 0, False, None) and value != []}
    return {
        key: value if key in ("parameters", "pipeline_spec") else _without_defaults(value)
        for key, value in kept.items()
    }
