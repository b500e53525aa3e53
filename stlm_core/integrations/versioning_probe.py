"""One question to a remote before a transfer, because DVC takes long to give up and does not say why it is refused.

Also the client and the sentences for whoever else reads a bucket.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore import exceptions
from botocore.config import Config

from stlm_core.addresses import plain_address
from stlm_core.errors import UserError
from stlm_core.integrations.versioning_failures import (
    UnreachableError,
    is_connection_failure,
    store_failure,
    without_secrets,
)
from stlm_core.weights.download import Patience

Result = TypeVar("Result")
PATIENCE = Patience(attempts=5, pause=2.0)
CONNECT_SECONDS, READ_SECONDS = 5, 10
_SCHEME = "s3://"


@dataclass(frozen=True)
class Remote:
    """A place DVC keeps data: ``url`` is a folder's absolute path or ``s3://bucket/prefix``.

    ``options``: its other settings in DVC's configuration, possibly with secrets, so never shown.
    """

    name: str
    url: str
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_s3(self) -> bool:
        """Whether it is a bucket, not a folder."""
        return self.url.startswith(_SCHEME)

    def __str__(self) -> str:
        if not self.is_s3:
            return f"remote `{self.name}` ({self.url})"
        endpoint = self.options.get("endpointurl")
        at = f" at {plain_address(endpoint)}" if endpoint else ""
        return f"remote `{self.name}` ({plain_address(self.url)}{at})"


def probe(remote: Remote) -> None:
    """Make sure that the remote answers and lets us in; takes at most about 15 s.

    Raises:
        UserError: a folder that is not there, or a store that cannot be reached, refuses, or has no such bucket.
    """
    if not remote.is_s3:
        if not Path(remote.url).is_dir():
            raise UserError(f"{remote}: no such folder; mount it or make it")
        return
    bucket, _, prefix = remote.url.removeprefix(_SCHEME).partition("/")
    with bucket_errors(str(remote)):
        s3_client(remote.options).list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)


@contextmanager
def bucket_errors(subject: str) -> Iterator[None]:
    """What boto3 raises inside, as one sentence about ``subject``.

    Raises:
        UserError: the store refuses; ``UnreachableError`` if it cannot be reached.
    """
    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = store_failure(code) or store_failure(str(error))
        kind: type[UserError] = UnreachableError if is_connection_failure(str(error)) else UserError
        raise kind(f"{subject}: {said or f'the store answers {without_secrets(code)}'}") from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        reason = "does not answer" if isinstance(error, exceptions.ReadTimeoutError) else "cannot be reached"
        kind = UnreachableError
        if isinstance(error, exceptions.SSLError):
            reason, kind = store_failure("SSL") or reason, UserError
        raise kind(f"{subject}: {reason}; check the address and the network, and run the command again") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        said = store_failure(type(error).__name__) or store_failure(str(error))
        raise UserError(f"{subject}: {said or without_secrets(' '.join(str(error).split()))}") from None


def patiently(action: Callable[[], Result], patience: Patience = PATIENCE) -> Result:
    """The result of ``action``, which is repeated while a store does not answer; every repetition is told.

    Raises:
        UnreachableError: it did not answer the last time either.
    """
    for attempt in range(1, patience.attempts):
        try:
            return action()
        except UnreachableError as error:
            pause = patience.pause * 2 ** (attempt - 1)
            print(f"{error} (attempt {attempt} of {patience.attempts}, next in {pause:g} s)", file=sys.stderr)
            time.sleep(pause)
    return action()


def s3_client(options: Mapping[str, str]) -> Any:
    """A client with DVC's settings of the remote where it has them, and what boto3 finds by itself otherwise."""
    session = boto3.session.Session(
        profile_name=options.get("profile"),
        aws_access_key_id=options.get("access_key_id"),
        aws_secret_access_key=options.get("secret_access_key"),
        aws_session_token=options.get("session_token"),
        region_name=options.get("region"),
    )
    patience = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 1},
        max_pool_connections=1,
    )
    verify = options.get("ssl_verify")
    return session.client(
        "s3",
        endpoint_url=options.get("endpointurl"),
        config=patience,
        verify=False if verify in ("false", "False") else verify if verify not in (None, "true", "True") else None,
    )
