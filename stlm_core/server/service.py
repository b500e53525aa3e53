"""What the routes share: champions, workers, limits, the last inspections; and an image's way through them."""

from __future__ import annotations

import functools
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from stlm_core.errors import StlmError
from stlm_core.server import answers
from stlm_core.server.champion import Champion
from stlm_core.server.inspection import Result, inspect_image
from stlm_core.server.lines import Line, Lines
from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError
from stlm_core.server.recent import RecentInspections
from stlm_core.server.schemas import Inspection
from stlm_core.server.settings import Limits
from stlm_core.server.uploads import Buffer
from stlm_core.server.workers import Workers


@dataclass
class Service:
    """One server's parts. ``key``: what callers must show, None for nothing."""

    lines: Lines
    limits: Limits
    metrics: Metrics
    key: bytes | None = None
    workers: Workers = field(init=False)
    buffer: Buffer = field(init=False)
    recent: RecentInspections = field(init=False)

    def __post_init__(self) -> None:
        self.workers = Workers(self.limits, self.metrics)
        self.buffer = Buffer(self.limits, self.metrics)
        self.recent = RecentInspections(self.limits.recent)

    def may_enter(self, shown: str | None) -> bool:
        """Whether a key is the right one, in a time that tells nothing of how much of it is right."""
        if self.key is None:
            return True
        digests = (sha256(key).digest() for key in ((shown or "").encode("utf-8", "surrogateescape"), self.key))
        return hmac.compare_digest(*digests)

    def line(self, name: str) -> Line:
        """A line that is served here.

        Raises:
            ProblemError: 404.
        """
        line = self.lines.get(name)
        if line is None:
            raise ProblemError(404, "this server has no such line; GET /v1/lines names those it has")
        return line

    def champion(self, name: str) -> Champion:
        """The model that is in service for a line.

        Raises:
            ProblemError: 404 no such line, 503 it has no model yet.
        """
        line = self.line(name)
        if line.champion is None:
            raise ProblemError(503, f"line {name} has no model in service yet", code="no_model")
        return line.champion

    async def inspect(
        self, line: str, images: Sequence[bytes], request_id: str, *, heat_map: bool
    ) -> list[Inspection | ProblemError]:
        """Inspect images side by side.

        Raises:
            ProblemError: as :meth:`champion`, 503 no place, 504 too slow.
        """
        champion = self.champion(line)
        keep = self.limits.recent > 0
        began = time.perf_counter()
        jobs = [
            functools.partial(
                inspect_image, champion, content, max_pixels=self.limits.pixels, heat_map=heat_map, keep=keep
            )
            for content in images
        ]
        results = await self.workers.run(jobs)
        seconds = time.perf_counter() - began
        return [self._answered(line, result, request_id, seconds) for result in results]

    def _answered(
        self, line: str, result: Result | Exception, request_id: str, seconds: float
    ) -> Inspection | ProblemError:
        if isinstance(result, Exception):
            self.metrics.images.labels(line, "failed").inc()
            if isinstance(result, ProblemError):
                return result
            if isinstance(result, StlmError):
                return ProblemError(500, str(result), code="model_failed")
            raise result
        for stage, each in (
            ("decode", result.decode_seconds),
            ("inference", result.inference_seconds),
            ("render", result.render_seconds),
            ("total", seconds),
        ):
            self.metrics.stage_seconds.labels(line, stage).observe(each)
        self.metrics.scores.labels(line).observe(result.score)
        self.metrics.images.labels(line, result.verdict).inc()
        for complaint in result.complaints:
            self.metrics.complaints.labels(line, complaint).inc()
        kept = self.limits.recent > 0
        answered = answers.inspection(result, request_id, seconds, kept=kept)
        if kept:
            self.recent.add(answers.remembered(answered, result))
        return answered
