"""`stlm serve`: champions in, then a server until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from stlm_core.errors import UserError
from stlm_core.server.app import build_app
from stlm_core.server.cache import Cache
from stlm_core.server.lines import Lines
from stlm_core.server.logs import log, set_up_logs
from stlm_core.server.metrics import Metrics
from stlm_core.server.protocol import PatientProtocol
from stlm_core.server.service import Service
from stlm_core.server.settings import Limits, api_key, verify_key
from stlm_core.server.sources import LINE_NAME, FileSource, RegistrySource, Source

_LAST_PATIENCE_SECONDS = 10.0  # for a model that is being loaded
_KEEP_ALIVE_SECONDS = 75  # longer than common proxies keep a connection, so that they close it and not we


@dataclass(frozen=True)
class Options:
    """What `stlm serve` was asked for. ``root``: the project's folder, for its own registry."""

    lines: Sequence[str]
    every_line: bool
    model: Path | None
    root: Path
    cache: Path | None
    host: str
    port: int
    poll_seconds: float


def serve(options: Options, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress are finished first.

    Raises:
        UserError: a setting is wrong, the address is taken, or the registry does not answer.
        StlmError: no line has a model that passes its tests.
    """
    key, public_key = api_key(os.environ), verify_key(os.environ)
    source, wanted = choose_source(options, signed=public_key is not None)
    listener = listen(options.host, options.port)
    try:
        set_up_logs()
        metrics = Metrics()
        lines = Lines(
            source,
            wanted,
            metrics=metrics,
            cache=Cache(options.cache) if options.cache is not None else None,
            public_key=public_key,
            threads=limits.threads,
            poll_seconds=options.poll_seconds,
        )
        lines.start()
        config = uvicorn.Config(
            build_app(Service(lines, limits, metrics, key)),
            http=PatientProtocol.with_patience(limits.head_seconds),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=limits.drain_seconds,
        )
        host, port = listener.getsockname()[:2]
        log("listening", address=host, port=port, lines=[line.name for line in lines.all()], key=key is not None)
        _Server(config).run(sockets=[listener])
        ended = lines.stop(_LAST_PATIENCE_SECONDS)
        log("stopped")
    finally:
        listener.close()
    if not ended:  # a registry that does not answer: nothing is lost, and waiting for it helps nobody
        os._exit(0)


class _Server(uvicorn.Server):
    """Ends as a success when it is told to; uvicorn would raise the signal once more at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop for a signal, at once for a second SIGINT."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def choose_source(options: Options, *, signed: bool) -> tuple[Source, list[str] | None]:
    """Where champions come from and which lines are wanted; None for all.

    Raises:
        UserError: the options contradict each other, or a line cannot be called so.
    """
    for line in options.lines:
        if not LINE_NAME.fullmatch(line):
            raise UserError(f"--line {line}: a line's name has lower case letters, digits, - and _")
    if options.model is None:
        if options.every_line == bool(options.lines):
            raise UserError("name the lines to serve with --line, or all of them with --all")
        return RegistrySource(options.root), None if options.every_line else sorted(set(options.lines))
    if options.every_line or len(options.lines) > 1:
        raise UserError("--model: one file serves one line; give at most one --line")
    if signed and not options.lines:
        raise UserError("--model: STLM_VERIFY_KEY is set, and a signature is of a line: name it with --line")
    file = FileSource(options.model, options.lines[0] if options.lines else None)
    return file, file.lines()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the address is not this machine's or is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there: {why}") from None
    # Connections inherit it. asyncio sets it for sockets that it makes itself only; without it the end of an answer
    # waits for the caller's delayed acknowledgement, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
