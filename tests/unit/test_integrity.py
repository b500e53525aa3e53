"""Signatures and digests of models: what is changed anywhere is refused."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrity import VERIFY_KEY, check_version, make_keys, sign_model, verify_model

MODEL = b"the bytes of a model"
SHA256 = sha256_bytes(MODEL)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_keys(tmp_path_factory.mktemp("keys") / "new")


def test_a_signed_model_is_accepted(keys: tuple[Path, Path]) -> None:
    signature = sign_model(SHA256, "bottle", keys[0])
    verify_model(MODEL, line="bottle", sha256=SHA256.upper(), signature=signature, public_key=keys[1])
    assert len(base64.b64decode(signature)) == 64


def test_the_signature_is_rfc_8032_over_purpose_line_and_digest(keys: tuple[Path, Path]) -> None:
    """Independent of our own verification: any Ed25519 implementation can check it."""
    public = serialization.load_pem_public_key(keys[1].read_bytes())
    assert isinstance(public, ed25519.Ed25519PublicKey)
    statement = f"stlm-model-v1\0bottle\0{SHA256}".encode()
    public.verify(base64.b64decode(sign_model(SHA256, "bottle", keys[0])), statement)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 8 * len(MODEL) - 1))
def test_any_flipped_bit_of_the_model_is_refused(bit: int) -> None:
    changed = bytearray(MODEL)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StlmError, match="the file was changed or damaged"):
        verify_model(bytes(changed), line="bottle", sha256=SHA256, signature=None, public_key=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 511))
def test_any_flipped_bit_of_the_signature_is_refused(keys: tuple[Path, Path], bit: int) -> None:
    changed = bytearray(base64.b64decode(sign_model(SHA256, "bottle", keys[0])))
    changed[bit // 8] ^= 1 << bit % 8
    text = base64.b64encode(changed).decode()
    with pytest.raises(StlmError, match="does not hold"):
        verify_model(MODEL, line="bottle", sha256=SHA256, signature=text, public_key=keys[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=100))
def test_any_other_text_for_a_signature_is_refused(keys: tuple[Path, Path], text: str) -> None:
    with pytest.raises(StlmError):
        verify_model(MODEL, line="bottle", sha256=SHA256, signature=text, public_key=keys[1])


@pytest.mark.parametrize("signature", [None, ""])
def test_with_a_key_a_signature_is_required(keys: tuple[Path, Path], signature: str | None) -> None:
    verify_model(MODEL, line="bottle", sha256=SHA256, signature=signature, public_key=None)
    with pytest.raises(StlmError, match="is not signed, and STLM_VERIFY_KEY asks for signed models"):
        verify_model(MODEL, line="bottle", sha256=SHA256, signature=signature, public_key=keys[1])


def test_a_model_of_another_line_and_a_strangers_signature_are_refused(keys: tuple[Path, Path], tmp_path: Path) -> None:
    stranger, _ = make_keys(tmp_path)
    for signature in (sign_model(SHA256, "screw", keys[0]), sign_model(SHA256, "bottle", stranger)):
        with pytest.raises(StlmError, match=r"does not hold for the key verify\.pem"):
            verify_model(MODEL, line="bottle", sha256=SHA256, signature=signature, public_key=keys[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.text(max_size=20).filter(lambda text: text != "bottle"))
def test_no_other_name_of_the_line_is_accepted(keys: tuple[Path, Path], line: str) -> None:
    signature = sign_model(SHA256, "bottle", keys[0])
    with pytest.raises(StlmError, match="does not hold"):
        verify_model(MODEL, line=line, sha256=SHA256, signature=signature, public_key=keys[1])


def test_a_version_is_checked_by_its_tags(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VERIFY_KEY, raising=False)
    unsigned = {"onnx_sha256": SHA256, "teacher": "lite_medsam"}
    signed = {**unsigned, "onnx_signature": sign_model(SHA256, "bottle", keys[0])}
    check_version(unsigned, MODEL, "bottle")
    with pytest.raises(StlmError, match="has no tag `onnx_sha256`"):
        check_version({}, MODEL, "bottle")
    monkeypatch.setenv(VERIFY_KEY, str(keys[1]))
    check_version(signed, MODEL, "bottle")
    with pytest.raises(StlmError, match="is not signed"):
        check_version(unsigned, MODEL, "bottle")
    with pytest.raises(StlmError, match="was changed or damaged"):
        check_version(signed, MODEL + b" ", "bottle")
    with pytest.raises(StlmError, match="does not hold"):
        check_version(signed, MODEL, "screw")
    monkeypatch.setenv(VERIFY_KEY, str(keys[1].with_name("absent.pem")))
    with pytest.raises(UserError, match=r"absent\.pem: the key cannot be read"):
        check_version(signed, MODEL, "bottle")


def test_keys_are_private_and_never_overwritten(keys: tuple[Path, Path]) -> None:
    before = keys[0].read_bytes()
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    with pytest.raises(UserError, match="is there already"):
        make_keys(keys[0].parent)
    assert keys[0].read_bytes() == before


def test_what_is_no_key_is_one_sentence_that_does_not_quote_it(keys: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(UserError, match="the key cannot be read: No such file"):
        sign_model(SHA256, "bottle", path)
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"SECRET", rsa_key, keys[1].read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not an unencrypted Ed25519 private key") as caught:
            sign_model(SHA256, "bottle", path)
        assert "SECRET" not in str(caught.value)
    path.write_bytes(keys[0].read_bytes())
    with pytest.raises(UserError, match="not an Ed25519 public key"):
        verify_model(MODEL, line="bottle", sha256=SHA256, signature="", public_key=path)
