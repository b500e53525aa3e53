"""The addresses that programs use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response, Security
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

from stlm_core.server import answers
from stlm_core.server.inspection import heat_map_png, image_jpeg, thumbnail_jpeg
from stlm_core.server.metrics import CONTENT_TYPE
from stlm_core.server.problems import ProblemError, responses
from stlm_core.server.recent import Remembered
from stlm_core.server.schemas import Batch, Health, Inspection, LineStatus, Recent, Refreshed, Status
from stlm_core.server.service import Service
from stlm_core.server.uploads import FORM, MANY_FIELD, ONE_FIELD, many_images, one_image

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/tiff")
LineName = Annotated[str, Path(description="Product line.", examples=["sample"])]
InspectionId = Annotated[str, Path(description="An inspection's `id`.", examples=["Yk3nRrX0Q5b2"])]
HeatMap = Annotated[
    Literal["true", "false"],
    Query(description="Also answer with the heat map, as base64.", examples=["true"]),
]
ShownKey = Annotated[
    str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="STLM_API_KEY of the server."))
]
_BINARY = {"type": "string", "format": "binary"}
_ENCODING = {"contentType": ", ".join(IMAGE_TYPES)}
_UPLOAD_FAILURES = (400, 403, 404, 408, 413, 415, 422, 500, 503, 504)


def only_known_parameters(request: Request) -> None:
    """A parameter that does not exist is a mistake of the caller's: `heatmap=true` would do nothing.

    Raises:
        ProblemError: 422.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        raise ProblemError(422, f"query {unknown[0][:80]!r}: there is no such parameter")


def build_api(service: Service) -> APIRouter:
    """The routes under ``/v1``."""
    dependencies: list[Any] = [Depends(only_known_parameters)]
    common = [405, 500]
    if service.key is not None:
        dependencies.insert(0, Security(_key_check(service)))
        common.append(401)
    router = APIRouter(prefix="/v1", dependencies=dependencies, responses=responses(*common))

    @router.post(
        "/lines/{line}/inspect",
        tags=["Inspection"],
        summary="Inspect one image",
        responses=responses(*_UPLOAD_FAILURES),
        openapi_extra={"requestBody": {"required": True, "content": _one_image_content()}},
    )
    async def inspect(request: Request, line: LineName, heat_map: HeatMap = "false") -> Inspection:
        """The image is the body, or the part `image` of a form. Its content decides its format (PNG, JPEG, BMP, TIFF,
        WebP), not its content type."""
        service.champion(line)
        with service.buffer.share() as share:
            content = await one_image(request, share, service.limits)
            (result,) = await service.inspect(line, [content], request.state.request_id, heat_map=heat_map == "true")
        request.state.told = {"line": line}
        if isinstance(result, ProblemError):
            raise result
        request.state.told |= {"version": result.version, "verdict": result.verdict, "score": result.score}
        return result

    @router.post(
        "/lines/{line}/inspect-batch",
        tags=["Inspection"],
        summary="Inspect several images",
        responses=responses(*_UPLOAD_FAILURES),
        openapi_extra={"requestBody": {"required": True, "content": _batch_content(service.limits.batch)}},
    )
    async def inspect_batch(request: Request, line: LineName, heat_map: HeatMap = "false") -> Batch:
        """A form with a part `images` for each image. One that cannot be read does not spoil the others: its result
        holds the problem."""
        service.champion(line)
        request_id = request.state.request_id
        with service.buffer.share() as share:
            contents = await many_images(request, share, service.limits)
            results = await service.inspect(line, contents, request_id, heat_map=heat_map == "true")
        answered = answers.batch(line, request_id, results)
        request.state.told = {"line": line, "images": answered.images, "anomalous": answered.anomalous}
        return answered

    @router.get("/lines", tags=["Lines"], summary="What is in service")
    async def lines() -> Status:
        """Every line with its model, and how the registry answered last."""
        return answers.status(service.lines, service.limits)

    @router.get("/lines/{line}", tags=["Lines"], summary="One line", responses=responses(404))
    async def line_status(line: LineName) -> LineStatus:
        """The line's model."""
        return answers.line_status(service.line(line))

    @router.post(
        "/lines/{line}/refresh",
        tags=["Lines"],
        summary="Look for a new champion now",
        responses=responses(403, 404, 504),
    )
    async def refresh(line: LineName) -> Refreshed:
        """Instead of waiting for the next look: asks the registry, tests what it names and swaps."""
        found = service.line(line)
        asked = asyncio.shield(asyncio.wrap_future(service.lines.refresh(line)))
        try:
            outcome = await asyncio.wait_for(asked, service.limits.work_seconds)
        except TimeoutError:
            raise ProblemError(504, "the registry has not answered yet; GET /v1/lines shows what came of it") from None
        return Refreshed(outcome=outcome, line=answers.line_status(found))

    add_recent(router, service)
    return router


def add_recent(router: APIRouter, service: Service) -> None:
    """The last inspections."""

    def find(name: str) -> Remembered:
        entry = service.recent.get(name)
        if entry is None:
            raise ProblemError(404, "no such inspection, or it is no longer among the recent ones")
        return entry

    def picture(path: str, summary: str, kind: str, draw: Callable[[Remembered], bytes]) -> None:
        described: dict[int | str, dict[str, Any]] = {
            200: {"description": "The picture.", "content": {kind: {"schema": _BINARY}}}
        }

        @router.get(
            f"/recent/{{inspection}}/{path}",
            tags=["Recent inspections"],
            summary=summary,
            operation_id=path.partition(".")[0].replace("-", "_"),
            response_class=Response,
            responses={**described, **responses(404)},
        )
        async def get(inspection: InspectionId) -> Response:
            return Response(await run_in_threadpool(draw, find(inspection)), media_type=kind)

    @router.get("/recent", tags=["Recent inspections"], summary="The last inspections")
    async def recent() -> Recent:
        """The newest first, of all callers. They are in memory only."""
        entries = service.recent.newest_first()
        return Recent(kept=service.recent.kept, inspections=[entry.answer for entry in entries])

    @router.delete(
        "/recent",
        tags=["Recent inspections"],
        summary="Forget the last inspections",
        status_code=204,
        responses=responses(403),
    )
    async def forget() -> None:
        """Their images are gone from memory, too."""
        service.recent.forget()

    def shown(entry: Remembered) -> Any:
        assert entry.result.shown is not None
        return entry.result.shown

    picture("image.jpg", "What was inspected", "image/jpeg", lambda entry: image_jpeg(shown(entry).image))
    picture("thumbnail.jpg", "The same, small", "image/jpeg", lambda entry: thumbnail_jpeg(shown(entry).image))
    picture("heat-map.png", "Its heat map", "image/png", lambda entry: heat_map_png(shown(entry).level))


def build_probes(service: Service) -> APIRouter:
    """What an orchestrator and Prometheus ask; no key is needed."""
    router = APIRouter(tags=["Operation"], responses=responses(405, 500), dependencies=[Depends(only_known_parameters)])

    @router.get("/healthz", summary="Live")
    async def healthz() -> Health:
        """The process answers."""
        return Health(status="live")

    @router.get("/readyz", summary="Ready", responses=responses(503))
    async def readyz() -> Health:
        """Every line that was named has a model; where all are served, any line.

        A champion that was refused does not change that: the old one answers.
        """
        if not service.lines.ready:
            missing = ", ".join(line.name for line in service.lines.all() if line.champion is None)
            raise ProblemError(503, f"no model in service yet: {missing}", code="not_ready")
        return Health(status="ready")

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"description": "Text.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Counts and times of requests, images, swaps and the process."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    return router


def _key_check(service: Service) -> Callable[..., None]:
    def check(shown: ShownKey = None) -> None:
        if not service.may_enter(shown):
            how = "is wrong" if shown else "is missing"
            raise ProblemError(401, f"the API key {how}; send it in the header X-API-Key")

    return check


def _one_image_content() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {ONE_FIELD: _BINARY},
        "required": [ONE_FIELD],
        "additionalProperties": False,
    }
    return {
        **{kind: {"schema": _BINARY} for kind in (*IMAGE_TYPES, "application/octet-stream")},
        FORM: {"schema": form, "encoding": {ONE_FIELD: _ENCODING}},
    }


def _batch_content(most: int) -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {MANY_FIELD: {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": most}},
        "required": [MANY_FIELD],
        "additionalProperties": False,
    }
    return {FORM: {"schema": form, "encoding": {MANY_FIELD: _ENCODING}}}
