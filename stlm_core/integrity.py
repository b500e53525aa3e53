"""Whether a model's bytes are those that were proven, and whether they come from whom we trust.

The sha256 of a version is kept by the registry, the file by its artifact store: who can write to the store alone
cannot exchange a model unnoticed. A detached Ed25519 signature (RFC 8032) over line and digest also holds against
who can write to both.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNING_KEY, VERIFY_KEY = "STLM_SIGNING_KEY", "STLM_VERIFY_KEY"
"""Environment variables: path of the PEM file with the private key, with the public key."""

SHA256_TAG, SIGNATURE_TAG = "onnx_sha256", "onnx_signature"
"""Tags of a registered version: hex digest of its file; the signature, if it has one."""

SIGNATURE_SUFFIX = ".sig"
"""Of the file that holds a signature, after the name of the file that it signs, beside which it lies."""

PRIVATE_FILE, PUBLIC_FILE = "signing.pem", "verify.pem"
_PURPOSE = b"stlm-model-v1"  # a signature made for something else is none of a model


def verify_model(content: bytes, *, line: str, sha256: str, signature: str | None, public_key: Path | None) -> None:
    """Return if ``content`` is the model of that line.

    Args:
        sha256: hex digest that the registry has of the file.
        signature: base64 text that :func:`sign_model` made; None if the version has none.
        public_key: PEM file of an Ed25519 public key. With it a valid signature is required, without it none is
            looked at.

    Raises:
        StlmError: other bytes, no signature where one is required, or one that does not hold.
        UserError: the key cannot be read.
    """
    found = sha256_bytes(content)
    if found != sha256.lower():
        raise StlmError(
            f"line {line}: the model's sha256 is {found}, the registry has {sha256}: the file was changed or damaged"
        )
    if public_key is not None:
        verify_signature(found, line=line, signature=signature, public_key=public_key)


def verify_signature(sha256: str, *, line: str, signature: str | None, public_key: Path) -> None:
    """Return if the holder of the key has signed the model with that digest as a model of that line.

    Raises:
        StlmError: no signature, or one that does not hold.
        UserError: the key cannot be read.
    """
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public_key)
    if not signature:
        raise StlmError(f"line {line}: model {sha256[:12]} is not signed, and {VERIFY_KEY} asks for signed models")
    try:
        key.verify(base64.b64decode(signature, validate=True), _statement(sha256, line))
    except (InvalidSignature, binascii.Error, ValueError):
        raise StlmError(
            f"line {line}: the signature of model {sha256[:12]} does not hold for the key {public_key.name}"
        ) from None


def check_version(tags: Mapping[str, str], content: bytes, line: str) -> None:
    """Return if ``content`` is the model that a registered version's ``tags`` speak of.

    Where ``STLM_VERIFY_KEY`` is set the version must be signed; otherwise the digest alone counts.

    Raises:
        StlmError: as :func:`verify_model`, or the version has no digest.
        UserError: the key cannot be read.
    """
    sha256 = tags.get(SHA256_TAG)
    if not sha256:
        raise StlmError(f"line {line}: the version has no tag `{SHA256_TAG}`, so its file cannot be checked")
    signature = tags.get(SIGNATURE_TAG)
    verify_model(content, line=line, sha256=sha256, signature=signature, public_key=key_path(VERIFY_KEY))


def sign_model(sha256: str, line: str, private_key: Path) -> str:
    """A detached signature, base64, of the model with that digest as a model of that line.

    Raises:
        UserError: the key cannot be read.
    """
    return base64.b64encode(_private_key(private_key).sign(_statement(sha256, line))).decode("ascii")


def key_path(variable: str) -> Path | None:
    """The key file that an environment variable names; None if it names none."""
    value = os.environ.get(variable)
    return Path(value) if value else None


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new key pair into ``folder``: the private key, readable by its owner only, and the public one.

    Raises:
        UserError: a key is there already, or the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    contents = {
        folder / PRIVATE_FILE: private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        folder / PUBLIC_FILE: private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    }
    for path in contents:
        if path.exists():
            raise UserError(f"{path}: is there already; a key is never overwritten")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            mode = 0o600 if path.name == PRIVATE_FILE else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
                stream.write(content)
    except OSError as error:
        raise UserError(f"{folder}: keys cannot be written: {error.strerror or error}") from None
    return folder / PRIVATE_FILE, folder / PUBLIC_FILE


def _statement(sha256: str, line: str) -> bytes:
    return b"\0".join((_PURPOSE, line.encode(), sha256.lower().encode()))


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # what the library says may quote the file
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: not an unencrypted Ed25519 private key in PEM; `stlm keys make` writes one")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path}: not an Ed25519 public key in PEM; `stlm keys make` writes one")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the key cannot be read: {error.strerror or error}") from None
