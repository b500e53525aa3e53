"""The inspection server's answers over HTTP, from a process of its own, against `stlm predict` on the same bytes."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from bad_inputs import flat_png
from PIL import Image
from serving import Server, detector, encoded, png

from stlm_core.data.images import read_image
from stlm_core.evaluation.heatmap import TURBO, colour_level
from stlm_core.runtime.model import DetectorSession
from stlm_core.runtime.predict import predict_images

pytestmark = pytest.mark.integration


def noise(mode: str = "RGB", width: int = 57, height: int = 41) -> Image.Image:
    """An image of a mode, different in every pixel."""
    pixels = np.random.default_rng(1).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def sixteen_bit() -> Image.Image:
    """Grey with 16 bits."""
    return Image.fromarray(np.random.default_rng(2).integers(0, 60000, (41, 57), dtype=np.uint16))


def turned(orientation: int) -> bytes:
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(), "JPEG", exif=exif, quality=95)


def with_alpha() -> bytes:
    """Half transparent."""
    image = noise("RGBA")
    image.putalpha(128)
    return encoded(image, "PNG")


IMAGES: dict[str, Callable[[], bytes]] = {
    "rgb.png": lambda: encoded(noise(), "PNG"),
    "grey.png": lambda: encoded(noise("L"), "PNG"),
    "palette.png": lambda: encoded(noise("P"), "PNG"),
    "bit.png": lambda: encoded(noise("1"), "PNG"),
    "sixteen.png": lambda: encoded(sixteen_bit(), "PNG"),
    "sixteen.tif": lambda: encoded(sixteen_bit(), "TIFF"),
    "alpha.png": with_alpha,
    "cmyk.jpg": lambda: encoded(noise("CMYK"), "JPEG"),
    "turned6.jpg": lambda: turned(6),
    "turned3.jpg": lambda: turned(3),
    "one.png": lambda: png(width=1, height=1, brightness=200),
    "wide.png": lambda: png(width=3000, height=1),
    "photo.webp": lambda: encoded(noise(), "WEBP", lossless=True),
    "photo.bmp": lambda: encoded(noise(), "BMP"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_answer_is_that_of_predict(name: str, file_server: Server, tmp_path: Path) -> None:
    content = IMAGES[name]()
    model, image = tmp_path / "model.onnx", tmp_path / name
    model.write_bytes(detector("r1"))
    image.write_bytes(content)
    (row,) = predict_images(model, [str(image)], tmp_path / "out", overlay=False, threads=1).rows
    answer = file_server.inspect(content).raise_for_status().json()
    assert (answer["score"], answer["is_anomalous"], answer["threshold"]) == (
        row.score,
        row.is_anomalous,
        row.threshold,
    )
    assert answer["verdict"] == ("anomalous" if row.is_anomalous else "normal")
    assert answer["peak"] == {"x": row.max_x, "y": row.max_y, "value": row.max_value}
    assert (answer["width"], answer["height"]) == (row.width, row.height)
    assert answer["picture"] == row.picture.split()
    assert answer["line"] == "tiny"
    assert answer["version"] == file_server.line()["version"]
    assert 0 <= answer["ms"]["inference"] <= answer["ms"]["total"]


def test_a_form_and_any_image_type_are_the_same_image(file_server: Server) -> None:
    content = IMAGES["rgb.png"]()
    url = "/v1/lines/tiny/inspect"
    form = file_server.client.post(url, files={"image": ("a.png", content, "image/png")})
    typed = file_server.client.post(url, content=content, headers={"Content-Type": "image/jpeg; q=1"})
    plain = file_server.client.post(url, content=content, headers={"Content-Type": "application/octet-stream"})
    chunked = file_server.client.post(
        url, content=iter([content[:99], content[99:]]), headers={"Content-Type": "image/*"}
    )
    assert {answer.json()["score"] for answer in (form, typed, plain, chunked)} == {
        file_server.inspect(content).json()["score"]
    }


def test_the_heat_map_lies_over_the_image(file_server: Server, tmp_path: Path) -> None:
    content = png(brightness=60, spot=250)
    answer = file_server.inspect(content, params={"heat_map": "true"}).json()
    picture = Image.open(io.BytesIO(base64.b64decode(answer["heat_map"])))
    assert (picture.mode, picture.size) == ("RGBA", (40, 30))
    (tmp_path / "a.png").write_bytes(content)
    session = DetectorSession(detector("r1"), threads=1)
    maps = session.predict(read_image(tmp_path / "a.png")[None]).anomaly_maps[0]
    level = np.rint(colour_level(maps, session.raw_threshold) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(picture), np.dstack([TURBO[level], level]))
    assert (answer["peak"]["x"], answer["peak"]["y"]) == (7, 5)
    kept = file_server.client.get(answer["heat_map_url"])
    assert kept.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept.content))), np.asarray(picture))
    assert file_server.inspect(content).json()["heat_map"] is None


def test_a_large_image_is_shown_smaller(file_server: Server) -> None:
    answer = file_server.inspect(png(width=2000, height=1000), params={"heat_map": "true"}).json()
    assert Image.open(io.BytesIO(base64.b64decode(answer["heat_map"]))).size == (768, 384)
    shown = file_server.client.get(f"/v1/recent/{answer['id']}/image.jpg").content
    assert Image.open(io.BytesIO(shown)).size == (768, 384)
    small = file_server.client.get(f"/v1/recent/{answer['id']}/thumbnail.jpg").content
    assert Image.open(io.BytesIO(small)).size == (128, 64)


@dataclass(frozen=True)
class Bad:
    """A request that must be refused, and what a person then reads."""

    name: str
    content: Callable[[], bytes]
    status: int
    detail: str
    kind: str = "image/png"
    path: str = "/v1/lines/tiny/inspect"


def truncated(name: str) -> bytes:
    """The first two thirds of a file."""
    content = IMAGES[name]()
    return content[: len(content) * 2 // 3]


def damaged() -> bytes:
    """A PNG with a wrong bit in its pixels."""
    content = bytearray(IMAGES["rgb.png"]())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def thirty_two_bit() -> bytes:
    """A TIFF of floating point numbers."""
    return encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")


FORM = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\nabc\r\n--b--\r\n'
UNREADABLE = "not an image in a known format"
BAD = [
    Bad("empty", lambda: b"", 422, "the body is empty"),
    Bad("text", lambda: b"hello", 422, UNREADABLE),
    Bad("svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, UNREADABLE, "image/svg+xml"),
    Bad("gif", lambda: encoded(noise("P"), "GIF"), 422, UNREADABLE, "image/gif"),
    Bad("truncated png", lambda: truncated("rgb.png"), 422, "damaged or truncated"),
    Bad("truncated jpeg", lambda: truncated("cmyk.jpg"), 422, "damaged or truncated", "image/jpeg"),
    Bad("damaged png", damaged, 422, "damaged or truncated"),
    Bad("float tiff", thirty_two_bit, 422, "pixel format F is not supported", "image/tiff"),
    Bad("bomb", lambda: flat_png(20_000, 20_000), 413, "more than the 20000000 pixels"),
    Bad("huge header", lambda: flat_png(60_000, 30_000)[:200], 413, "more than the 20000000 pixels"),
    Bad("large", lambda: b"x" * (3 << 20), 413, "larger than the 2 MiB"),
    Bad("json", lambda: b"{}", 415, "not `application/json`", "application/json"),
    Bad("no type", png, 415, "not `nothing`", ""),
    Bad("no boundary", lambda: b"x", 400, "has no boundary", "multipart/form-data"),
    Bad("no form", lambda: b"x", 400, "the form is damaged", "multipart/form-data; boundary=b"),
    Bad("half a form", lambda: FORM[:60], 400, "breaks off", "multipart/form-data; boundary=b"),
    Bad("empty form", lambda: b"--b--\r\n", 400, "the form is empty", "multipart/form-data; boundary=b"),
    Bad("other part", lambda: FORM % b"photo", 400, "must be called `image`", "multipart/form-data; boundary=b"),
    Bad("text in a form", lambda: FORM % b"image", 422, UNREADABLE, "multipart/form-data; boundary=b"),
    Bad("parameter", png, 422, "there is no such parameter", path="/v1/lines/tiny/inspect?heatmap=true"),
    Bad("value", png, 422, "query heat_map", path="/v1/lines/tiny/inspect?heat_map=maybe"),
    Bad("line", png, 404, "no such line", path="/v1/lines/other/inspect"),
    Bad("address", png, 404, "nothing at this address", path="/v2/lines/tiny/inspect"),
    Bad("method", png, 405, "does not take this method", path="/v1/lines"),
    Bad("batch type", png, 415, "send a form", path="/v1/lines/tiny/inspect-batch"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_input_is_one_sentence(bad: Bad, file_server: Server) -> None:
    headers = {"Content-Type": bad.kind} if bad.kind else {}
    answer = file_server.client.post(bad.path, content=bad.content(), headers=headers)
    assert answer.status_code == bad.status, answer.text
    problem = answer.json()
    assert set(problem) == {"error", "detail", "request_id"}
    assert bad.detail in problem["detail"]
    assert "\n" not in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert file_server.inspect(png()).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/lines", "GET"),
        ("PUT", "/v1/recent", "DELETE, GET"),
        ("GET", "/v1/lines/tiny/inspect", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str, file_server: Server) -> None:
    answer = file_server.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_bytes_that_are_no_http_get_the_same_shape(file_server: Server) -> None:
    address = urlsplit(file_server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "bad_request"


def test_one_bad_image_does_not_spoil_a_batch(file_server: Server) -> None:
    contents = [png(brightness=20), b"no image", png(brightness=220), flat_png(9000, 9000)]
    files = [("images", (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]
    answer = file_server.client.post("/v1/lines/tiny/inspect-batch", files=files, params={"heat_map": "true"}).json()
    assert (answer["images"], answer["anomalous"], answer["failed"]) == (4, 1, 2)
    assert [result["index"] for result in answer["results"]] == [0, 1, 2, 3]
    assert [result["status"] for result in answer["results"]] == [200, 422, 200, 413]
    for result, content in zip(answer["results"], contents, strict=True):
        alone = file_server.inspect(content)
        if result["status"] == 200:
            assert result["inspection"]["score"] == alone.json()["score"]
            assert result["inspection"]["heat_map"] is not None
            assert result["problem"] is None
        else:
            assert result["inspection"] is None
            assert result["problem"]["detail"] == alone.json()["detail"]


def test_a_batch_has_a_most(file_server: Server) -> None:
    most = file_server.client.get("/v1/lines").json()["limits"]["batch"]
    files = [("images", ("a.png", png(), "image/png"))] * (most + 1)
    refused = file_server.client.post("/v1/lines/tiny/inspect-batch", files=files)
    assert (refused.status_code, refused.json()["error"]) == (413, "too_large")
    assert file_server.client.post("/v1/lines/tiny/inspect-batch", files=files[1:]).json()["images"] == most


def test_the_last_images_are_kept_and_forgotten(file_server: Server) -> None:
    client = file_server.client
    sent = [file_server.inspect(png(brightness=5 * index)).json() for index in range(30)]
    listed = client.get("/v1/recent").json()
    assert listed["kept"] == 24
    assert [entry["id"] for entry in listed["inspections"]] == [each["id"] for each in sent[:5:-1]]
    assert listed["inspections"][0]["score"] == sent[-1]["score"]
    assert client.get(f"/v1/recent/{sent[0]['id']}/image.jpg").status_code == 404
    newest = sent[-1]["id"]
    image = client.get(f"/v1/recent/{newest}/image.jpg")
    assert image.headers["cache-control"] == "no-store"
    assert np.asarray(Image.open(io.BytesIO(image.content))).mean() == pytest.approx(145, abs=2)
    assert client.delete("/v1/recent").status_code == 204
    assert client.get("/v1/recent").json()["inspections"] == []
    assert client.get(f"/v1/recent/{newest}/thumbnail.jpg").status_code == 404


def test_ids_headers_and_the_log(file_server: Server) -> None:
    answer = file_server.inspect(
        png(), headers={"X-Request-ID": "shift-7.part_3", "X-API-Key": "not-needed-but-secret"}
    )
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "shift-7.part_3"
    strange = file_server.inspect(png(), headers={"X-Request-ID": "a b\tc<script>"})
    assert re.fullmatch("[0-9a-f]{16}", strange.headers["x-request-id"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers
    (logged,) = [event for event in file_server.events("request") if event["request_id"] == "shift-7.part_3"]
    assert (logged["line"], logged["verdict"], logged["status"]) == ("tiny", "normal", 200)
    assert logged["bytes"] == len(png())
    text = file_server.log.read_text()
    assert "secret" not in text
    assert base64.b64encode(png())[:40].decode() not in text


def test_metrics_count_what_happened(file_server: Server) -> None:
    before = {
        verdict: file_server.metric("stlm_images_total", line="tiny", verdict=verdict)
        for verdict in ("normal", "anomalous", "failed")
    }
    scores = file_server.metric("stlm_score_sum", line="tiny")
    for brightness in (51, 204, 255):
        file_server.inspect(png(brightness=brightness))
    file_server.inspect(b"no image")
    after = {verdict: file_server.metric("stlm_images_total", line="tiny", verdict=verdict) for verdict in before}
    assert {verdict: after[verdict] - before[verdict] for verdict in before} == {
        "normal": 1,
        "anomalous": 2,
        "failed": 1,
    }
    assert file_server.metric("stlm_score_sum", line="tiny") - scores == pytest.approx(0.2 + 0.8 + 1.0, abs=1e-5)
    for stage in ("decode", "inference", "render", "total"):
        assert file_server.metric("stlm_image_seconds_count", line="tiny", stage=stage) >= 3
    assert file_server.metric("stlm_requests_total", status="422", line="tiny") >= 1
    status = file_server.line()
    assert file_server.metric("stlm_model_info", version=status["version"], sha256=status["sha256"]) == 1
    assert file_server.metric("stlm_images_working") == file_server.metric("stlm_images_waiting") == 0
    assert file_server.metric("stlm_buffered_bytes") == 0
    assert file_server.metric("stlm_requests_in_flight") == 1  # the question itself


def test_probes_the_page_and_its_files(file_server: Server) -> None:
    client = file_server.client
    assert client.get("/healthz").json() == {"status": "live"}
    assert client.get("/readyz").json() == {"status": "ready"}
    for page in ("/", "/docs"):
        text = client.get(page).text
        assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", text)
        for file in re.findall(r"(?:src|href)=\"(static/[^\"]+)\"", text):
            got = client.get(f"/{file}")
            assert got.status_code == 200
            assert client.get(f"/{file}", headers={"If-None-Match": got.headers["etag"]}).status_code == 304
            assert not re.search(r"https?://(?!www\.w3\.org)", got.text), file
    assert client.get("/static/../run.py").status_code == 404


def test_a_page_of_another_site_cannot_send_images(file_server: Server) -> None:
    refused = file_server.inspect(png(), headers={"Sec-Fetch-Site": "cross-site"})
    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
    assert file_server.inspect(png(), headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_an_answer_does_not_wait_for_the_callers_acknowledgement(file_server: Server) -> None:
    content, times = png(), []
    for _ in range(20):
        began = time.perf_counter()
        file_server.inspect(content)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.03, "40 ms each where the kernel waits to fill a packet"


def test_a_picture_in_other_light_is_told_and_counted(file_server: Server) -> None:
    before = file_server.metric("stlm_unusual_pictures_total", line="tiny", complaint="dark")
    assert file_server.inspect(png(brightness=100)).json()["picture"] == []
    answer = file_server.inspect(png(brightness=5)).json()
    assert (answer["picture"], answer["verdict"]) == (["dark"], "normal")
    assert file_server.metric("stlm_unusual_pictures_total", line="tiny", complaint="dark") == before + 1
