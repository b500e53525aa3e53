"""From what the server knows to what it answers."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from stlm_core.server.inspection import Result
from stlm_core.server.lines import Line, Lines
from stlm_core.server.problems import ProblemError
from stlm_core.server.recent import Remembered
from stlm_core.server.schemas import (
    Batch,
    BatchResult,
    Inspection,
    LineStatus,
    Milliseconds,
    Peak,
    Problem,
    RecentInspection,
    ServerLimits,
    SourceStatus,
    Status,
)
from stlm_core.server.settings import Limits


def inspection(result: Result, request_id: str, total_seconds: float, *, kept: bool) -> Inspection:
    """One image; ``kept``: whether it is among the recent ones from now on."""
    return Inspection(
        id=result.id,
        line=result.champion.candidate.line,
        version=result.champion.version,
        score=result.score,
        threshold=result.champion.session.threshold,
        is_anomalous=result.is_anomalous,
        verdict=result.verdict,
        width=result.width,
        height=result.height,
        peak=Peak(x=result.peak_x, y=result.peak_y, value=result.peak_value),
        picture=list(result.complaints),
        ms=Milliseconds(
            decode=_ms(result.decode_seconds),
            inference=_ms(result.inference_seconds),
            render=_ms(result.render_seconds),
            total=_ms(total_seconds),
        ),
        request_id=request_id,
        heat_map=base64.b64encode(result.heat_map).decode("ascii") if result.heat_map is not None else None,
        heat_map_url=f"/v1/recent/{result.id}/heat-map.png" if kept else None,
    )


def remembered(answered: Inspection, result: Result) -> Remembered:
    """What of an inspection is remembered: without the heat map, which can be drawn again."""
    fields = answered.model_dump(exclude={"heat_map"})
    return Remembered(RecentInspection(**fields, heat_map=None, inspected_at=result.inspected_at), result)


def batch(line: str, request_id: str, results: Sequence[Inspection | ProblemError]) -> Batch:
    """Many images, some of which may have failed."""
    found = [each for each in results if isinstance(each, Inspection)]
    return Batch(
        line=line,
        request_id=request_id,
        images=len(results),
        anomalous=sum(each.is_anomalous for each in found),
        failed=len(results) - len(found),
        results=[
            BatchResult(index=index, status=200, inspection=each, problem=None)
            if isinstance(each, Inspection)
            else BatchResult(
                index=index,
                status=each.status,
                inspection=None,
                problem=Problem(error=each.code, detail=each.detail, request_id=request_id),
            )
            for index, each in enumerate(results)
        ],
    )


def line_status(line: Line) -> LineStatus:
    """One line."""
    champion = line.champion
    return LineStatus(
        line=line.name,
        ready=champion is not None,
        version=champion.version if champion else None,
        sha256=champion.session.sha256 if champion else None,
        threshold=champion.session.threshold if champion else None,
        loaded_at=champion.loaded_at if champion else None,
        source=champion.candidate.source if champion else None,
        model=dict(champion.candidate.tags) if champion else {},
        swaps=line.swaps,
        failed_swaps=line.failed_swaps,
        last_error=line.error,
    )


def status(lines: Lines, limits: Limits) -> Status:
    """All lines."""
    source = lines.source
    return Status(
        ready=lines.ready,
        source=SourceStatus(name=source.name, answered_at=source.answered_at, error=source.error),
        limits=ServerLimits(
            upload_bytes=limits.upload_bytes, pixels=limits.pixels, batch=limits.batch, recent=limits.recent
        ),
        lines=[line_status(line) for line in lines.all()],
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
