"""HTTP/1.1 as uvicorn speaks it, with an end to patience."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_CONNECTIONS = 512


class PatientProtocol(H11Protocol):
    """Closes a connection whose request does not get past its headers, and those above a number.

    uvicorn itself waits for headers for ever. Use :meth:`with_patience` to set ``head_seconds``.
    """

    head_seconds: ClassVar[float] = 10.0
    _head_timer: asyncio.TimerHandle | None = None

    @classmethod
    def with_patience(cls, seconds: float) -> type[PatientProtocol]:
        """This protocol with ``seconds`` for a request's headers."""
        return type(cls.__name__, (cls,), {"head_seconds": seconds})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller is there."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
            return
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Bytes of headers or a body."""
        super().data_received(data)
        if not self._between_requests():
            self._stop_timer()
        elif self._head_timer is None:  # the next request on a connection has begun
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP are answered in the shape of all problems."""
        told: dict[str, Any] = {"error": "bad_request", "detail": "not a valid HTTP request"}
        body = json.dumps({**told, "request_id": secrets.token_hex(8)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _give_up(self) -> None:
        self._head_timer = None
        if self._between_requests():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
