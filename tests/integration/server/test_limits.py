"""What the server does not put up with: strangers, crowds, slow callers; and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from serving import KEY, Server, detector, png, refused_start, serving, until

pytestmark = pytest.mark.integration


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    """A folder with one model."""
    (tmp_path / "model.onnx").write_bytes(detector("r1"))
    return tmp_path


def connect(server: Server) -> socket.socket:
    """A bare connection."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def head(length: int, *more: str) -> bytes:
    """The headers of an upload."""
    lines = ["POST /v1/lines/tiny/inspect HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}"]
    return ("\r\n".join([*lines, *more]) + "\r\n\r\n").encode()


@pytest.mark.parametrize("from_file", [False, True])
def test_the_key(model_root: Path, from_file: bool) -> None:
    (model_root / "key").write_text(f"{KEY}\n")
    variables = {"STLM_API_KEY_FILE": "key"} if from_file else {"STLM_API_KEY": KEY}
    with serving(model_root, "--model", "model.onnx", **variables) as server:
        client = server.client
        for address in ("/v1/lines", "/v1/lines/tiny", "/v1/recent", "/v1/recent/x/image.jpg"):
            missing = client.get(address)
            assert (missing.status_code, missing.json()["error"]) == (401, "unauthorised")
            assert missing.headers["www-authenticate"].startswith("ApiKey")
            for wrong in ("", "x", KEY[:-1], KEY + "x", KEY.upper()):
                assert client.get(address, headers={"X-API-Key": wrong}).status_code == 401
            assert client.get(address, headers={"X-API-Key": KEY}).status_code in (200, 404)
        assert client.get("/v1/lines", headers={"X-API-Key": b"\xff\xfe"}).status_code == 401
        large = server.inspect(b"x" * (20 << 20))
        assert large.status_code == 401, "the answer reaches a caller that is still sending"
        assert server.inspect(png(), headers={"X-API-Key": KEY}).status_code == 200
        for address in ("/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/static/page.js"):
            assert client.get(address).status_code == 200
        assert KEY not in client.get("/openapi.json").text
        assert KEY not in server.log.read_text()


def test_bad_keys_are_refused_at_the_start(model_root: Path) -> None:
    for variables, why in (
        ({"STLM_API_KEY": "short"}, "STLM_API_KEY: a key is 16 or more"),
        ({"STLM_API_KEY": ""}, "STLM_API_KEY: a key is 16 or more"),
        ({"STLM_API_KEY": "with a space in between"}, "without spaces"),
        ({"STLM_API_KEY_FILE": "absent"}, "STLM_API_KEY_FILE: absent: cannot be read"),
        ({"STLM_API_KEY_FILE": "key", "STLM_API_KEY": KEY}, "are both set"),
    ):
        code, told = refused_start(model_root, "--model", "model.onnx", **variables)
        assert (code, why in told) == (2, True), told
        assert KEY not in told


def test_a_crowd_is_asked_to_come_back(model_root: Path) -> None:
    limits = ("--workers", "1", "--queue", "1", "--max-batch", "2")
    content = png(width=4000, height=4000)
    with serving(model_root, "--model", "model.onnx", *limits) as server:
        with ThreadPoolExecutor(12) as callers:
            answers = list(callers.map(lambda _: httpx_post(server, content), range(12)))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["detail"] == "all 2 places are taken; try again in a moment"
        assert server.inspect(png()).status_code == 200
        assert server.metric("stlm_images_working") == server.metric("stlm_images_waiting") == 0


def httpx_post(server: Server, content: bytes) -> httpx.Response:
    """An upload on a connection of its own."""
    headers = {"Content-Type": "image/png"}
    return httpx.post(
        f"{server.url}/v1/lines/tiny/inspect", content=content, headers=headers, timeout=60, trust_env=False
    )


def test_an_answer_that_takes_too_long(model_root: Path) -> None:
    with serving(model_root, "--model", "model.onnx", "--work-seconds", "0.1") as server:
        late = server.inspect(png(width=4900, height=4900))
        assert (late.status_code, late.json()["error"]) == (504, "timeout")
        until(lambda: server.metric("stlm_images_working") == 0)
        assert server.inspect(png()).status_code == 200


def test_slow_callers_are_let_go(model_root: Path) -> None:
    content = png()
    with serving(model_root, "--model", "model.onnx", "--body-seconds", "1") as server:
        with connect(server) as body:
            body.sendall(head(len(content)) + content[:10])
            began = time.monotonic()
            answer = read_all(body)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "too_slow"
            assert 0.8 < time.monotonic() - began < 10
        with connect(server) as silent, connect(server) as dripping, connect(server) as second:
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert second.recv(65536).startswith(b"HTTP/1.1 200 ")
            second.sendall(b"GET /hea")
            began = time.monotonic()
            for _ in range(4):
                dripping.sendall(b"GET / HTTP/1.1\r\n"[:4])
                time.sleep(0.1)
            assert read_all(silent) == b""
            assert b" 200 " not in read_all(dripping)
            assert b" 200 " not in read_all(second)
            assert 5 < time.monotonic() - began < 20
        assert server.inspect(content).status_code == 200
        assert server.metric("stlm_buffered_bytes") == 0


def test_a_caller_that_leaves_costs_nothing(model_root: Path) -> None:
    content = png()
    with serving(model_root, "--model", "model.onnx") as server:
        for _ in range(20):
            with connect(server) as body:
                body.sendall(head(len(content)) + content[:10])
        until(lambda: server.metric("stlm_requests_in_flight") == 1)
        assert server.metric("stlm_buffered_bytes") == 0
        assert server.inspect(content).status_code == 200
        assert not server.events("request failed")


def test_an_announced_body_that_is_too_large_is_not_read(model_root: Path) -> None:
    with serving(model_root, "--model", "model.onnx", "--max-upload-mib", "1") as server, connect(server) as body:
        body.sendall(head(100 << 20, "Expect: 100-continue"))
        answer = read_all(body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_waits_for_requests_in_progress(model_root: Path, number: signal.Signals) -> None:
    content = png(brightness=210)
    with serving(model_root, "--model", "model.onnx") as server, connect(server) as late:
        late.sendall(head(len(content)) + content[:20])
        until(lambda: server.metric("stlm_requests_in_flight") == 2)
        server.process.send_signal(number)
        until(lambda: not listens(server))
        late.sendall(content[20:])
        answer = read_all(late)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["verdict"] == "anomalous"
        assert server.process.wait(20) == 0
        assert server.events("stopped")


def listens(server: Server) -> bool:
    """Whether a new connection is taken."""
    try:
        connect(server).close()
    except OSError:
        return False
    return True


def test_the_end_does_not_wait_for_ever(model_root: Path) -> None:
    with serving(model_root, "--model", "model.onnx", "--drain-seconds", "1") as server, connect(server) as late:
        late.sendall(head(1000) + b"x")
        until(lambda: server.metric("stlm_requests_in_flight") == 2)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 15


def test_a_wish_to_remember_nothing(model_root: Path) -> None:
    with serving(model_root, "--model", "model.onnx", "--recent", "0") as server:
        answer = server.inspect(png(), params={"heat_map": "true"}).json()
        assert answer["heat_map_url"] is None
        assert answer["heat_map"]
        assert server.client.get("/v1/recent").json() == {"kept": 0, "inspections": []}
        assert server.client.get(f"/v1/recent/{answer['id']}/image.jpg").status_code == 404


def test_the_address_is_taken(model_root: Path) -> None:
    with serving(model_root, "--model", "model.onnx") as server:
        port = urlsplit(server.url).port
        code, told = refused_start(model_root, "--model", "model.onnx", "--port", str(port))
        assert code == 2
        assert told.startswith(f"error: --host 127.0.0.1 --port {port}: cannot listen there")


def test_memory_stays_bounded(model_root: Path) -> None:
    limits = ("--workers", "2", "--recent", "3")
    with serving(model_root, "--model", "model.onnx", *limits) as server:
        content = png(width=4000, height=3000)
        for _ in range(6):
            server.inspect(content).raise_for_status()
        before = server.metric("process_resident_memory_bytes")
        threads = [threading.Thread(target=lambda: [httpx_post(server, content) for _ in range(8)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.metric("process_resident_memory_bytes") < before + (600 << 20)
