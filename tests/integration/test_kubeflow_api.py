"""The commands for a cluster over real HTTP, against the server of `kubeflow_server`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from kfp import compiler, dsl
from kubeflow_server import Fault, KubeflowServer

from pipelines import __main__ as commands
from pipelines import connection
from pipelines.api import Kubeflow, version_name
from pipelines.connection import Connection, Endpoint, Unanswered, Unavailable
from pipelines.schedules import Change, Schedule, apply, ours, plan
from pipelines.submit import Job, submit
from stlm_core.errors import StlmError, UserError

pytestmark = pytest.mark.integration
RECURRING = "/apis/v2beta1/recurringruns"


@dsl.container_component
def _hello(line: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="localhost/hello:1", args=[line])


@dsl.pipeline(name="stlm-small")
def _small(line: str, steps: int = 1, image: dict = {}) -> None:  # noqa: B006  the compiler reads it
    _hello(line=line)


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The IR YAML of a pipeline with one step."""
    path = tmp_path_factory.mktemp("compiled") / "small.yaml"
    compiler.Compiler().compile(_small, str(path))
    return path.read_text()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowServer]:
    """An empty server; every request and answer must be of KFP's schema, and two schedules of a line never both on."""
    for name in ("KFP_ENDPOINT", "KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_NAMESPACE", "KFP_TIMEZONE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(connection, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setenv("KFP_POLL_SECONDS", "0.01")
    with KubeflowServer() as running:
        yield running
    assert running.complaints == []
    assert running.most_enabled <= 1


@pytest.fixture
def kubeflow(server: KubeflowServer) -> Kubeflow:
    return connect(server)


def connect(server: KubeflowServer, **settings: Any) -> Kubeflow:
    return Kubeflow(Connection(Endpoint(server.address, **settings)))


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Callable[..., Path]:
    """Writes a params.yaml whose lines have these schedules."""

    def write(**schedules: str) -> Path:
        text = (repository / "params.yaml").read_text()
        lines = "".join(
            f"  {name}:\n    profile: fast\n    data: {{path: data/{name}}}\n    schedule: {{{schedule}}}\n"
            for name, schedule in schedules.items()
        )
        path = tmp_path / "params.yaml"
        path.write_text(text[: text.index("lines:\n")] + "lines:\n" + lines)
        return path

    return write


@pytest.fixture
def run(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs a command; its exit code and what it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setenv("KFP_ENDPOINT", server.address)
        monkeypatch.setattr(sys, "argv", ["pipelines", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            commands.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out + captured.err

    return call


def small_job(ir: str) -> Job:
    return Job("sample", "stlm-small", ir, {"line": "sample", "image": {"size": 256, "rotation": None}})


def quiet(_text: str) -> None:
    """Says nothing."""


def test_a_pipeline_is_uploaded_once_and_again_only_when_it_changed(
    server: KubeflowServer, kubeflow: Kubeflow, ir: str
) -> None:
    said: list[str] = []
    first = submit(kubeflow, small_job(ir), "stlm", said.append)
    second = submit(kubeflow, small_job(ir), "stlm", said.append)
    submit(kubeflow, small_job(ir.replace("localhost/hello:1", "localhost/hello:2")), "stlm", said.append)
    assert said == [
        "stlm-small: uploaded as a new version",
        "stlm-small: unchanged",
        "stlm-small: uploaded as a new version",
    ]
    assert server.versions[0]["name"] == version_name(ir)
    assert (len(server.pipelines), len(server.versions), len(server.experiments), len(server.runs)) == (1, 2, 1, 3)
    assert first.pipeline_version_reference == second.pipeline_version_reference
    assert server.runs[0]["runtime_config"]["parameters"] == small_job(ir).arguments
    assert server.runs[0]["service_account"] == "stlm-pipeline"


def test_arguments_that_the_pipeline_does_not_take_are_the_servers_sentence(kubeflow: Kubeflow, ir: str) -> None:
    job = replace(small_job(ir), arguments={"line": "sample", "lines": 3})
    with pytest.raises(StlmError, match=r"says 400 \(parameter\(s\) provided are not required by pipeline: lines\)"):
        submit(kubeflow, job, "stlm", quiet)


def test_everything_is_found_on_later_pages(server: KubeflowServer, kubeflow: Kubeflow, ir: str) -> None:
    server.page_limit = 2
    experiment = kubeflow.experiment("stlm")
    wanted = [Schedule(f"line{n}", "stlm-small", "v", "0 0 2 * * *", {"line": f"line{n}"}) for n in range(7)]
    apply(kubeflow, plan(wanted, []), "stlm", dict.fromkeys(wanted, ir), quiet)
    assert len(ours(kubeflow.recurring_runs(experiment))) == 7
    assert [change.action for change in plan(wanted, ours(kubeflow.recurring_runs(experiment)))] == ["keep"] * 7


@pytest.mark.parametrize(
    "path", ["POST .*/experiments", "POST .*/pipelines$", "POST .*/pipelines/upload_version", "POST .*/runs"]
)
@pytest.mark.parametrize("fault", [{"lost": True}, {"status": 503}, {"status": 502}])
def test_what_is_created_is_created_once_though_answers_are_lost(
    server: KubeflowServer, kubeflow: Kubeflow, ir: str, path: str, fault: dict[str, Any]
) -> None:
    server.faults.append(Fault(path, times=2, **fault))
    submit(kubeflow, small_job(ir), "stlm", quiet)
    made = (len(server.experiments), len(server.pipelines), len(server.versions), len(server.runs))
    assert made == (1, 1, 1, 1)


def test_a_recurring_run_is_created_once_though_the_answer_is_lost(
    server: KubeflowServer, kubeflow: Kubeflow, ir: str
) -> None:
    server.faults.append(Fault(f"POST {RECURRING}$", lost=True))
    wanted = Schedule("sample", "stlm-small", version_name(ir), "0 0 2 * * *", {"line": "sample"})
    apply(kubeflow, plan([wanted], []), "stlm", {wanted: ir}, quiet)
    assert [one["status"] for one in server.recurring] == ["ENABLED"]


def test_a_creation_without_an_answer_in_time_is_not_repeated_blindly(server: KubeflowServer, ir: str) -> None:
    slow = connect(server, timeout=(1.0, 0.3))
    server.faults.append(Fault("POST .*/runs", seconds=1.0, status=200))
    with pytest.raises(Unanswered, match=r"start the run stlm-sample-.*gave no answer within 0\.3 s"):
        submit(slow, small_job(ir), "stlm", quiet)
    assert server.count("POST .*/runs") == 1
    # Slow only: the run is there when it is looked for.
    server.faults.append(Fault("POST .*/runs", seconds=0.32))
    server.faults.append(Fault("GET .*/runs", seconds=0.2))
    assert submit(slow, small_job(ir), "stlm", quiet).display_name == server.runs[0]["display_name"]


def test_a_server_that_is_not_ready_is_asked_again(server: KubeflowServer, kubeflow: Kubeflow) -> None:
    server.faults.append(Fault("GET .*/healthz", times=2, status=503))
    assert kubeflow.check() is None
    assert server.count("healthz") == 3
    server.faults.append(Fault("GET .*/healthz", times=9, status=503))
    with pytest.raises(Unavailable, match=r"check the server: http://.* says 503: not ready$"):
        kubeflow.check()


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ({"status": 401}, UserError, "says 401: the token is refused; check KFP_TOKEN or KFP_TOKEN_FILE"),
        ({"status": 403}, UserError, "the token may not do that in the namespace stlm"),
        ({"status": 302}, UserError, "redirects, as a login page does; check the address and KFP_TOKEN"),
        (
            {"content": (b"<html><form>Log in</form></html>", "text/html; charset=utf-8")},
            UserError,
            "answered with text/html; charset=utf-8 instead of a JSON object: a login page",
        ),
        ({"content": (b'{"experiments"', "application/json")}, UserError, "instead of a JSON object"),
        ({"content": (b"\xff\xfe", "application/json")}, UserError, "an answer that cannot be read"),
        ({"status": 404}, UserError, "has no Kubeflow Pipelines v2 API; check the address"),
        ({"status": 500}, StlmError, "says 500"),
    ],
)
def test_each_failure_is_one_sentence(
    server: KubeflowServer,
    run: Callable[..., tuple[int, str]],
    fault: dict[str, Any],
    error: type[StlmError],
    sentence: str,
) -> None:
    server.faults.append(Fault("healthz", times=9, **fault))
    code, output = run("schedule", "remove")
    assert code == error.exit_code
    assert output.startswith("error: ")
    assert sentence in output
    assert len(output.splitlines()) == 1


def test_nobody_at_the_address(run: Callable[..., tuple[int, str]]) -> None:
    code, output = run("schedule", "remove", "--endpoint", "http://127.0.0.1:1")
    assert (code, output) == (1, "error: check the server: http://127.0.0.1:1 cannot be reached: Connection refused\n")


def test_a_certificate_is_trusted_when_its_issuer_is_named(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubeflow")])
    now = datetime.now(UTC)
    host = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(hours=1))
    signed = builder.add_extension(host, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file, issuer = tmp_path / "server.pem", tmp_path / "ca.pem"
    file.write_bytes(private + signed.public_bytes(Encoding.PEM))
    issuer.write_bytes(signed.public_bytes(Encoding.PEM))
    with KubeflowServer(certificate=file) as server:
        connect(server, ca_bundle=issuer).check()
        with pytest.raises(UserError, match=r"no trusted connection .* set REQUESTS_CA_BUNDLE"):
            connect(server).check()
    with pytest.raises(UserError, match="REQUESTS_CA_BUNDLE: /nowhere: no such file"):
        Endpoint.from_environment("https://kubeflow", "stlm", {"REQUESTS_CA_BUNDLE": "/nowhere"})


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("", "KFP_ENDPOINT: not set"),
        ("kubeflow:80", "must begin with http"),
        ("https://a:b@kubeflow", "no credentials"),
    ],
)
def test_wrong_addresses(address: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Endpoint.from_environment(address, "stlm", {})


def test_backends_of_other_versions(server: KubeflowServer, kubeflow: Kubeflow) -> None:
    server.version = "2.15.2"
    assert "runs Kubeflow Pipelines 2.15.2, the pipelines are compiled with kfp 2.17.0" in str(kubeflow.check())
    server.version = "unknown"
    assert kubeflow.check() is None
    server.version = "2.5.0"
    with pytest.raises(UserError, match=r"runs Kubeflow Pipelines 2\.5\.0; these pipelines need 2\.14 or newer"):
        kubeflow.check()


def test_tokens_come_from_the_environment_or_a_file_that_may_change(
    server: KubeflowServer, tmp_path: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token, server.multi_user = "s3cret", True
    code, output = run("schedule", "remove")
    assert code == 2
    assert "the token is refused" in output
    monkeypatch.setenv("KFP_TOKEN", "s3cret")
    assert run("schedule", "remove") == (0, "no schedules, wanted or made\n")
    monkeypatch.setenv("KFP_TOKEN", "wr0ng")
    code, output = run("schedule", "remove")
    assert code == 2
    assert "wr0ng" not in output

    file = tmp_path / "token"
    file.write_text("old")
    rotating = connect(server, token_file=file)
    with pytest.raises(UserError):
        rotating.check()
    file.write_text("s3cret\n")
    rotating.check()
    file.write_text("\n")
    with pytest.raises(UserError, match=r"KFP_TOKEN_FILE: .*: is empty"):
        rotating.check()
    file.unlink()
    with pytest.raises(UserError, match=r"KFP_TOKEN_FILE: .*cannot be read as a token"):
        rotating.check()
    with pytest.raises(UserError, match=r"^KFP_TOKEN: has characters that no token has, a line break for example$"):
        connect(server, token="a\nb").check()


def test_namespaces_of_a_multi_user_backend_are_apart(server: KubeflowServer, ir: str) -> None:
    server.multi_user = True
    for namespace in ("stlm", "other"):
        submit(connect(server, namespace=namespace), small_job(ir), "stlm", quiet)
    assert [one["namespace"] for one in server.experiments] == ["stlm", "other"]
    assert len(server.pipelines) == 2


def test_submit_runs_the_lines_pipeline_and_waits(
    server: KubeflowServer, run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    running = {
        "task_details": [
            {"display_name": "distill", "state": "RUNNING"},
            {"display_name": "validate", "state": "SUCCEEDED"},
        ]
    }
    server.story = [{}, {"state": "RUNNING", "run_details": running}, {}, {"state": "SUCCEEDED"}]
    server.faults.append(Fault("GET .*/runs/", times=2, status=503))
    params = project(caps="")
    code, output = run("submit", "--line", "caps", "--wait", "--params", params, "--revision", "abc", "--force")
    lines = output.splitlines()
    assert code == 0
    assert lines[0] == "stlm-training-cpu: uploaded as a new version"
    assert lines[1].startswith("stlm-caps-")
    assert lines[1].endswith(f"{server.address}/#/runs/details/{server.runs[0]['run_id']}")
    assert [line.split(" ", 1)[1] for line in lines[2:]] == [
        "PENDING, 0 tasks done",
        "RUNNING, 1 tasks done, running: distill",
        "SUCCEEDED, 1 tasks done, running: distill",
    ]
    arguments = server.runs[0]["runtime_config"]["parameters"]
    assert (arguments["line"], arguments["data_revision"], arguments["force"]) == ("caps", "abc", True)


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        # What a 2.17 backend reports: everything around the container failed too, nothing says why.
        (
            [
                ("root", None),
                ("exit-handler-1", None),
                ("train-fa", None),
                ("executor", None),
                ("train-fa-driver", None),
            ],
            "ended as FAILED; failed: train-fa: no error text from the server, see its log",
        ),
        ([("root", None), ("distill", "killed for memory")], "ended as FAILED; failed: distill: killed for memory"),
        ([("export-driver", "bad input")], "failed: export: bad input"),
        ([("executor", "exit code 3")], "failed: executor: exit code 3"),
        ([], "ended as FAILED; the server names no failed task"),
    ],
)
def test_a_failed_run_names_its_tasks(
    server: KubeflowServer,
    run: Callable[..., tuple[int, str]],
    project: Callable[..., Path],
    tasks: list[tuple[str, str | None]],
    sentence: str,
) -> None:
    details = [
        {"display_name": name, "state": "FAILED", **({"error": {"code": 13, "message": text}} if text else {})}
        for name, text in tasks
    ]
    server.story = [{"state": "FAILED", "run_details": {"task_details": details}}]
    code, output = run("submit", "--line", "caps", "--wait", "--params", project(caps=""))
    assert code == 1
    assert output.splitlines()[-1].startswith("error: run stlm-caps-")
    assert output.rstrip().endswith(sentence)


def test_schedules_are_made_changed_paused_and_removed(
    server: KubeflowServer, run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    params = project(caps="cron: 0 2 * * SUN", lids="cron: 0 3 * * *, timezone: Asia/Tokyo", plain="")
    assert run("schedule", "diff", "--params", params) == (1, "caps: create: 0 0 2 * * 0\nlids: create: 0 0 18 * * *\n")
    assert run("schedule", "apply", "--dry-run", "--params", params)[0] == 0
    assert server.count("POST") == 0

    assert run("schedule", "apply", "--params", params)[0] == 0
    assert run("schedule", "diff", "--params", params) == (0, "caps: keep: 0 0 2 * * 0\nlids: keep: 0 0 18 * * *\n")
    one = server.recurring[0]
    assert (one["display_name"], one["max_concurrency"], one["no_catchup"], one["mode"]) == (
        "stlm-caps",
        "1",
        True,
        "ENABLE",
    )
    assert one["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * 0"}}
    writes = server.count("POST|DELETE")
    assert run("schedule", "apply", "--params", params)[0] == 0
    assert server.count("POST|DELETE") == writes

    params = project(caps="cron: 0 4 * * SUN", lids="cron: 0 3 * * *, timezone: Asia/Tokyo, enabled: false")
    code, output = run("schedule", "apply", "--params", params)
    assert (code, output) == (0, "caps: replace: cron 0 0 2 * * 0 -> 0 0 4 * * 0\nlids: pause: 0 0 18 * * *, paused\n")
    assert sorted((one["display_name"], one["status"]) for one in server.recurring) == [
        ("stlm-caps", "ENABLED"),
        ("stlm-lids", "DISABLED"),
    ]

    assert run("schedule", "apply", "--params", project(caps="cron: 0 4 * * SUN")) == (
        0,
        "caps: keep: 0 0 4 * * 0\nlids: remove: no longer wanted\n",
    )
    assert run("schedule", "remove", "--line", "lids") == (0, "no schedules, wanted or made\n")
    assert run("schedule", "remove", "--line", "caps")[0] == 0
    assert server.recurring == []


def test_foreign_recurring_runs_and_what_ours_have_started_stay(
    server: KubeflowServer, run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    params = project(caps="cron: 0 2 * * *")
    run("schedule", "apply", "--params", params)
    mine = server.recurring[0]
    foreign = {**mine, "recurring_run_id": "f", "description": "by hand", "status": "DISABLED"}
    server.recurring.append(foreign)
    server.runs.append({"run_id": "r", "recurring_run_id": mine["recurring_run_id"], "experiment_id": "e"})
    assert run("schedule", "remove") == (0, "caps: remove: no longer wanted\n")
    assert server.recurring == [foreign]
    assert [one["run_id"] for one in server.runs] == ["r"]


def test_a_refused_new_schedule_leaves_the_old_one_running(
    server: KubeflowServer, run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    run("schedule", "apply", "--params", project(caps="cron: 0 2 * * *"))
    server.faults.append(Fault(f"POST {RECURRING}$", status=400))
    assert run("schedule", "apply", "--params", project(caps="cron: 0 3 * * *"))[0] == 1
    assert [(one["status"], one["trigger"]["cron_schedule"]["cron"]) for one in server.recurring] == [
        ("ENABLED", "0 0 2 * * *")
    ]


@pytest.mark.parametrize(
    ("killed_at", "left", "action"),
    [
        (f"POST {RECURRING}$", [("ENABLED", "0 0 2 * * *")], "replace"),
        (f"DELETE {RECURRING}/", [("ENABLED", "0 0 2 * * *"), ("DISABLED", "0 0 3 * * *")], "finish"),
        (f"POST {RECURRING}/.*:enable", [("DISABLED", "0 0 3 * * *")], "resume"),
    ],
)
def test_a_replacement_that_is_killed_is_finished_by_the_next_apply(
    server: KubeflowServer,
    run: Callable[..., tuple[int, str]],
    project: Callable[..., Path],
    killed_at: str,
    left: list[tuple[str, str]],
    action: str,
) -> None:
    def state() -> list[tuple[str, str]]:
        return [(one["status"], one["trigger"]["cron_schedule"]["cron"]) for one in server.recurring]

    run("schedule", "apply", "--params", project(caps="cron: 0 2 * * *"))
    params = project(caps="cron: 0 3 * * *")
    command = [sys.executable, "-m", "pipelines", "schedule", "apply", "--params", str(params)]
    process = subprocess.Popen(command, env={**os.environ, "KFP_ENDPOINT": server.address}, stdout=subprocess.DEVNULL)

    def kill() -> bool:
        process.kill()
        process.wait()
        return True

    server.faults.append(Fault(killed_at, call=kill))
    assert process.wait(timeout=120) == -9
    assert state() == left
    code, output = run("schedule", "apply", "--params", params)
    assert code == 0
    assert output.startswith(f"caps: {action}: ")
    assert state() == [("ENABLED", "0 0 3 * * *")]
    assert run("schedule", "diff", "--params", params)[0] == 0


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ("cron: 0 25 * * *", "lines.caps.schedule.cron: hour '25'"),
        ("cron: '@daily'", "lines.caps.schedule.cron: '@daily' is a nickname"),
        ("cron: 0 2 * * *, timezone: Europe/Berln", "lines.caps.schedule.timezone: 'Europe/Berln' is not an IANA"),
        (
            "cron: 0 2 * * *, timezone: Europe/Berlin",
            "lines.caps.schedule.timezone: Europe/Berlin and the cluster's UTC drift",
        ),
    ],
)
def test_wrong_schedules_are_named_before_anything_is_asked(
    server: KubeflowServer,
    run: Callable[..., tuple[int, str]],
    project: Callable[..., Path],
    schedule: str,
    sentence: str,
) -> None:
    code, output = run("schedule", "apply", "--params", project(caps=schedule))
    assert code == 2
    assert sentence in output
    assert server.log == []


def test_the_clusters_own_time_zone_needs_no_rewriting(
    run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    params = project(caps="cron: 0 2 * * *, timezone: Europe/Berlin")
    code, output = run("schedule", "diff", "--params", params, "--cluster-timezone", "Europe/Berlin")
    assert (code, output) == (1, "caps: create: 0 0 2 * * *\n")


def test_retrain_all_hands_every_line_to_the_component_that_starts_it_once(
    server: KubeflowServer, run: Callable[..., tuple[int, str]], project: Callable[..., Path]
) -> None:
    params = project(caps="", lids="")
    assert run("retrain-all", "--params", params)[0] == 0
    jobs = server.runs[0]["runtime_config"]["parameters"]["lines"]
    assert [(job["line"], job["pipeline"]) for job in jobs] == [
        ("caps", "stlm-training-cpu"),
        ("lids", "stlm-training-cpu"),
    ]
    # What the containers of the fan-out do, the second of them twice, as a retried pod would.
    for job in (*jobs, jobs[1]):
        assert run("start", "--job", json.dumps(job), "--request", "1234")[0] == 0
    assert [one["display_name"] for one in server.runs[1:]] == ["stlm-caps-1234", "stlm-lids-1234"]
    assert server.runs[1]["runtime_config"]["parameters"] == jobs[0]["arguments"]


@pytest.mark.parametrize("job", ["", "[]", '{"line": "a"}', '{"line": 1, "pipeline": "p", "arguments": {}}'])
def test_start_refuses_what_is_no_job(run: Callable[..., tuple[int, str]], job: str) -> None:
    code, output = run("start", "--job", job, "--request", "1234")
    assert code == 2
    assert "error: --job: " in output


def test_start_of_a_pipeline_that_nobody_uploaded(run: Callable[..., tuple[int, str]]) -> None:
    code, output = run("start", "--job", '{"line": "a", "pipeline": "stlm-x", "arguments": {}}', "--request", "1234")
    assert code == 2
    assert "stlm-x: no such pipeline on the server" in output


def test_images_by_name(
    run: Callable[..., tuple[int, str]], server: KubeflowServer, project: Callable[..., Path]
) -> None:
    reference = "registry.example/stlm-train@sha256:" + 64 * "0"
    assert run("submit", "--line", "caps", "--params", project(caps=""), "--image", f"train={reference}")[0] == 0
    assert server.runs[0]["runtime_config"]["parameters"]["train_image"] == "sha256:" + 64 * "0"
    assert reference in str(server.versions[0]["pipeline_spec"])
    code, output = run("submit", "--line", "caps", "--params", project(caps=""), "--image", "tran=x")
    assert code == 2
    assert "--image tran=x: must be NAME=REFERENCE with a name of data, train, train_cuda, serve, launch" in output


def test_changes_read_well() -> None:
    assert str(Change("caps", "remove", "gone", None, None, ())) == "caps: remove: gone"
