"""S3 objects: one as a resumable source of weights, many as images to copy.

Endpoint, region and credentials are what boto3 finds by itself: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and so
on, or the user's AWS profile. None of them appears in a message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore import exceptions
from botocore.config import Config

from stlm_core.errors import UserError
from stlm_core.weights.download import (
    ByteStream,
    Opened,
    Patience,
    RangeOpener,
    RangeRefusedError,
    TransferInterruptedError,
)

_ADDRESS = re.compile(r"s3://([^/]+)/(.+)")
_CONTENT_RANGE = re.compile(r"bytes \d+-\d+/(\d+)")
_FIRST_SERVER_ERROR = 500
_CHUNK = 1 << 20
_REFUSALS = {
    "NoSuchKey": "no such object",
    "404": "no such object",
    "NoSuchBucket": "no such bucket",
    "AccessDenied": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "403": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "InvalidAccessKeyId": "unknown access key; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "wrong secret; check AWS_SECRET_ACCESS_KEY",
}


class ObjectCopier:
    """Copies many objects over one client; threads may share it."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._client = _client(self._patience.timeout)

    def copy(self, address: str, target: Path) -> str:
        """Copy ``s3://bucket/key`` to ``target``, which appears when it is whole.

        A broken transfer goes on from where it broke, as often as the copier's patience allows; if the object has
        changed by then, from its beginning.

        Returns:
            The object's ETag, for :meth:`is_same`; empty if the store gives none.

        Raises:
            UserError: see :func:`s3_opener`; the store stayed unreachable, or ``target`` cannot be written.
        """
        open_at = s3_opener(address, self._patience.timeout, self._client)
        part = target.with_name(f"{target.name}.part")
        failures, etag = 0, ""
        try:
            with part.open("wb") as stream:
                while True:
                    reason, etag = _append(open_at, stream, etag)
                    if reason is None:
                        break
                    failures += 1
                    if failures >= self._patience.attempts:
                        raise UserError(
                            f"{address}: {reason} (tried {failures} times); check the network and "
                            "AWS_ENDPOINT_URL, then run the command again to continue"
                        )
                    time.sleep(self._patience.pause * 2 ** (failures - 1))
            part.replace(target)
        except OSError as error:
            raise UserError(f"{target}: cannot be written: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)
        return etag

    def is_same(self, address: str, copy: Path, etag: str) -> bool:
        """Whether the object is still the one that ``copy`` was made of, by its ETag; False where that is not known.

        Why the store does not tell is not said here: :meth:`copy`, which is to follow, says it better.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None or not etag:
            return False
        try:
            head = self._client.head_object(Bucket=match[1], Key=match[2])
        except (exceptions.ClientError, exceptions.BotoCoreError, ValueError):
            return False
        return bool(head.get("ETag") == etag and head.get("ContentLength") == copy.stat().st_size)


def _append(open_at: RangeOpener, stream: BinaryIO, etag: str) -> tuple[str | None, str]:
    """Append to ``stream`` what is missing of the object, of which it holds the beginning that had ``etag``.

    Returns:
        Why the transfer broke, None if it did not; the ETag of what ``stream`` holds.
    """
    start = stream.tell()
    try:
        with open_at(start) as opened:
            if opened.start and opened.etag != etag:
                raise RangeRefusedError
            etag = opened.etag
            stream.seek(opened.start)
            stream.truncate()
            while chunk := opened.stream.read(_CHUNK):
                stream.write(chunk)
            if opened.total is not None and stream.tell() < opened.total:
                return f"it ended after {stream.tell()} of {opened.total} bytes", etag
    except RangeRefusedError:  # the object shrank or was exchanged meanwhile
        stream.seek(0)
        stream.truncate()
        return "it changed while it was read", ""
    except TransferInterruptedError as error:
        return str(error), etag
    return None, etag


def s3_opener(address: str, timeout: float, client: Any = None) -> RangeOpener:
    """Opens ``s3://bucket/key`` from any byte offset on. ``timeout``: seconds without a byte; ``client``: to reuse one.

    Raises (here or on opening):
        UserError: not an S3 address, no credentials, or the store refuses (missing object, access denied).
        TransferInterruptedError: the store cannot be reached or fails by itself.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address}: not an S3 address; it needs to be s3://bucket/key")
    bucket, key = match.groups()
    client = client or _client(timeout)

    @contextmanager
    def open_at(offset: int) -> Iterator[Opened]:
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = client.get_object(Bucket=bucket, Key=key, **wanted)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise UserError(f"{address}: no S3 credentials; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY") from None
        except exceptions.ClientError as error:
            raise _refusal(error, address) from None
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise TransferInterruptedError(f"the store cannot be reached: {type(error).__name__}") from None
        except (exceptions.BotoCoreError, ValueError) as error:
            raise UserError(f"{address}: {error}") from None
        body = answer["Body"]
        try:
            yield Opened(_Body(body), *_extent(answer, offset), etag=str(answer.get("ETag", "")))
        finally:
            body.close()

    return open_at


def _client(timeout: float) -> Any:
    # a session of its own: the default one keeps the first credentials it met
    patient = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    try:
        return boto3.session.Session().client("s3", config=patient)
    except (exceptions.BotoCoreError, ValueError) as error:
        raise UserError(
            f"S3: the settings cannot be used: {error}; check AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
        ) from None


def _refusal(error: Any, address: str) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "InvalidRange":
        return RangeRefusedError()
    if status >= _FIRST_SERVER_ERROR or code in ("SlowDown", "RequestTimeout"):
        return TransferInterruptedError(f"the store answers {code or status}")
    return UserError(f"{address}: {_REFUSALS.get(code, f'the store answers {code or status}')}")


def _extent(answer: Any, offset: int) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if match is not None:
        return offset, int(match[1])
    return 0, int(answer["ContentLength"])


class _Body:
    def __init__(self, body: ByteStream) -> None:
        self._body = body

    def read(self, size: int, /) -> bytes:
        try:
            return self._body.read(size)
        except (exceptions.HTTPClientError, exceptions.IncompleteReadError, OSError) as error:
            raise TransferInterruptedError(f"the connection broke: {type(error).__name__}") from None
