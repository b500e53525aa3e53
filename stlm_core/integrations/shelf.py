"""Small files under names, in a bucket or on a shared disk: where versions of the lines' data are published."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botocore import exceptions

from stlm_core.addresses import plain_address
from stlm_core.errors import UserError
from stlm_core.files import write_bytes_atomic
from stlm_core.integrations.versioning_probe import bucket_errors, patiently, s3_client

URL_VARIABLE = "STLM_DATA_URL"
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^?#@\s]*))?")
_ABSENT = ("NoSuchKey", "404")


class Shelf:
    """A folder or ``s3://bucket/prefix``; a file there is replaced at once or not at all.

    Endpoint, region and credentials of a bucket are what boto3 finds by itself. A silent one is tried again.

    Args:
        url: None for the one in ``STLM_DATA_URL``.
        options: settings of the DVC remote, for what the environment does not say.

    Raises:
        UserError: no address, or one that is neither a folder that exists nor a bucket's.
    """

    def __init__(self, url: str | None, options: Mapping[str, str] | None = None) -> None:
        url = url or os.environ.get(URL_VARIABLE, "").strip()
        if not url:
            raise UserError(f"no address of published versions: set {URL_VARIABLE} to a folder or s3://bucket/prefix")
        self.url = plain_address(url).rstrip("/")
        self._client: Any = None
        match = _ADDRESS.fullmatch(url)
        if match is not None:
            self._bucket, self._prefix = match[1], (match[2] or "").strip("/")
            known = dict(options or {})
            if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
                known.pop("endpointurl", None)
            with bucket_errors(self.url):
                self._client = s3_client(known)
        elif "://" in url or url.startswith("s3:"):
            raise UserError(f"{self.url}: must be a folder or s3://bucket/prefix, without credentials")
        elif not Path(url).is_dir():
            raise UserError(f"{self.url}: no such folder; mount it or make it")
        else:
            self.url = url.rstrip("/") or "/"  # an `@`, `?` or `#` in the path of a folder guards no secret

    def read(self, name: str, most: int) -> bytes | None:
        """The file's content; None if there is none.

        Raises:
            UserError: it is larger than ``most`` bytes or cannot be read.
        """
        if self._client is None:
            return self._read_file(name, most)
        return patiently(lambda: self._read_object(name, most))

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, in place of an earlier one.

        Raises:
            UserError: it cannot be written.
        """
        if self._client is None:
            write_bytes_atomic(Path(self.url) / name, content)
            return
        patiently(lambda: self._write_object(name, content))

    def at(self, name: str) -> str:
        """The file's address, for messages."""
        return f"{self.url}/{name}"

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _read_object(self, name: str, most: int) -> bytes | None:
        with bucket_errors(self.at(name)):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            except exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") in _ABSENT:
                    return None
                raise
            content: bytes = answer["Body"].read(most + 1)
        return self._checked(name, content, most)

    def _write_object(self, name: str, content: bytes) -> None:
        with bucket_errors(self.at(name)):
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def _read_file(self, name: str, most: int) -> bytes | None:
        try:
            with (Path(self.url) / name).open("rb") as stream:
                return self._checked(name, stream.read(most + 1), most)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.at(name)}: cannot be read: {error.strerror or error}") from None

    def _checked(self, name: str, content: bytes, most: int) -> bytes:
        if len(content) > most:
            raise UserError(f"{self.at(name)}: more than {most} bytes, not what `stlm data publish` writes")
        return content
