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
from stlm_core.integrations.mlflow_client import open_tracking, tracking_uri


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


def _driver(error: Exception, asked: dict[str, Any] | None = None, name: str = "pymysql") -> ModuleType:
    """The least that SQLAlchemy wants of a driver, whose every connection fails; ``asked`` gets its settings."""

    def connect(*_: Any, **settings: Any) -> NoReturn:
        if asked is not None:
            asked.update(settings)
        raise error

    module: Any = ModuleType(name)
    module.__version__, module.paramstyle, module.VERSION = "1.1.0", "pyformat", (1, 1, 0)
    module.version, module.pooling, module.version_info = "5.1.0", False, (2, 2, 0)
    module.connect, module.Cursor = connect, type("Cursor", (), {})
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


@pytest.mark.parametrize(
    ("scheme", "driver", "setting"),
    [
        ("mysql", "MySQLdb", "connect_timeout"),
        ("mysql+pymysql", "pymysql", "connect_timeout"),
        ("mysql+mysqlconnector", "mysql.connector", "connection_timeout"),
        ("mysql+mariadbconnector", "mariadb", "connect_timeout"),
        ("mssql", "pyodbc", "timeout"),
        ("mssql+pymssql", "pymssql", "login_timeout"),
    ],
)
def test_a_database_is_not_waited_for_longer_than_its_driver_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str, setting: str
) -> None:
    asked: dict[str, Any] = {}
    module = _driver(ConnectionError("no answer"), asked, driver)
    monkeypatch.setitem(sys.modules, driver, module)
    if "." in driver:
        package: Any = ModuleType(driver.partition(".")[0])
        setattr(package, driver.partition(".")[2], module)
        monkeypatch.setitem(sys.modules, package.__name__, package)
    _said_of(f"{scheme}://me:s3cret@db/mlflow", tmp_path, monkeypatch)
    assert asked[setting] == 8
    if scheme.startswith("mysql"):  # the user's own counts
        asked.clear()
        _said_of(f"{scheme}://me:s3cret@db/mlflow?connect_timeout=30", tmp_path, monkeypatch)
        assert [int(value) for name, value in asked.items() if name.endswith("timeout")] == [30]
    from sqlalchemy import create_engine  # another engine than MLflow's is left alone

    asked.clear()
    with pytest.raises(Exception, match="no answer"):
        create_engine(f"{scheme}://me@db/other").connect()
    assert setting not in asked


def test_a_registry_apart_that_is_not_there_is_told_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for uri, sentence in [
            (f"http://me:s3cret@127.0.0.1:{port}", f"MLflow at http://127.0.0.1:{port} does not answer: "),
            (f"http://me:s3cret@127.0.0.1:{silent.getsockname()[1]}", "does not answer: "),
            ("gopher://me:s3cret@host", "MLFLOW_REGISTRY_URI: `gopher://host` is not an address that MLflow knows"),
            (f"sqlite:///{tmp_path}/absent/models.db", "absent does not exist"),
            ("postgresql://me:p@ss@db/mlflow", "an @ in the password is written %40"),
        ]:
            monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
            began = time.monotonic()
            with pytest.raises(UserError) as caught, open_tracking(tmp_path):
                pass
            told = str(caught.value)
            assert sentence in told
            assert "MLFLOW_REGISTRY_URI" in told or "does not exist" in told
            assert "change MLFLOW_TRACKING_URI" not in told
            assert not any(part in told for part in ("s3cret", "p@ss", "\n"))
            assert time.monotonic() - began < 60  # the database of the runs is made meanwhile
        with open_tracking(tmp_path, models=False):  # who asks for no model does not need it
            pass


def test_a_registry_apart_that_answers_has_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/models.db")
    with open_tracking(tmp_path) as tracking:
        tracking.client.create_registered_model("stlm-caps")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    for name, models in (("models", ["stlm-caps"]), ("mlflow", [])):
        with open_tracking(tmp_path, f"sqlite:///{tmp_path}/{name}.db") as tracking:
            assert [model.name for model in tracking.client.search_registered_models()] == models


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
