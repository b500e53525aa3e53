"""What Prometheus scrapes at /metrics."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from stlm_core.runtime.capture import COMPLAINTS
from stlm_core.server.champion import Champion

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SCORES = tuple(step / 20 for step in range(1, 21))


class Metrics:
    """The metrics of one server, in a registry of their own.

    Labels have few values: lines are those in service, routes are templates and not addresses as they came in.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        r = self.registry
        self.requests = Counter(
            "stlm_requests", "Requests answered.", ("method", "route", "line", "verdict", "status"), registry=r
        )
        self.request_seconds = Histogram(
            "stlm_request_seconds",
            "Time from a request's headers to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=r,
        )
        self.images = Counter("stlm_images", "Images by what became of them.", ("line", "verdict"), registry=r)
        self.stage_seconds = Histogram(
            "stlm_image_seconds",
            "Time of one image: decode, inference, render (heat map, light, focus), total with waiting for a worker.",
            ("line", "stage"),
            buckets=_SECONDS,
            registry=r,
        )
        self.scores = Histogram("stlm_score", "Scores of inspected images.", ("line",), buckets=_SCORES, registry=r)
        self.complaints = Counter(
            "stlm_unusual_pictures",
            "Images unlike the line's good ones in light or focus.",
            ("line", "complaint"),
            registry=r,
        )
        self.in_flight = Gauge("stlm_requests_in_flight", "Requests in progress.", registry=r)
        self.working = Gauge("stlm_images_working", "Images that a worker has.", registry=r)
        self.waiting = Gauge("stlm_images_waiting", "Images that wait for a worker.", registry=r)
        self.buffered = Gauge("stlm_buffered_bytes", "Bytes of request bodies in memory.", registry=r)
        self.swaps = Counter("stlm_model_swaps", "Champions taken into service after the first.", ("line",), registry=r)
        self.failed_swaps = Counter(
            "stlm_model_swaps_failed",
            "Champions that were refused.",
            ("line",),
            registry=r,
        )
        self.model_info = Gauge(
            "stlm_model_info", "1 for what is in service.", ("line", "version", "sha256"), registry=r
        )
        self.model_loaded = Gauge(
            "stlm_model_loaded_timestamp_seconds", "When it came into service.", ("line",), registry=r
        )
        self.threshold = Gauge("stlm_model_threshold", "Scores above are anomalous.", ("line",), registry=r)
        self.source_up = Gauge(
            "stlm_registry_up", "1 when the registry answered the last time it was asked.", registry=r
        )
        self.source_checked = Gauge("stlm_registry_answered_timestamp_seconds", "When it last answered.", registry=r)

    def installed(self, champion: Champion, replaced: Champion | None) -> None:
        """A champion came into service."""
        line = champion.candidate.line
        if replaced is not None:
            self.model_info.remove(line, replaced.version, replaced.session.sha256)
            self.swaps.labels(line).inc()
        else:  # both series exist from the start, so that the first failure is an increase
            self.swaps.labels(line).inc(0)
            self.failed_swaps.labels(line).inc(0)
        for complaint in COMPLAINTS:  # so that the first one is an increase
            self.complaints.labels(line, complaint).inc(0)
        self.model_info.labels(line, champion.version, champion.session.sha256).set(1)
        self.model_loaded.labels(line).set(champion.loaded_at.timestamp())
        self.threshold.labels(line).set(champion.session.threshold)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
