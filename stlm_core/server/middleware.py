"""What holds for every request: an id, the headers of a careful server, a line in the log, counts and times."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stlm_core.server.logs import log
from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError, answer
from stlm_core.server.settings import Limits

REQUEST_ID = "x-request-id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Everything from this server, nothing inline; pictures also from the page's own memory.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_LINGER_SECONDS = 5.0  # for the rest of a body that nobody wants
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})  # logged only when they fail


class Envelope:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, limits: Limits) -> None:
        self._app, self._metrics, self._limits = app, metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; whatever goes wrong inside is answered as a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        began = time.perf_counter()
        self._metrics.in_flight.inc()
        try:
            await self._answer(exchange)
        finally:
            self._metrics.in_flight.dec()
            self._record(exchange, time.perf_counter() - began)

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            if exchange.method == "POST" and exchange.headers.get("sec-fetch-site") == "cross-site":
                raise ProblemError(403, "the request was sent by a page of another site")
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except ProblemError as error:
            await self._problem(exchange, error)
        except Exception:
            log("request failed", logging.ERROR, request_id=exchange.id)
            logging.getLogger("stlm.server").exception("exception")
            await self._problem(exchange, ProblemError(500, "the server failed; its log has the request's id"))

    async def _problem(self, exchange: _Exchange, error: ProblemError) -> None:
        if exchange.status is None:
            await answer(exchange.id, error)(exchange.scope, exchange.receive, exchange.send)

    def _record(self, exchange: _Exchange, seconds: float) -> None:
        route = getattr(exchange.scope.get("route"), "path", "other")
        told: dict[str, Any] = exchange.state.get("told", {})
        status = exchange.status if exchange.status is not None else 499
        method = exchange.method if exchange.method in ("GET", "POST", "DELETE") else "other"
        self._metrics.requests.labels(method, route, told.get("line", ""), told.get("verdict", ""), str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if route in _QUIET_ROUTES and status < 400:
            return
        log(
            "request",
            request_id=exchange.id,
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            bytes=exchange.received or None,
            **told,
        )


class _Exchange:
    """One request and its answer, seen from outside."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self.headers = Headers(scope=scope)
        self.method: str = scope["method"]
        given = self.headers.get(REQUEST_ID, "")
        self.id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        self.state: MutableMapping[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.id
        self.status: int | None = None
        self.received = 0
        self._whole = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        else:
            self._whole = True  # the caller is gone
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self.status >= 400 and not await self._linger():
                headers["connection"] = "close"
            headers[REQUEST_ID] = self.id
            headers.setdefault("cache-control", "no-store")
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        # A caller that does not read its answer does not hold it in memory for ever.
        async with asyncio.timeout(self._limits.body_seconds):
            await self._send(message)

    async def _linger(self) -> bool:
        """Take what is left of a refused body: a caller that is still sending would not see the answer.

        Returns whether all of it came. Who asks first whether to send (``Expect``) is spared the sending.
        """
        if self._whole or not (self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers):
            return True
        if "expect" in self.headers:
            return False
        most = self.received + 2 * self._limits.upload_bytes
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._whole and self.received <= most:
                    await self.receive()
        except TimeoutError:
            return False
        return self._whole
