"""How a command ends that the operating system does not let finish."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from warm_process import STLM

from stlm_core.cli.main import main


def _raises(error: OSError) -> Callable[..., None]:
    def app(**_: object) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "images/a.png"), "images/a.png: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "reading or writing failed: Input/output error"),
        (ConnectionError("no answer\nfrom the server"), "reading or writing failed: no answer"),
    ],
)
def test_what_the_operating_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, sentence: str
) -> None:
    monkeypatch.setitem(main.__globals__, "app", _raises(error))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted = typer.Typer()

    @interrupted.command()
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "app", interrupted)
    monkeypatch.setattr(sys, "argv", ["stlm"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "interrupted; run the same command again to continue" in capsys.readouterr().err


def test_a_pipe_that_nobody_reads_ends_a_command_quietly(repository: os.PathLike[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-u", *STLM[1:], "lines", "list"]
        ended = subprocess.run(
            command, cwd=repository, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    finally:
        os.close(writing)
    assert ended.returncode == 1
    assert ended.stderr == ""
