"""What the server is told at its start: limits, and the secrets of its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stlm_core.errors import UserError
from stlm_core.integrity import VERIFY_KEY

KEY_VARIABLE, KEY_FILE_VARIABLE = "STLM_API_KEY", "STLM_API_KEY_FILE"
SHORTEST_KEY = 16  # characters; shorter ones can be guessed
MIB = 1 << 20


_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores(quota: Path = _CPU_QUOTA) -> int:
    """Processors that this process may use: those of its affinity, no more than its container's share of time.

    ``quota``: where Linux tells the share (control groups, version 2).
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        share = int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max"
        return own
    return max(1, min(own, round(share)))


@dataclass(frozen=True)
class Limits:
    """How much one server takes on.

    Attributes:
        workers: images that are worked on at the same time; one a core is the most that helps.
        threads: threads inside one operator of the network, for each worker.
        queue: images that may wait for a worker; further ones get 503.
        upload_bytes: of one request's body, all images of a batch together.
        buffered_bytes: of the bodies of all requests in progress.
        pixels: of one image, as its header announces.
        batch: images in one batch.
        head_seconds, body_seconds: until a request's headers, and then its body, have arrived.
        work_seconds: from the last byte of the body to the answer, waiting included.
        drain_seconds: how long requests in progress may take after the signal to stop.
        recent: inspections that are remembered for the page; 0 switches it off.
    """

    workers: int = field(default_factory=cores)
    threads: int = 1
    queue: int = 32
    upload_bytes: int = 32 * MIB
    buffered_bytes: int = 256 * MIB
    pixels: int = 25_000_000
    batch: int = 16
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    work_seconds: float = 30.0
    drain_seconds: int = 30
    recent: int = 24

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("threads", 1), ("queue", 0), ("batch", 1), ("pixels", 1), ("recent", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is less than {least}")
        if self.batch > self.workers + self.queue:
            raise UserError(
                f"batch: {self.batch} images are more than the {self.workers + self.queue} that workers and queue "
                "hold; allow a longer queue"
            )
        if self.upload_bytes > self.buffered_bytes:
            raise UserError(
                f"upload: {self.upload_bytes // MIB} MiB are more than the {self.buffered_bytes // MIB} MiB that all "
                "requests together may hold"
            )

    @property
    def places(self) -> int:
        """Images that are worked on or wait."""
        return self.workers + self.queue


def api_key(environment: Mapping[str, str]) -> bytes | None:
    """The key that callers must show: ``STLM_API_KEY``, or the content of the file ``STLM_API_KEY_FILE``.

    Raises:
        UserError: both are set, the file cannot be read, or the key is too short or not printable ASCII.
    """
    direct, file = environment.get(KEY_VARIABLE), environment.get(KEY_FILE_VARIABLE)
    if direct is not None and file is not None:
        raise UserError(f"{KEY_VARIABLE} and {KEY_FILE_VARIABLE} are both set; keep one")
    if file is not None:
        try:
            direct = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{KEY_FILE_VARIABLE}: {file}: cannot be read: {_why(error)}") from None
    if direct is None:
        return None
    name = KEY_VARIABLE if file is None else f"{KEY_FILE_VARIABLE}: {file}"
    if len(direct) < SHORTEST_KEY or not all("!" <= character <= "~" for character in direct):
        raise UserError(f"{name}: a key is {SHORTEST_KEY} or more printable ASCII characters without spaces")
    return direct.encode()


def verify_key(environment: Mapping[str, str]) -> Path | None:
    """Path of the public key with which models must be signed, from ``STLM_VERIFY_KEY``.

    Raises:
        UserError: there is no such file.
    """
    named = environment.get(VERIFY_KEY)
    if not named:
        return None
    if not Path(named).is_file():
        raise UserError(f"{VERIFY_KEY}: {named}: no such file; give the path of the public key (PEM)")
    return Path(named)


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"
