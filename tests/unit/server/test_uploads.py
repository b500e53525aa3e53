"""Forms read from bytes: what any client encodes comes out again, and what is no form is refused."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stlm_core.server.metrics import Metrics
from stlm_core.server.problems import ProblemError
from stlm_core.server.settings import Limits
from stlm_core.server.uploads import Buffer, Part, parse_form

names = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(parts=st.lists(st.tuples(names, st.binary(max_size=300)), min_size=1, max_size=6))
def test_what_a_client_sends_comes_out(parts: list[tuple[str, bytes]]) -> None:
    request = httpx.Request(
        "POST", "http://x/", files=[(name, (f"{name}.png", content, "image/png")) for name, content in parts]
    )
    boundary = request.headers["content-type"].rpartition("boundary=")[2].encode()
    body = request.read()
    found = parse_form(body, boundary, most_parts=6)
    assert [part.content for part in found] == [content for _, content in parts]
    plain = [(part.field, name) for part, (name, _) in zip(found, parts, strict=True) if name.isalnum()]
    assert all(field == name for field, name in plain)
    with pytest.raises(ProblemError) as refused:
        parse_form(body, boundary, most_parts=len(parts) - 1)
    assert refused.value.status == 413


@settings(max_examples=300)
@given(body=st.binary(max_size=200) | st.from_regex(rb"(--b(\r\n|--|[a-z:; =\"]{0,9}){0,4})+", fullmatch=True))
def test_any_bytes_are_a_form_or_a_problem(body: bytes) -> None:
    status, parts = 200, list[Part]()
    try:
        parts = parse_form(body, b"b", most_parts=3)
    except ProblemError as error:
        status = error.status
    assert status in (200, 400, 413)
    assert len(parts) <= 3


@given(cut=st.integers(1, 400))
def test_half_a_form_is_refused(cut: int) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = head + bytes(300) + b"\r\n--b--\r\n"
    with pytest.raises(ProblemError):
        parse_form(body[: min(cut, len(body) - 5)], b"b", most_parts=3)


@given(sizes=st.lists(st.integers(0, 60), max_size=20))
def test_the_buffer_never_holds_more_than_its_limit(sizes: list[int]) -> None:
    limits = Limits(workers=2, upload_bytes=50, buffered_bytes=100)
    buffer = Buffer(limits, metrics := Metrics())

    def held() -> float:
        return metrics.registry.get_sample_value("stlm_buffered_bytes") or 0.0

    with buffer.share() as one, buffer.share() as other:
        for index, size in enumerate(sizes):
            share = one if index % 2 else other
            before = one.held + other.held
            if before + size > 100:
                with pytest.raises(ProblemError) as refused:
                    share.take(size)
                assert refused.value.status == 503
                assert one.held + other.held == before
            else:
                share.take(size)
            assert held() == one.held + other.held <= 100
    assert held() == 0
