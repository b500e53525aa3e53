"""Every failed request is answered in one shape: ``{"error": ..., "detail": ..., "request_id": ...}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from stlm_core.server.schemas import Problem

RETRY_AFTER = "1"  # seconds
_JSON = "application/json"

# Status -> (code, what it means); all that this server ever answers with.
MEANINGS: Mapping[int, tuple[str, str]] = {
    400: ("bad_request", "The body is not what its content type says."),
    401: ("unauthorised", "The API key is missing or wrong."),
    403: ("forbidden", "A page of another site sent the request."),
    404: ("not_found", "There is no such line, image or address."),
    405: ("method_not_allowed", "The address does not take this method."),
    408: ("too_slow", "The body did not arrive in time."),
    413: ("too_large", "The body, the image or the batch is larger than the server takes."),
    415: ("unsupported_type", "The content type is not one of an image or a form."),
    422: ("unprocessable", "A parameter is wrong, or the image cannot be read."),
    500: ("failed", "The server failed; its log has the request's id."),
    503: ("busy", "Too much to do, or the line has no model yet: try again after `Retry-After` seconds."),
    504: ("timeout", "The answer took too long."),
}


class ProblemError(Exception):
    """A request that cannot be answered.

    Args:
        status: one of :data:`MEANINGS`.
        detail: one sentence for a person.
        code: in place of the status's usual one.
    """

    def __init__(self, status: int, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code = status, detail, code or MEANINGS[status][0]
        self.headers = {
            401: {"WWW-Authenticate": 'ApiKey realm="stlm", header="X-API-Key"'},
            408: {"Connection": "close"},
            413: {"Connection": "close"},
            503: {"Retry-After": RETRY_AFTER},
        }.get(status, {})


def answer(request_id: str, error: ProblemError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response for a problem."""
    body = {"error": error.code, "detail": error.detail, "request_id": request_id}
    return JSONResponse(body, error.status, {**error.headers, **(headers or {})})


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these failures."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted(statuses):
        code, meaning = MEANINGS[status]
        example = {"error": code, "detail": meaning, "request_id": "0123456789abcdef"}
        found[status] = {
            "model": Problem,
            "description": meaning,
            "content": {_JSON: {"example": example}},
        }
        if status == 503:
            schema = {"type": "integer", "minimum": 0}
            found[status]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": schema}}
    return found


async def on_problem(request: Request, error: Exception) -> JSONResponse:
    """Handler of :class:`ProblemError`."""
    assert isinstance(error, ProblemError)
    return answer(request.state.request_id, error)


_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """Handler of FastAPI's validation errors: the first wrong parameter in one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])
    return answer(request.state.request_id, ProblemError(422, f"{where}: {first['msg']}"))


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """Handler of the router's own errors: no such address, wrong method."""
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in MEANINGS else 400
    detail = {404: "there is nothing at this address", 405: "this address does not take this method"}
    problem = ProblemError(status, detail.get(status, str(error.detail)))
    headers = {"Allow": ", ".join(_methods(request))} if status == 405 else error.headers
    return answer(request.state.request_id, problem, headers)


def _methods(request: Request) -> list[str]:
    """All methods of an address; the router itself names those of the first route that it finds."""
    routes = request.app.routes
    asked = ({**request.scope, "method": method} for method in _METHODS)
    return [scope["method"] for scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)]
