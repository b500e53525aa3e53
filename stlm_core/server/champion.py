"""A model on its way into service: verified, opened, tested, warmed up; only then may it answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stlm_core.errors import StlmError
from stlm_core.integrity import verify_model
from stlm_core.runtime.model import DetectorSession

_ODD_SIZE = (61, 97)  # height, width: no multiple of anything that a network likes
_WARM_UP_RUNS = 3
_LARGEST_TEST = 2048  # pixels a side, whatever the model's metadata claims


@dataclass(frozen=True)
class Candidate:
    """What a source offers for a line.

    ``version``: the registry's number, or the first digits of a file's hash. ``signature``: base64, None if unsigned.
    ``source``: where it comes from, fit for logs. ``tags``: the registry's figures of it.
    """

    line: str
    version: str
    sha256: str
    signature: str | None
    source: str
    tags: Mapping[str, str]

    @property
    def identity(self) -> tuple[str, str]:
        """What tells candidates of one line apart."""
        return self.version, self.sha256


@dataclass(frozen=True)
class Champion:
    """A model in service. A request keeps the one that it began with, so a swap disturbs nobody."""

    candidate: Candidate
    session: DetectorSession
    loaded_at: datetime
    warm_ms: float

    @property
    def version(self) -> str:
        """See :class:`Candidate`."""
        return self.candidate.version


def prepare(candidate: Candidate, content: bytes, *, public_key: Path | None, threads: int) -> Champion:
    """Make a candidate fit for service.

    Args:
        content: the file's bytes, not trusted yet.
        public_key: with it, a valid signature is required.
        threads: see :class:`~stlm_core.server.settings.Limits`.

    Raises:
        StlmError: the bytes are not those that the registry names or are not signed, the file is not a detector of
            this line, or it fails its self-test.
    """
    verify_model(
        content,
        line=candidate.line,
        sha256=candidate.sha256,
        signature=candidate.signature,
        public_key=public_key,
    )
    session = DetectorSession(content, threads=threads, name=f"{candidate.line} version {candidate.version}")
    if session.line != candidate.line:
        raise StlmError(f"{session.name}: the file is a detector of line {session.line}")
    return Champion(candidate, session, datetime.now(UTC), self_test(session))


def self_test(session: DetectorSession) -> float:
    """Run synthetic images through a session; returns the milliseconds of one image once it is warm.

    Raises:
        StlmError: inference fails, or an output has the wrong shape, leaves [0, 1], contradicts the threshold, or
            differs between two runs of the same image.
    """
    side = _test_side(session)
    image = _test_image(side, side, spot=False)
    _check(session, image)
    _check(session, _test_image(*_ODD_SIZE, spot=True))
    times = []
    for _ in range(_WARM_UP_RUNS):
        began = time.perf_counter()
        session.predict(image)
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def _test_side(session: DetectorSession) -> int:
    try:
        side = int(session.metadata["image_size"])
    except ValueError:
        raise StlmError(f"{session.name}: metadata `image_size` is not a whole number") from None
    return min(max(side, 1), _LARGEST_TEST)


def _test_image(height: int, width: int, *, spot: bool) -> npt.NDArray[np.uint8]:
    """A ramp with noise, and with a bright spot where asked for: uint8 (1, H, W, 3)."""
    noise = np.random.default_rng(0).integers(0, 64, (1, height, width, 3))
    noise += np.linspace(0, 160, width, dtype=np.int64)[None, None, :, None]
    if spot:
        noise[:, : max(1, height // 8), : max(1, width // 8)] = 255
    return noise.astype(np.uint8)


def _check(session: DetectorSession, image: npt.NDArray[np.uint8]) -> None:
    failed = f"{session.name}: failed its self-test"
    try:
        first, again = session.predict(image), session.predict(image)
    except StlmError as error:
        raise StlmError(f"{failed}: {str(error).removeprefix(f'{session.name}: ')}") from None
    session.complaints(image[0])
    shape = image.shape[:3]
    problem = None
    if first.scores.shape != shape[:1] or first.anomaly_maps.shape != shape or first.is_anomalous.shape != shape[:1]:
        problem = f"outputs {first.scores.shape}, {first.anomaly_maps.shape} for an image of {shape[1]} x {shape[2]}"
    elif (first.scores > np.float32(session.threshold)).tolist() != first.is_anomalous.tolist():
        problem = f"its decision is not that of its threshold {session.threshold}"
    elif not all(
        np.array_equal(one, other)
        for one, other in (
            (first.scores, again.scores),
            (first.anomaly_maps, again.anomaly_maps),
            (first.is_anomalous, again.is_anomalous),
        )
    ):
        problem = "two runs of one image differ"
    if problem:
        raise StlmError(f"{failed}: {problem}")
