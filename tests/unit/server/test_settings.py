"""Limits, keys and options: what does not fit together is said before anything starts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from stlm_core.errors import UserError
from stlm_core.server.cache import Cache
from stlm_core.server.champion import Candidate
from stlm_core.server.logs import JsonFormatter
from stlm_core.server.run import Options, choose_source
from stlm_core.server.settings import Limits, api_key, cores, verify_key
from stlm_core.server.sources import FileSource, RegistrySource


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"workers": 0}, "workers: 0"),
        ({"threads": 0}, "threads: 0"),
        ({"queue": -1}, "queue: -1"),
        ({"batch": 5, "workers": 2, "queue": 2}, "allow a longer queue"),
        ({"upload_bytes": 2, "buffered_bytes": 1}, "requests together"),
    ],
)
def test_limits_that_contradict_each_other(limits: dict[str, int], why: str) -> None:
    with pytest.raises(UserError, match=why):
        Limits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_containers_share_of_the_processors_counts(tmp_path: Path, told: str, most: int | None) -> None:
    quota = tmp_path / "cpu.max"
    own = cores(quota)
    assert own >= 1
    quota.write_text(told)
    assert cores(quota) == (own if most is None else most)
    quota.write_text("100000000 100000")
    assert cores(quota) == own


def test_the_key_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  0123456789abcdef\n")
    assert api_key({}) is None
    assert api_key({"STLM_API_KEY": "x" * 16}) == b"x" * 16
    assert api_key({"STLM_API_KEY_FILE": str(file)}) == b"0123456789abcdef"
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="not UTF-8"):
        api_key({"STLM_API_KEY_FILE": str(file)})


def test_the_public_key_must_be_there(tmp_path: Path) -> None:
    assert verify_key({}) is None
    assert verify_key({"STLM_VERIFY_KEY": ""}) is None
    with pytest.raises(UserError, match="no such file"):
        verify_key({"STLM_VERIFY_KEY": str(tmp_path / "absent.pem")})


def options(root: Path, *lines: str, every_line: bool = False, model: Path | None = None) -> Options:
    """What a command line asks for."""
    return Options(lines, every_line, model, root, None, "127.0.0.1", 0, 1.0)


def test_where_champions_come_from(tmp_path: Path) -> None:
    from serving import detector

    model = tmp_path / "model.onnx"
    model.write_bytes(detector("r1"))
    source, wanted = choose_source(options(tmp_path, "b", "a", "b"), signed=False)
    assert isinstance(source, RegistrySource)
    assert wanted == ["a", "b"]
    assert choose_source(options(tmp_path, every_line=True), signed=False)[1] is None
    source, wanted = choose_source(options(tmp_path, model=model), signed=False)
    assert isinstance(source, FileSource)
    assert wanted == ["tiny"]
    for refused, why in (
        (options(tmp_path), "--line, or all"),
        (options(tmp_path, "a", every_line=True), "--line, or all"),
        (options(tmp_path, "a", "b", model=model), "at most one --line"),
        (options(tmp_path, "../a"), "lower case"),
    ):
        with pytest.raises(UserError, match=why):
            choose_source(refused, signed=False)
    with pytest.raises(UserError, match="name it with --line"):
        choose_source(options(tmp_path, model=model), signed=True)


def test_a_signature_lies_beside_the_file(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    source = FileSource(model, "tiny")
    with source.opened() as opened:
        first = opened.offer("tiny")
        (tmp_path / "model.onnx.sig").write_text("c2ln\n")
        second = opened.offer("tiny")
        model.unlink()
        with pytest.raises(UserError, match="cannot be read"):
            opened.offer("tiny")
    assert first is not None
    assert second is not None
    assert (first.candidate.signature, second.candidate.signature) == (None, "c2ln")


def kept(
    version: str = "1", sha256: str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
) -> Candidate:
    """A champion whose file is `x`."""
    return Candidate("tiny", version, sha256, None, "registry", {"image_auroc": "0.9"})


def test_the_cache_keeps_the_last_one_only(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "kept")
    assert cache.get("tiny") is None
    assert cache.lines() == []
    cache.put(kept("1"), b"x")
    cache.put(kept("2", "a" * 64), b"other")
    assert [path.name for path in sorted((tmp_path / "kept" / "tiny").iterdir())] == [
        "champion.json",
        f"model-{'a' * 64}.onnx",
    ]
    found = cache.get("tiny")
    assert found is not None
    assert (found.version, found.source, found.tags) == ("2", "cache", {"image_auroc": "0.9"})
    assert cache.content(found) is None, "the file's bytes are not those of its name"
    cache.put(kept("3"), b"x")
    assert cache.content(kept("3")) == b"x"
    assert cache.lines() == ["tiny"]


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"version": 1}', '{"version":"1","sha256":"a","tags":[]}'])
def test_a_damaged_cache_is_named(tmp_path: Path, record: str) -> None:
    path = tmp_path / "tiny" / "champion.json"
    path.parent.mkdir()
    path.write_text(record)
    with pytest.raises(UserError, match=r"champion\.json"):
        Cache(tmp_path).get("tiny")


def test_an_exception_in_the_log_says_where_and_not_what() -> None:
    try:
        raise ValueError("what a caller sent")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("stlm.server", logging.ERROR, "x.py", 1, "failed", None, info)
    told = json.loads(JsonFormatter().format(record))
    assert (told["event"], told["exception"], told["level"]) == ("failed", "ValueError", "error")
    assert told["at"][0].startswith("test_an_exception_in_the_log")
    assert "what a caller sent" not in json.dumps(told)
