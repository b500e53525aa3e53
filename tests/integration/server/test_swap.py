"""Champions on their way in and out of service, with a real registry: nothing is dropped, nothing bad gets in."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from serving import (
    OVERFLOWING,
    Server,
    detector,
    model_files,
    png,
    point_champion,
    refused_start,
    register,
    serving,
    until,
)

from stlm_core.files import sha256_bytes
from stlm_core.integrity import make_keys, sign_model

pytestmark = pytest.mark.integration

POLL = ("--poll-seconds", "0.3")


def refresh(server: Server, line: str = "tiny") -> str:
    """What comes of asking the registry now."""
    answer = server.client.post(f"/v1/lines/{line}/refresh").raise_for_status().json()
    assert answer["line"] == server.line(line)
    outcome: str = answer["outcome"]
    return outcome


class Load:
    """Callers that never pause: every answer's status and version, in the order of each caller."""

    def __init__(self, url: str, callers: int) -> None:
        self._url, self._stop = url, threading.Event()
        self.answers: list[list[tuple[int, str]]] = [[] for _ in range(callers)]
        self._threads = [threading.Thread(target=self._call, args=(answers,)) for answers in self.answers]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, answers: list[tuple[int, str]]) -> None:
        content = png()
        headers = {"Content-Type": "image/png"}
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/lines/tiny/inspect", content=content, headers=headers)
                answers.append((answer.status_code, answer.json().get("version", "")))

    def count(self, version: str) -> int:
        """Answers of a version so far."""
        return sum(each == (200, version) for answers in self.answers for each in answers)


def test_swaps_under_load_drop_nothing(registry_root: Path) -> None:
    for revision in ("r1", "r2", "r3", "r4"):
        register(registry_root, detector(revision), champion=False)
    point_champion(registry_root, 1)
    with serving(registry_root, "--line", "tiny", *POLL) as server:
        with Load(server.url, 4) as load:
            for number in (1, 2, 3, 4, 3):  # three promotions and a rollback
                point_champion(registry_root, number)
                begun = load.count(str(number))
                until(lambda begun=begun, number=number: load.count(str(number)) > begun + 8)
                assert server.client.get("/readyz").status_code == 200
        assert {status for answers in load.answers for status, _ in answers} == {200}
        for answers in load.answers:
            versions = [version for _, version in answers]
            changes = [new for old, new in zip(["", *versions], versions, strict=False) if new != old]
            assert changes == ["1", "2", "3", "4", "3"], "a caller never sees an older champion after a newer one"
        status = server.line()
        assert (status["version"], status["swaps"], status["failed_swaps"]) == ("3", 4, 0)
        assert server.metric("stlm_model_swaps_total", line="tiny") == 4
        assert server.metric("stlm_model_info", version="3") == 1
        assert server.metric("stlm_model_info", version="4") == 0


def test_a_champion_that_fails_is_refused_and_the_old_one_stays(registry_root: Path) -> None:
    register(registry_root, detector("r1"), image_auroc="0.93", promoted_by="quality")
    with serving(registry_root, "--line", "tiny", "--poll-seconds", "600") as server:
        assert server.line()["model"] == {"image_auroc": "0.93", "promoted_by": "quality"}
        assert refresh(server) == "unchanged"
        register(registry_root, detector("r2", graph=OVERFLOWING))
        assert refresh(server) == "refused"
        status = server.line()
        assert (status["version"], status["failed_swaps"], status["ready"]) == ("1", 1, True)
        assert "version 2 of line tiny was refused" in status["last_error"]
        assert "failed its self-test: an output is not between 0 and 1" in status["last_error"]
        assert status["last_error"].endswith("version 1 stays in service")
        assert server.metric("stlm_model_swaps_failed_total", line="tiny") == 1
        assert server.client.get("/readyz").status_code == 200
        assert server.inspect(png()).json()["version"] == "1"
        (logged,) = server.events("champion refused")
        assert (logged["level"], logged["version"]) == ("error", "2")

        register(registry_root, detector("r3"))  # tampered with in the store
        newest = model_files(registry_root)[-1]
        newest.write_bytes(newest.read_bytes().replace(b"r3", b"rX"))
        assert refresh(server) == "refused"
        assert server.inspect(png()).json()["version"] == "1"

        register(registry_root, detector("other", line="other"), line="tiny")
        assert refresh(server) == "refused"
        assert "detector of line other" in server.line()["last_error"]

        register(registry_root, detector("r5"))
        assert refresh(server) == "swapped"
        status = server.line()
        assert (status["version"], status["last_error"], status["failed_swaps"]) == ("5", None, 3)
        point_champion(registry_root, None)
        assert refresh(server) == "refused"
        assert server.line()["last_error"] == ("line tiny: no champion in sqlite mlflow.db; version 5 stays in service")
        assert server.inspect(png()).json()["version"] == "5"


def test_a_registry_that_goes_away_stops_nobody(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    database = registry_root / "mlflow.db"
    with serving(registry_root, "--line", "tiny", *POLL) as server:
        aside = registry_root / "aside.db"
        shutil.copy(database, aside)
        database.write_bytes(b"not a database any more")
        until(lambda: server.client.get("/v1/lines").json()["source"]["error"])
        assert "not an SQLite database" in server.client.get("/v1/lines").json()["source"]["error"]
        assert refresh(server) == "unreachable"
        assert server.metric("stlm_registry_up") == 0
        assert server.client.get("/readyz").status_code == 200
        assert server.inspect(png()).json()["version"] == "1"
        shutil.copy(aside, database)
        until(lambda: server.client.get("/v1/lines").json()["source"]["error"] is None)
        assert server.metric("stlm_registry_up") == 1
        register(registry_root, detector("r2"))
        until(lambda: server.line()["version"] == "2")
        assert len(server.events("registry does not answer")) == 1, "said once, not at every look"
        assert len(server.events("registry answers again")) == 1


def test_the_cache_starts_a_server_without_its_registry(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    arguments = ("--line", "tiny", "--cache", "kept")
    with serving(registry_root, *arguments, *POLL) as server:
        register(registry_root, detector("r2"))
        until(lambda: server.line()["version"] == "2")
    kept = registry_root / "kept" / "tiny"
    assert len(list(kept.glob("*.onnx"))) == 1
    database = registry_root / "mlflow.db"
    database.rename(registry_root / "aside.db")
    database.write_bytes(b"garbage")
    with serving(registry_root, *arguments, *POLL) as server:
        status = server.line()
        assert (status["version"], status["source"], status["ready"]) == ("2", "cache", True)
        assert "started from the cache with version 2" in status["last_error"]
        assert server.inspect(png()).json()["version"] == "2"
        (registry_root / "aside.db").rename(database)
        until(lambda: server.line()["last_error"] is None)
        assert server.line()["source"] == "sqlite mlflow.db"
        assert server.line()["swaps"] == 0, "the same champion is not loaded twice"
    database.write_bytes(b"garbage")
    (model,) = kept.glob("*.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    code, told = refused_start(registry_root, *arguments)
    assert code == 2
    assert "not an SQLite database" in told.splitlines()[-1]


@pytest.mark.slow
def test_a_registry_that_never_answers_delays_neither_start_nor_end_for_long(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    arguments = ("--line", "tiny", "--cache", "kept")
    with serving(registry_root, *arguments):
        pass
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(registry_root, *arguments, *POLL, MLFLOW_TRACKING_URI=address) as server:
            assert "does not answer" in server.client.get("/v1/lines").json()["source"]["error"]
            assert server.inspect(png()).json()["version"] == "1"
            time.sleep(1)  # it is asking again
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
            assert server.events("stopped")


@pytest.mark.slow
def test_the_end_in_the_middle_of_a_swap(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    for attempt in range(8):
        with serving(registry_root, "--line", "tiny", "--poll-seconds", "600") as server:
            register(registry_root, detector(f"attempt {attempt}"))
            asking = threading.Thread(target=lambda url=server.url: _ask(url))
            asking.start()
            time.sleep(0.02 * attempt)
            assert server.stop() == 0
            asking.join()


def _ask(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/v1/lines/tiny/refresh", timeout=60, trust_env=False)


def test_what_cannot_start_says_why(registry_root: Path) -> None:
    code, told = refused_start(registry_root, "--line", "tiny")
    assert (code, told.splitlines()[-1]) == (2, "error: line tiny: no champion in sqlite mlflow.db")
    code, told = refused_start(registry_root, "--line", "tiny", MLFLOW_TRACKING_URI="http://user:pw@127.0.0.1:9")
    assert code == 2
    assert "does not answer" in told
    assert "pw" not in told
    for arguments, why in (
        ((), "--line, or all of them with --all"),
        (("--line", "tiny", "--all"), "--line, or all of them with --all"),
        (("--line", "Tiny/.."), "lower case"),
        (("--model", "absent.onnx"), "absent.onnx: no such file"),
        (("--line", "tiny", "--host", "192.0.2.1"), "cannot listen there"),
        (("--line", "tiny", "--max-batch", "99"), "allow a longer queue"),
    ):
        code, told = refused_start(registry_root, *arguments)
        assert code == 2, told
        assert why in told


def test_all_lines_are_served_and_new_ones_found(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    register(registry_root, detector("x1", line="other"), line="other", champion=False)
    with serving(registry_root, "--all", *POLL) as server:
        assert [line["line"] for line in server.client.get("/v1/lines").json()["lines"]] == ["tiny"]
        point_champion(registry_root, 1, line="other")
        until(lambda: len(server.client.get("/v1/lines").json()["lines"]) == 2)
        until(lambda: server.inspect(png(), "other").status_code == 200)
        assert server.inspect(png(), "tiny").json()["line"] == "tiny"
        register(registry_root, detector("b1", line="broken", graph=OVERFLOWING), line="broken")
        until(lambda: server.metric("stlm_model_swaps_failed_total", line="broken"))
        assert "version 1 of line broken was refused" in server.line("broken")["last_error"]
        assert server.inspect(png(), "broken").status_code == 503
        assert server.client.get("/readyz").status_code == 200
        assert server.client.get("/v1/lines").json()["ready"] is True


def test_one_line_without_a_model_does_not_keep_the_others_from_serving(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    with serving(registry_root, "--line", "tiny", "--line", "late", *POLL) as server:
        assert server.inspect(png(), "tiny").status_code == 200
        answer = server.inspect(png(), "late")
        assert (answer.status_code, answer.json()["error"]) == (503, "no_model")
        assert answer.headers["retry-after"] == "1"
        ready = server.client.get("/readyz")
        assert (ready.status_code, ready.json()["detail"]) == (503, "no model in service yet: late")
        register(registry_root, detector("l1", line="late"), line="late")
        until(lambda: server.client.get("/readyz").status_code == 200)
        assert server.inspect(png(), "late").status_code == 200


def test_a_file_that_is_replaced_is_a_new_champion(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(detector("r1"))
    with serving(tmp_path, "--model", "model.onnx", *POLL) as server:
        first = server.line()["version"]
        (tmp_path / "new.onnx").write_bytes(detector("r2"))
        (tmp_path / "new.onnx").replace(model)
        until(lambda: server.line()["version"] != first)
        second = server.line()["version"]
        model.write_bytes(detector("r3")[:100])
        until(lambda: server.line()["failed_swaps"] > 0)
        assert server.inspect(png()).json()["version"] == second
        model.unlink()
        time.sleep(0.5)
        assert server.inspect(png()).json()["version"] == second


def test_only_signed_champions_where_a_key_is_set(registry_root: Path) -> None:
    private, public = make_keys(registry_root / "keys")
    register(registry_root, detector("r1"))
    signed = {"STLM_VERIFY_KEY": str(public)}
    code, told = refused_start(registry_root, "--line", "tiny", **signed)
    assert code == 1
    assert "version 1 of line tiny was refused" in told
    content = detector("r2")
    register(registry_root, content, onnx_signature=sign_model(sha256_bytes(content), "tiny", private))
    with serving(registry_root, "--line", "tiny", "--poll-seconds", "600", **signed) as server:
        assert server.line()["version"] == "2"
        (event,) = server.events("champion in service")
        assert event["signed"] is True
        other = sign_model(sha256_bytes(content), "other", private)
        register(registry_root, detector("r3"), onnx_signature=other)
        assert refresh(server) == "refused"
        assert server.line()["version"] == "2"
    code, told = refused_start(registry_root, "--line", "tiny", STLM_VERIFY_KEY="absent.pem")
    assert (code, told) == (
        2,
        "error: STLM_VERIFY_KEY: absent.pem: no such file; give the path of the public key (PEM)\n",
    )


def test_nothing_is_written_that_was_not_asked_for(registry_root: Path) -> None:
    register(registry_root, detector("r1"))
    with sqlite3.connect(registry_root / "mlflow.db") as database:
        before = list(database.iterdump())
    with serving(registry_root, "--line", "tiny", *POLL) as server:
        for _ in range(3):
            server.inspect(png())
        folder = server.log.parent
    with sqlite3.connect(registry_root / "mlflow.db") as database:
        assert list(database.iterdump()) == before
    assert sorted(path.name for path in registry_root.iterdir()) == sorted(["mlflow.db", "mlartifacts", folder.name])
    assert json.loads(folder.joinpath("log.jsonl").read_text().splitlines()[-1])["event"] == "stopped"
