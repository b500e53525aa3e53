"""What requests are answered with, as OpenAPI shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stlm_core.runtime.capture import Complaint

Verdict = Literal["normal", "anomalous"]
_REQUEST_ID = "0b9c6f0e8d7a4c21"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """Why a request was not answered."""

    error: str = Field(description="A short code that programs can go by.", examples=["unprocessable"])
    detail: str = Field(description="One sentence for people.", examples=["image: damaged or truncated image"])
    request_id: str = Field(description="Also in the header X-Request-ID and in the log.", examples=[_REQUEST_ID])


class Peak(_Answer):
    """Where the anomaly map is largest."""

    x: int = Field(ge=0, description="Pixels from the left.", examples=[137])
    y: int = Field(ge=0, description="Pixels from the top.", examples=[84])
    value: float = Field(ge=0, le=1.000001, description="The map there; not calibrated.", examples=[0.913])


class Milliseconds(_Answer):
    """How long the image took. ``total`` includes waiting for a worker."""

    decode: float = Field(ge=0, examples=[3.1])
    inference: float = Field(ge=0, examples=[21.7])
    render: float = Field(ge=0, description="The heat map, and the check of light and focus.", examples=[2.4])
    total: float = Field(ge=0, examples=[28.0])


class Inspection(_Answer):
    """What the champion says about one image."""

    id: str = Field(description="Of this inspection, for /v1/recent.", examples=["Yk3nRrX0Q5b2"])
    line: str = Field(examples=["sample"])
    version: str = Field(description="The champion that looked at it.", examples=["7"])
    score: float = Field(ge=0, le=1.000001, examples=[0.9821])
    threshold: float = Field(description="Scores above it are anomalous.", examples=[0.5])
    is_anomalous: bool = Field(examples=[True])
    verdict: Verdict = Field(examples=["anomalous"])
    width: int = Field(ge=1, description="Pixels, after EXIF rotation.", examples=[256])
    height: int = Field(ge=1, examples=[256])
    peak: Peak
    picture: list[Complaint] = Field(
        description="How the picture differs in light and focus from the line's good ones; empty if it does not, or if "
        "the model does not know. The verdict stands, but look at the camera, too.",
        examples=[["blurred"]],
    )
    ms: Milliseconds
    request_id: str = Field(examples=[_REQUEST_ID])
    heat_map: str | None = Field(
        description="With heat_map=true: a PNG (base64) to lay over the whole image, scaled to its size; the more "
        "anomalous, the more opaque.",
        examples=[None],
    )
    heat_map_url: str | None = Field(
        description="Where the heat map can be had while the inspection is among the recent ones; null if none are "
        "kept.",
        examples=["/v1/recent/Yk3nRrX0Q5b2/heat-map.png"],
    )


class BatchResult(_Answer):
    """One image of a batch: its inspection, or what was wrong with it."""

    index: int = Field(ge=0, description="Its place in the form, from 0.", examples=[0])
    status: int = Field(description="What the image alone would have been answered with.", examples=[200])
    inspection: Inspection | None
    problem: Problem | None


class Batch(_Answer):
    """All images of a batch, in the order in which they came."""

    line: str = Field(examples=["sample"])
    request_id: str = Field(examples=[_REQUEST_ID])
    images: int = Field(ge=0, examples=[2])
    anomalous: int = Field(ge=0, examples=[1])
    failed: int = Field(ge=0, examples=[0])
    results: list[BatchResult]


class LineStatus(_Answer):
    """One line and the model that is in service for it."""

    line: str = Field(examples=["sample"])
    ready: bool = Field(description="Whether it has a model.", examples=[True])
    version: str | None = Field(examples=["7"])
    sha256: str | None = Field(description="Of the model's file.", examples=["3f" * 32])
    threshold: float | None = Field(examples=[0.5])
    loaded_at: datetime | None = Field(examples=["2026-03-02T06:00:11Z"])
    source: str | None = Field(description="Where the model came from.", examples=["http://mlflow:5000"])
    model: dict[str, str] = Field(
        description="What is known of the version: figures on the test set, who promoted it and when.",
        examples=[{"image_auroc": "0.981", "promoted_by": "quality"}],
    )
    swaps: int = Field(ge=0, description="Champions since the start, after the first.", examples=[2])
    failed_swaps: int = Field(ge=0, examples=[0])
    last_error: str | None = Field(description="Why the newest champion is not in service.", examples=[None])


class SourceStatus(_Answer):
    """The registry, as it answered last."""

    name: str = Field(examples=["http://mlflow:5000"])
    answered_at: datetime | None = Field(examples=["2026-03-02T06:00:11Z"])
    error: str | None = Field(examples=[None])


class ServerLimits(_Answer):
    """What the server takes."""

    upload_bytes: int = Field(ge=1, examples=[33554432])
    pixels: int = Field(ge=1, examples=[25000000])
    batch: int = Field(ge=1, examples=[16])
    recent: int = Field(ge=0, examples=[24])


class Status(_Answer):
    """All lines that this server serves."""

    ready: bool = Field(
        description="Whether every line that was named has a model; where all are served, any line.", examples=[True]
    )
    source: SourceStatus
    limits: ServerLimits
    lines: list[LineStatus]


class Refreshed(_Answer):
    """What came of asking the registry."""

    outcome: Literal["swapped", "unchanged", "refused", "unreachable"] = Field(examples=["swapped"])
    line: LineStatus


class RecentInspection(Inspection):
    """An inspection that is remembered."""

    inspected_at: datetime = Field(examples=["2026-03-02T06:12:40Z"])


class Recent(_Answer):
    """The last inspections, the newest first."""

    kept: int = Field(ge=0, description="How many are kept at most; 0: none.", examples=[24])
    inspections: list[RecentInspection]


class Health(_Answer):
    """Live, or ready."""

    status: Literal["live", "ready"] = Field(examples=["live"])
