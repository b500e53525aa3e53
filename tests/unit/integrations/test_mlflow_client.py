"""Which MLflow is meant, and how its absence is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from stlm_core.errors import UserError
from stlm_core.integrations.mlflow_client import open_tracking, tracking_uri, without_credentials, without_userinfo


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:pass@host:5000/path?token=1#x", "http://host:5000/path"),
        ("postgresql+psycopg2://me:secret@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://me:p@ss@w0rd@host/path", "https://host/path"),
        ("postgresql://me:se/cr@t@db/mlflow", "postgresql://db/mlflow"),
        ("http://:secret/1@db", "http://db"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("../images/run#2", "../images/run#2"),
        ("../data/bottle", "../data/bottle"),
    ],
)
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_no_password_is_left_in_what_a_server_said() -> None:
    said = "no answer from https://me:p@ss@host:5000/api, nor from http://a:b@other"
    assert without_userinfo(said) == "no answer from https://host:5000/api, nor from http://other"


def test_the_default_is_a_database_beside_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(tmp_path) == "http://host:5000"


def test_a_server_that_is_not_there_is_told_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    began = time.monotonic()
    with (
        pytest.raises(UserError, match=f"MLflow at http://127.0.0.1:{port} does not answer") as caught,
        open_tracking(tmp_path),
    ):
        pass
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30  # importing MLflow included


def test_a_server_that_accepts_and_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(UserError, match="does not answer"), open_tracking(tmp_path):
            pass
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("sqlite:///{root}/absent/mlflow.db", "the folder .*absent does not exist"),
        ("sqlite:///{root}", "is a folder"),
        ("sqlite:///{root}/text.db", "not an SQLite database"),
        ("gopher://host", "not an address that MLflow knows"),
    ],
)
def test_an_unusable_address_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, sentence: str
) -> None:
    (tmp_path / "text.db").write_text("not a database at all")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(root=tmp_path))
    began = time.monotonic()
    with pytest.raises(UserError, match=sentence), open_tracking(tmp_path):
        pass
    assert time.monotonic() - began < 1


def _said_of(uri: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The sentence with which an address is refused, within seconds and without its password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    with pytest.raises(UserError) as caught, open_tracking(root):
        pass
    assert time.monotonic() - began < 30  # importing MLflow included
    told = str(caught.value)
    assert "\n" not in told
    assert not any(part in told for part in ("s3cret", "p@ss"))
    return told


@pytest.mark.parametrize(
    ("scheme", "driver"),
    [("postgresql", "psycopg"), ("postgresql+psycopg2", "psycopg2"), ("mysql", "MySQLdb"), ("mssql", "pyodbc")],
)
def test_the_missing_driver_of_a_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)  # type: ignore[arg-type]  # absent, whatever is installed
    told = _said_of(f"{scheme}://me:s3cret@127.0.0.1:1/mlflow", tmp_path, monkeypatch)
    assert told.startswith(f"MLflow at {scheme}://127.0.0.1:1/mlflow does not answer: install the driver {driver}")


def _driver(error: Exception) -> ModuleType:
    """The least that SQLAlchemy wants of PyMySQL, whose every connection fails."""

    def connect(*_: Any, **__: Any) -> NoReturn:
        raise error

    module: Any = ModuleType("pymysql")
    module.__version__, module.paramstyle, module.VERSION = "1.1.0", "pyformat", (1, 1, 0)
    module.connect = connect
    for name in ("Error", "OperationalError", "ProgrammingError", "InterfaceError", "InternalError"):
        setattr(module, name, type(error))
    return module  # type: ignore[no-any-return]


def test_a_database_that_is_not_there_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OperationalError(Exception):
        pass

    refused = OperationalError("no connection to mysql://me:s3cret@db/mlflow\n\tIs the server running?")
    monkeypatch.setitem(sys.modules, "pymysql", _driver(refused))
    told = _said_of("mysql+pymysql://me:s3cret@db/mlflow", tmp_path, monkeypatch)
    assert told.startswith("MLflow at mysql+pymysql://db/mlflow does not answer: ")
    assert "OperationalError) no connection to mysql://db/mlflow; start the server" in told
    assert not caplog.records


def test_a_database_that_mlflow_cannot_use_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"damaged" * 1000)
    told = _said_of(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, monkeypatch)
    assert "does not answer: (sqlite3.DatabaseError) file is not a database" in told


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:p@ss@db/mlflow",  # SQLAlchemy takes `ss@db` for the host, and its driver would show it
        "postgresql://me:p@ss:s3cret@db/mlflow",
        "postgresql://me:s3cret@db:port/mlflow",
    ],
)
def test_a_database_address_that_is_not_split_as_it_is_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    told = _said_of(uri, tmp_path, monkeypatch)
    assert "an @ in the password is written %40" in told
    assert " ss" not in told


def test_an_error_of_the_callers_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModuleNotFoundError, match="absent"), open_tracking(tmp_path):
        raise ModuleNotFoundError("absent", name="absent")


@pytest.mark.slow
def test_commands_that_start_together_make_one_database(tmp_path: Path) -> None:
    opening = (
        "import sys; from pathlib import Path; from stlm_core.integrations.mlflow_client import open_tracking\n"
        "with open_tracking(Path(sys.argv[1])) as tracking: print(len(tracking.client.search_experiments()))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", opening, str(tmp_path)]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [(process.returncode, out) for process, (out, _) in zip(started, ended, strict=True)] == [(0, "1\n")] * 3, (
        ended
    )
