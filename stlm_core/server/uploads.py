"""Bodies of requests in, within their limits: bytes, time, content type. Nothing is written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError
from stlm_core.server.settings import MIB, Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
ONE_FIELD, MANY_FIELD = "image", "images"
_ANY_BYTES = "application/octet-stream"


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    field: str
    content: bytes


class Buffer:
    """How many bytes of bodies all requests together hold in memory."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics, self._held = limits, metrics, 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A request's part of it, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self._add(-share.held)

    def _add(self, count: int) -> None:
        self._held += count
        self._metrics.buffered.set(self._held)

    def take(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            ProblemError: 503, there is no room.
        """
        if self._held + count > self._limits.buffered_bytes:
            raise ProblemError(503, "too many bytes of other requests are in memory; try again in a moment")
        self._add(count)


class Share:
    """What one request holds of the :class:`Buffer`."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer, self.held = buffer, 0

    def take(self, count: int) -> None:
        """See :meth:`Buffer.take`."""
        self._buffer.take(count)
        self.held += count


async def read_body(request: Request, share: Share, limits: Limits) -> bytes:
    """All bytes of the body.

    Raises:
        ProblemError: 408 too slow, 413 too large, 400 the connection broke off, 503 no room.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.upload_bytes:
        raise _too_large(limits)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > limits.upload_bytes:
                    raise _too_large(limits)
                share.take(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {limits.body_seconds:g} seconds") from None
    except ClientDisconnect:
        raise ProblemError(400, "the connection broke off before the body was whole") from None
    return b"".join(pieces)


def media_type(request: Request) -> str:
    """The content type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def one_image(request: Request, share: Share, limits: Limits) -> bytes:
    """The body itself, or the part ``image`` of a form.

    Raises:
        ProblemError: as :func:`read_body`, 415 for another content type, 400 for a form with anything else.
    """
    kind = media_type(request)
    if kind == FORM:
        contents = await _form(request, share, limits, ONE_FIELD)
        if len(contents) != 1:
            raise ProblemError(400, f"the form has {len(contents)} files; send one, or use inspect-batch")
        return contents[0]
    if kind.startswith("image/") or kind == _ANY_BYTES:
        return await read_body(request, share, limits)
    raise ProblemError(415, f"send an image (image/*, {_ANY_BYTES}) or a form ({FORM}), not `{kind[:80] or 'nothing'}`")


async def many_images(request: Request, share: Share, limits: Limits) -> list[bytes]:
    """The parts ``images`` of a form, one or more.

    Raises:
        ProblemError: as :func:`read_body`, 415 for another content type, 400 for a form with anything else, 413 for
            too many images.
    """
    kind = media_type(request)
    if kind != FORM:
        raise ProblemError(415, f"send a form ({FORM}) with parts `{MANY_FIELD}`, not `{kind[:80] or 'nothing'}`")
    return await _form(request, share, limits, MANY_FIELD)


async def _form(request: Request, share: Share, limits: Limits, field: str) -> list[bytes]:
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise ProblemError(400, "the form's content type has no boundary")
    body = await read_body(request, share, limits)
    parts = await asyncio.to_thread(parse_form, body, boundary, limits.batch)  # a crafted one takes seconds
    if other := sorted({part.field for part in parts} - {field}):
        raise ProblemError(400, f"the form has a part `{other[0][:80]}`; its parts must be called `{field}`")
    if not parts:
        raise ProblemError(400, f"the form is empty; send a part `{field}`")
    return [part.content for part in parts]


def parse_form(body: bytes, boundary: bytes, most_parts: int) -> list[Part]:
    """The parts of a ``multipart/form-data`` body.

    Raises:
        ProblemError: 400 the body is not such a form, 413 it has more than ``most_parts`` parts.
    """
    reader = _FormReader(body, most_parts)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ProblemError(400, "the form is damaged") from None
    if not reader.ended:
        raise ProblemError(400, "the form breaks off before its end")
    return reader.parts


class _FormReader:
    """Collects parts as slices of the body: the parser says where they are."""

    def __init__(self, body: bytes, most_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._body, self._most, self._count = body, most_parts, 0
        self._name, self._value, self._disposition = bytearray(), bytearray(), b""
        self._pieces: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        self._count += 1
        if self._count > self._most:
            raise ProblemError(413, f"more than the {self._most} images that this server takes in one batch")
        self._disposition, self._pieces = b"", []

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def part_end(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self.parts.append(Part(options.get(b"name", b"").decode("utf-8", "replace"), b"".join(self._pieces)))

    def end(self) -> None:
        self.ended = True


def _too_large(limits: Limits) -> ProblemError:
    return ProblemError(413, f"the body is larger than the {limits.upload_bytes / MIB:g} MiB that this server takes")
