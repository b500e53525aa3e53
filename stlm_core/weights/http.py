"""An ``http(s)://`` address as a resumable source."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from stlm_core.addresses import without_credentials
from stlm_core.errors import UserError
from stlm_core.weights.download import ByteStream, Opened, RangeOpener, RangeRefusedError, TransferInterruptedError

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_RANGE_NOT_SATISFIABLE = 416
_PARTIAL_CONTENT = 206


def http_opener(address: str, timeout: float) -> RangeOpener:
    """Opens ``address`` from any byte offset on; plain ``http`` is accepted since every file is pinned by its hash.

    Raises:
        UserError: the address has no host, or carries a user name or password.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise UserError(f"`{without_credentials(address)}`: not a usable address: {error}") from None
    if not host:
        raise UserError(f"{without_credentials(address)}: not a usable address: it has no host name")
    if "@" in parts.netloc:
        raise UserError(f"{without_credentials(address)}: a user name or password in the address is not supported")

    @contextmanager
    def open_at(offset: int) -> Iterator[Opened]:
        request = urllib.request.Request(address, headers={"User-Agent": "stlm"})
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            response = _web().open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            raise _refusal(error, address) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise TransferInterruptedError(f"cannot be reached: {_reason(error)}") from None
        except (ValueError, UnicodeError) as error:
            raise UserError(f"{without_credentials(address)}: not a usable address: {error}") from None
        with response:
            start, total = _extent(response, offset)
            yield Opened(_BodyStream(response), start, total)

    return open_at


def _web() -> urllib.request.OpenerDirector:
    """http and https only: a redirect to another scheme (file, ftp) is refused."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director


def _refusal(error: urllib.error.HTTPError, address: str) -> Exception:
    if error.code == _RANGE_NOT_SATISFIABLE:
        return RangeRefusedError()
    answer = f"the server answers {error.code} {error.reason}"
    if error.code in _PASSING_STATUS:
        return TransferInterruptedError(answer)
    return UserError(f"{without_credentials(address)}: {answer}; check the address, or give another one with --from")


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """First byte's offset and size of the whole file, as far as the headers say."""
    if response.status == _PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != offset:
            raise TransferInterruptedError("the server answers with another range than asked for")
        return offset, None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


class _BodyStream:
    def __init__(self, response: ByteStream) -> None:
        self._response = response

    def read(self, size: int, /) -> bytes:
        try:
            return self._response.read(size)
        except http.client.IncompleteRead as error:
            return error.partial
        except (http.client.HTTPException, OSError) as error:
            raise TransferInterruptedError(f"the connection broke: {_reason(error)}") from None
