"""One call of the Kubeflow Pipelines API: address, token, patience, and one sentence for each way it can fail.

The calls themselves are those of ``kfp_server_api``, the client that KFP generates from its own protocol: paths, fields
and types are KFP's. ``kfp.Client`` is built on the same package, but looks for a cluster configuration, keeps a file in
the home folder and never retries.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp_server_api
import urllib3
from kfp_server_api.exceptions import ApiException

from stlm_core.errors import StlmError, UserError

T = TypeVar("T")
_BUSY = (502, 503)
_TIMED_OUT = 504
PAUSES = (0.5, 2.0, 5.0)  # seconds before the second, third and fourth attempt


class Unavailable(StlmError):
    """The API cannot be reached or does not answer; it may later."""


class Unanswered(Unavailable):
    """No answer in time: what was asked for may have happened, or happen yet."""


class NotFound(StlmError):
    """The API knows no such object."""


class Conflict(StlmError):
    """An object of that name exists."""


@dataclass(frozen=True)
class Endpoint:
    """Where the API is and how to speak to it.

    ``token`` wins over ``token_file``, which is read again for every call: a cluster replaces mounted tokens every
    hour. ``timeout``: seconds to wait for a connection, and for an answer.
    """

    address: str
    namespace: str = "stlm"
    token: str = ""
    token_file: Path | None = None
    ca_bundle: Path | None = None
    timeout: tuple[float, float] = (10.0, 60.0)

    @classmethod
    def from_environment(
        cls, address: str | None, namespace: str, environment: Mapping[str, str] = os.environ
    ) -> Endpoint:
        """The endpoint of the options and of KFP_ENDPOINT, KFP_TOKEN, KFP_TOKEN_FILE, REQUESTS_CA_BUNDLE.

        Raises:
            UserError: the address is missing or is none, or a named file does not exist.
        """
        address = (address or environment.get("KFP_ENDPOINT", "")).rstrip("/")
        if not address:
            raise UserError("KFP_ENDPOINT: not set; pass --endpoint or set it to the address of Kubeflow Pipelines")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--endpoint: {address!r} must begin with http:// or https:// and a host")
        if parts.username or parts.password:
            raise UserError("--endpoint: put no credentials into the address; set KFP_TOKEN or KFP_TOKEN_FILE")
        bundle = environment.get("REQUESTS_CA_BUNDLE")
        if bundle and not Path(bundle).is_file():
            raise UserError(f"REQUESTS_CA_BUNDLE: {bundle}: no such file")
        file = environment.get("KFP_TOKEN_FILE")
        return cls(
            address,
            namespace,
            environment.get("KFP_TOKEN", "").strip(),
            Path(file) if file else None,
            Path(bundle) if bundle else None,
        )

    def bearer(self) -> str:
        """The value of the Authorization header.

        Raises:
            UserError: the token's file cannot be read, or the token is no header value.
        """
        token = self.token
        if not token and self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                raise UserError(f"KFP_TOKEN_FILE: {self.token_file}: cannot be read as a token") from None
        if not token:
            raise UserError(f"KFP_TOKEN_FILE: {self.token_file}: is empty")
        if not token.isascii() or any(not character.isprintable() or character == " " for character in token):
            raise UserError("KFP_TOKEN: has characters that no token has, a line break for example")
        return f"Bearer {token}"


class _Client(kfp_server_api.ApiClient):  # type: ignore[misc]  # untyped
    """The generated client, which trips over an error without a body or with one that is not UTF-8."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().request(*arguments, **options)
        except ApiException as error:
            error.body = (error.body or b"").decode(errors="replace").encode()
            raise


class Connection:
    """Calls with retries, :data:`PAUSES` apart."""

    def __init__(self, endpoint: Endpoint) -> None:
        configuration = kfp_server_api.Configuration(host=endpoint.address)
        configuration.ssl_ca_cert = str(endpoint.ca_bundle) if endpoint.ca_bundle else None
        # Neither retries nor redirects of the HTTP library: a redirect is a login page, and which calls may be made
        # again is decided here.
        configuration.retries = False
        if endpoint.token or endpoint.token_file:
            configuration.api_key["authorization"] = ""
            configuration.refresh_api_key_hook = lambda own: own.api_key.update(authorization=endpoint.bearer())
        parts = urlsplit(endpoint.address)
        if not urllib.request.proxy_bypass(parts.hostname or ""):
            configuration.proxy = urllib.request.getproxies().get(parts.scheme)
        self.endpoint = endpoint
        self.client = _Client(configuration)

    def call(self, what: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """The answer of a call that may be made more than once: reading, deleting, switching.

        Raises:
            StlmError: it failed, for good or after the last attempt; ``what`` says what was tried.
        """
        for pause in PAUSES:
            try:
                return self._once(what, function, *arguments, **options)
            except Unavailable:
                time.sleep(pause)
        return self._once(what, function, *arguments, **options)

    def create(self, what: str, function: Callable[..., T], find: Callable[[], T | None], **options: Any) -> T:
        """What ``function`` creates, once, though an answer may be lost: ``find`` looks for it before another attempt.

        Raises:
            Unanswered: no answer in time, and nothing to be found yet. Creating again could make two.
            StlmError: it failed for good or after the last attempt.
        """
        for pause in (*PAUSES, None):
            try:
                return self._once(what, function, **options)
            except (Unavailable, Conflict) as error:
                if pause is not None:
                    time.sleep(pause)
                found = find()
                if found is not None:
                    return found
                if pause is None or isinstance(error, Unanswered | Conflict):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _once(self, what: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        address = self.endpoint.address
        try:
            answer = function(*arguments, **options, _request_timeout=self.endpoint.timeout)
        except ApiException as error:
            raise self._failure(what, error) from None
        except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
            raise Unanswered(f"{what}: {address} gave no answer within {self.endpoint.timeout[1]:g} s") from None
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{what}: {address} cannot be reached: {_reason(error)}") from None
        except ValueError as error:
            raise UserError(f"{what}: {address} gave an answer that cannot be read: {error}") from None
        self._must_be_json(what)
        return answer

    def _must_be_json(self, what: str) -> None:
        """An auth proxy answers with its login page and status 200, which the client reads as an empty object."""
        response = self.client.last_response
        kind = response.getheader("content-type", "")
        if not kind.startswith("application/json") or not _is_object(response.data):
            raise UserError(
                f"{what}: {self.endpoint.address} answered with {kind or 'something'} instead of a JSON object: a "
                "login page or another service; check the address and KFP_TOKEN"
            )

    def _failure(self, what: str, error: ApiException) -> StlmError:
        address, status = self.endpoint.address, error.status
        said = _said(error.body)
        if not status:  # TLS failed, before there was an answer
            return UserError(
                f"{what}: no trusted connection to {address}: {str(error.reason).rpartition(': ')[2]}; "
                "set REQUESTS_CA_BUNDLE to the file of the certificate's issuer"
            )
        if status in (401, 403):
            known = "the token is refused"
            if status == 403:
                known = f"the token may not do that in the namespace {self.endpoint.namespace}"
            return UserError(f"{what}: {address} says {status}: {known}; check KFP_TOKEN or KFP_TOKEN_FILE{said}")
        if status in (301, 302, 303, 307, 308):
            return UserError(f"{what}: {address} redirects, as a login page does; check the address and KFP_TOKEN")
        if status == 404:
            return NotFound(f"{what}: {address} says 404, not found{said}")
        if status == 409:
            return Conflict(f"{what}: {address} says 409, it exists already{said}")
        if status == _TIMED_OUT:
            return Unanswered(f"{what}: {address} says 504: no answer in time{said}")
        if status in _BUSY:
            return Unavailable(f"{what}: {address} says {status}: not ready{said}")
        return StlmError(f"{what}: {address} says {status}{said}")


def _is_object(body: str) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _said(body: str | None) -> str:
    """The server's own reason in one line: gRPC's message, or that of an upload."""
    try:
        tree = json.loads(body or "")
    except ValueError:
        return ""
    if not isinstance(tree, dict):
        return ""
    details = [part.get("message") for part in tree.get("details") or [] if isinstance(part, dict)]
    reason = next((text for text in (*details, tree.get("error_message"), tree.get("message")) if text), "")
    return f" ({' '.join(str(reason).split())[:500]})" if reason else ""


def _reason(error: Exception) -> str:
    """What went wrong on the network, without urllib3's chain of messages around it."""
    cause = error.__cause__ or error
    inner = cause.args[-1] if cause.args else cause
    return str(getattr(cause, "strerror", None) or getattr(inner, "strerror", None) or inner or type(error).__name__)
