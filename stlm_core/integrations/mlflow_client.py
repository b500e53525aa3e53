"""The connection to MLflow: which server, how long to wait for it, and its failures as one sentence."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from stlm_core.addresses import without_credentials, without_userinfo
from stlm_core.errors import StlmError, UserError, first_line
from stlm_core.files import exclusive_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Dialect

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_REGISTRY_VARIABLE = "MLFLOW_REGISTRY_URI"
# What is used where an address is not set.
_OTHERWISE = {URI_VARIABLE: "a database beside params.yaml is used", _REGISTRY_VARIABLE: f"{URI_VARIABLE} is used"}
_SQLITE = "sqlite:///"
_SQLITE_MAGIC = b"SQLite format 3\0"
_CONNECT_SECONDS = 8
# MLflow's own defaults keep trying an absent server for minutes.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
}
# The databases that SQLAlchemy reaches by a driver, which does not come with MLflow.
_DATABASES = ("postgresql", "mysql", "mssql")
# Drivers -> what they call the seconds after which connecting is given up; PostgreSQL's ask the environment.
_TIMEOUTS = {
    "mysqldb": "connect_timeout",
    "pymysql": "connect_timeout",
    "mariadbconnector": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pyodbc": "timeout",
    "pymssql": "login_timeout",
}
_SCHEMES = ("http", "https", "sqlite", *_DATABASES, "databricks", "databricks-uc", "uc", "file", "")
_PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "8"}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints user and password, too
}
_LOUD = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.ERROR,  # it warns of every attempt to connect
    "mlflow.store.model_registry.abstract_store": logging.WARNING,
}


@dataclass(frozen=True)
class Tracking:
    """An open connection.

    ``store``: the address without credentials, local databases by file name, fit for logs and records.
    ``artifact_root``: folder for the files of new experiments of a local database; None lets the server choose.
    """

    client: MlflowClient
    store: str
    artifact_root: Path | None


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, or an SQLite database beside ``params.yaml``; may hold credentials."""
    return os.environ.get(URI_VARIABLE) or f"{_SQLITE}{root / 'mlflow.db'}"


def missing_database(uri: str) -> Path | None:
    """The local database that ``uri`` names, if it is not there."""
    database = _sqlite_file(uri)
    return database if database is not None and not database.exists() else None


@contextlib.contextmanager
def open_tracking(root: Path, uri: str | None = None, *, models: bool = True) -> Iterator[Tracking]:
    """Connect to the MLflow of the project in ``root`` and make it MLflow's current one meanwhile.

    Environment and MLflow's global address are put back at the end. Settings of MLflow that the user has made in the
    environment are kept.

    Args:
        uri: another address, for models and runs alike, whatever the environment says.
        models: whether a registry apart (``MLFLOW_REGISTRY_URI``) has to answer, too.

    Raises:
        UserError: the address is not usable, or nothing answers there.
        StlmError: MLflow refused a request made inside the ``with`` block.
    """
    registry = {} if uri is None else {_REGISTRY_VARIABLE: uri}
    apart = os.environ.get(_REGISTRY_VARIABLE) if models and uri is None else None
    uri = uri or tracking_uri(root)
    database = _usable(uri, URI_VARIABLE)
    database_apart = _usable(apart, _REGISTRY_VARIABLE) if apart else None
    with (
        _environment(registry, keep=False),
        _environment({**_PATIENCE, **_QUIET}, keep=True),
        _impatient_drivers(uri, apart or uri),
    ):
        import mlflow
        from mlflow.exceptions import MlflowException

        for name, level in _LOUD.items():
            logging.getLogger(name).setLevel(level)
        before = os.environ.get(URI_VARIABLE)
        try:
            mlflow.set_tracking_uri(uri)
            with _alone(database):
                client = _answering(uri, URI_VARIABLE)
            if apart and apart != uri:
                with _alone(database_apart):
                    _answering(apart, _REGISTRY_VARIABLE)
            yield Tracking(client, _store_name(uri, database), database.parent / "mlartifacts" if database else None)
        except MlflowException as error:
            told = without_userinfo(first_line(error))
            raise StlmError(f"MLflow at {without_credentials(uri)}: {told}") from error
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None unsets it


def _answering(uri: str, variable: str) -> MlflowClient:
    """A client of what has answered at ``uri``, the address of the runs or, by its ``variable``, of the models."""
    from mlflow import MlflowClient

    try:
        if _kind(uri) in _DATABASES:
            _connect(uri)
        with _environment(_PROBE, keep=False):
            if variable == URI_VARIABLE:
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
            else:
                client = MlflowClient(registry_uri=uri)
                client.search_registered_models(max_results=1)
        return client
    except _failures(uri) as error:
        told = without_credentials(first_line(error))
        raise UserError(
            f"MLflow at {without_credentials(uri)} does not answer: {told}; start the server or change {variable} "
            f"(when it is not set, {_OTHERWISE[variable]})"
        ) from None


def _connect(uri: str) -> None:
    """One connection to a database, with the settings that MLflow has for it; MLflow itself would try for minutes."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy import make_url

    try:
        whole = "@" not in (make_url(uri).host or "")
    except ValueError:  # what stands where a port should be, which may be the end of a password
        whole = False
    if not whole:
        raise MlflowException("its host and port cannot be told apart (an @ in the password is written %40)")
    try:
        engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
    except ImportError as error:
        raise MlflowException(f"install the driver {error.name or first_line(error)}") from None
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _failures(uri: str) -> tuple[type[Exception], ...]:
    """MLflow's own errors, and those that it passes on where ``uri`` is a database: these take a second to import."""
    from mlflow.exceptions import MlflowException

    if _kind(uri) not in ("sqlite", *_DATABASES):
        return (MlflowException,)
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError


def _kind(uri: str) -> str:
    """The scheme of an address without the driver of a database."""
    return urlsplit(uri).scheme.partition("+")[0]


def _store_name(uri: str, database: Path | None) -> str:
    return f"sqlite {database.name}" if database else without_credentials(uri)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute() if uri.startswith(_SQLITE) else None


def _alone(database: Path | None) -> contextlib.AbstractContextManager[None]:
    """Commands that start together make a local database one by one: two that make its tables at once both fail.

    One that was there before anybody locked it is left alone, and nothing is written beside it.
    """
    if database is None:
        return contextlib.nullcontext()
    lock = database.parent / ".stlm" / "locks" / f"{database.name}.lock"
    return contextlib.nullcontext() if database.exists() and not lock.exists() else exclusive_lock(lock)


def _usable(uri: str, variable: str) -> Path | None:
    """The local database that ``uri`` names, if any. MLflow would retry what is checked here for minutes, with a
    traceback each time."""
    scheme = urlsplit(uri).scheme
    if scheme not in _SCHEMES and "+" not in scheme:
        raise UserError(f"{variable}: `{without_credentials(uri)}` is not an address that MLflow knows")
    database = _sqlite_file(uri)
    if database is None:
        return None
    if not database.parent.is_dir():
        raise UserError(f"{uri}: the folder {database.parent} does not exist")
    if not os.access(database.parent, os.W_OK):
        raise UserError(f"{uri}: the folder {database.parent} is not writable")
    if database.is_dir():
        raise UserError(f"{database}: is a folder, not an SQLite database")
    try:
        start = _first_bytes(database) if database.exists() else b""
    except OSError as error:
        raise UserError(f"{database}: cannot be read: {error.strerror or error}") from None
    if start and start != _SQLITE_MAGIC:
        raise UserError(f"{database}: not an SQLite database; move it away or change {variable}")
    return database


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(_SQLITE_MAGIC))


@contextlib.contextmanager
def _environment(values: Mapping[str, str], *, keep: bool) -> Iterator[None]:
    """Environment variables for a while; with ``keep`` those that are set already stay."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if not (keep and name in os.environ)})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _impatient_drivers(*uris: str) -> Iterator[None]:
    """For a while no driver of a database waits for longer than PostgreSQL's, unless its address says so: neither the
    first connection nor those that MLflow makes later."""
    if not {"mysql", "mssql"} & {_kind(uri) for uri in uris}:
        yield
        return
    from sqlalchemy import Engine, event

    if event.contains(Engine, "do_connect", _give_up_early):  # by an open connection around this one
        yield
        return
    event.listen(Engine, "do_connect", _give_up_early)
    try:
        yield
    finally:
        event.remove(Engine, "do_connect", _give_up_early)


def _give_up_early(dialect: Dialect, _record: object, _arguments: object, settings: dict[str, Any]) -> None:
    name = _TIMEOUTS.get(dialect.driver)
    if name is not None and not {name, "connect_timeout"} & settings.keys():
        settings[name] = _CONNECT_SECONDS
