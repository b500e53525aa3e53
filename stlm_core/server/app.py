"""The application: routes, the shape of problems, and what is done around a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import stlm_core
from stlm_core.server.api import build_api, build_probes
from stlm_core.server.middleware import Envelope
from stlm_core.server.page import build_page
from stlm_core.server.problems import ProblemError, on_http, on_invalid, on_problem
from stlm_core.server.service import Service

_ABOUT = """Images in, verdicts and heat maps out, always from the champion of the line.

Every problem is answered as `{"error", "detail", "request_id"}`. The request's id is also in the header `X-Request-ID`
of every answer; send one of your own to find it again in the server's log."""


def build_app(service: Service) -> FastAPI:
    """The server's ASGI application. ``service.lines`` have been started, and are stopped by who started them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.workers.close()

    app = FastAPI(
        title="STLM inspection server",
        summary="Visual anomaly detection of product lines",
        description=_ABOUT,
        version=stlm_core.__version__,
        license_info={"name": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            ProblemError: on_problem,
            RequestValidationError: on_invalid,
            HTTPException: on_http,
        },
    )
    app.include_router(build_api(service))
    app.include_router(build_probes(service))
    app.include_router(build_page())
    app.add_middleware(Envelope, metrics=service.metrics, limits=service.limits)
    return app
