# SPDX-License-Identifier: Apache-2.0
"""The connection to an MLflow registry: quiet, bounded in time, with our own error messages.

It is read-only but for `packager.deploy.mlflow_registry`, which registers what was rendered. The underscore keeps this
out of the list of sources.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from packager.errors import IntegrityError, MissingToolError, SourceError, StorageError, UsageError
from packager.sources import Settings, redact_address
from packager.sources._mlflow_sqlite import UnansweredError, open_reader

_T = TypeVar("_T")
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")
_SQL = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:")


@dataclass(frozen=True, slots=True)
class Registry:
    """A connection: MLflow's client, the addresses of the registry and of the runs, and what the caller decided."""

    client: Any
    address: str
    tracking: str
    settings: Settings

    @property
    def is_catalog(self) -> bool:
        """True for Unity Catalog, whose files only MLflow's own repository gets: it requests credentials first."""
        return self.address.startswith("databricks-uc")

    @property
    def name(self) -> str:
        return redact_address(self.settings.tracking or "mlflow.db")


@contextlib.contextmanager
def open_database(settings: Settings) -> Iterator[Registry]:
    """Open a local database without MLflow. Raises UnansweredError, also inside, where only its client can answer."""
    tracking = settings.tracking or "sqlite:///mlflow.db"
    with open_reader(settings.base, settings.tracking, settings.timeout) as reader:
        yield Registry(reader, tracking, tracking, settings)


@contextlib.contextmanager
def connect(settings: Settings, timeout: int, *, writable: bool = False) -> Iterator[Registry]:
    """Connect to the registry, quietly; every failure of MLflow inside becomes a SourceError.

    A local database is opened read-only unless it is to be `writable`.
    """
    with _environment(timeout):
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise MissingToolError("mlflow", "mlflow") from error
        address = _address(settings, writable=writable)
        name = redact_address(settings.tracking or "mlflow.db")
        with _silenced(), as_source_error(name, MlflowException, OSError):
            if _SQL.match(address):
                _check_schema(address, name, timeout)
            tracking = re.sub(r"^databricks-uc\b", "databricks", address)  # a catalog has no runs, its workspace has
            yield Registry(MlflowClient(tracking, address), address, tracking, settings)


@contextlib.contextmanager
def _environment(timeout: int) -> Iterator[None]:
    """Set the limits that MLflow takes from nowhere but the environment, and put back what was there."""
    limits = {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout),
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    }
    before = {key: os.environ.get(key) for key in limits}  # noqa: TID251
    os.environ.update(limits)  # noqa: TID251
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)  # noqa: TID251
            os.environ.update({} if value is None else {key: value})  # noqa: TID251


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep MLflow's remarks about itself off the user's terminal; its errors arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "databricks.sdk")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_WHERE = "compare `registry` in the recipe, or MLFLOW_TRACKING_URI, with where MLflow logs"


def _address(settings: Settings, *, writable: bool) -> str:
    """Return the registry's address as MLflow takes it; SQLite is opened read-only unless it is to be written."""
    tracking = settings.tracking or "sqlite:///mlflow.db"
    sqlite = _SQLITE.match(tracking)
    if not sqlite:
        return tracking
    path = settings.base / sqlite[1]
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        hint = "set `registry:` in the recipe, or MLFLOW_TRACKING_URI; a database is never created"
        raise SourceError(f"registry database `{sqlite[1]}` does not exist", hint=hint) from None
    except OSError as error:
        raise SourceError(f"registry database `{sqlite[1]}` cannot be read: {error.strerror}", hint=_WHERE) from error
    if magic != b"SQLite format 3\0":
        raise SourceError(f"registry database `{sqlite[1]}` is not an SQLite database", hint=_WHERE)
    return f"sqlite:///{path.absolute()}" if writable else _read_only(path.absolute())


def _read_only(path: Path) -> str:
    """Return the address that makes SQLAlchemy, whichever version, open `path` without the right to write.

    The driver is spelt out because MLflow would otherwise create the directory `file:` below the working directory.
    """
    import sqlalchemy

    name = f"file:{quote(str(path))}"
    for spelling in (name, quote(name, safe="/:")):  # SQLAlchemy 2.1 decodes the name once more than older ones
        address = f"sqlite+pysqlite:///{spelling}?mode=ro&uri=true"
        if sqlalchemy.make_url(address).database == name:
            return address
    raise SourceError(f"registry database `{path.name}` has a path that cannot be addressed", hint="move it elsewhere")


def _check_schema(address: str, name: str, timeout: int) -> None:
    """Refuse a database of another schema: MLflow would migrate some of them without consent."""
    import sqlalchemy
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy.exc import SQLAlchemyError

    patience = {"connect_timeout": timeout} if re.match("postgresql|mysql", address) else {}
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, connect_args=patience)
    try:
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError as error:
        raise SourceError(
            f"registry database `{name}` is not one of MLflow: {_reason(error)}",
            hint=_WHERE,
        ) from None
    expected = _get_latest_schema_revision()
    if found != expected:
        raise SourceError(
            f"registry database `{name}` has another schema: expected {expected}, got {found}",
            hint="take a backup and run `mlflow db upgrade`, or install the MLflow version that wrote it",
        )


@contextlib.contextmanager
def as_source_error(name: str, *failures: type[Exception]) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise into one SourceError about the registry `name`."""
    try:
        yield
    except (SourceError, IntegrityError, UsageError, StorageError):
        raise
    except ImportError as error:
        raise SourceError(
            f"registry `{name}` needs the package `{error.name}`", hint=f"pip install {error.name}"
        ) from error
    except failures as error:
        # `from None`: the cause may quote an address with its password.
        raise _failure(name, error) from None


def _failure(name: str, error: Exception) -> SourceError | StorageError:
    reason = _reason(error)
    if "Errno 28" in str(error):
        return StorageError("no space left while downloading the model", hint="free some space and repeat")
    if re.search("Max retries exceeded|timeout|timed out|Connection refused", reason):
        return SourceError(f"registry `{name}` does not answer", hint="check its address and that the server runs")
    if re.search(r"\b(401|403)\b|PERMISSION_DENIED|UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED", reason):
        hint = "set `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`"
        return SourceError(f"registry `{name}` refuses access: {reason}", hint=hint)
    return SourceError(f"registry `{name}` failed: {reason}")


def _reason(error: Exception) -> str:
    """Return the most informative line of a library's message, without credentials.

    It is the first, unless that one announces a list: MLflow puts `##### File … #####` before each failed download.
    """
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    telling = [line.strip() for line in rest if line.strip() and not line.startswith("#####")]
    line = telling[0] if first.endswith(":") and telling else first
    return re.sub(r"//[^/@\s]*@", "//", line)[:300].rstrip(".")


def ask(call: Callable[[], _T], absent: Callable[[], SourceError]) -> _T:
    """Return the registry's answer, or raise what `absent` says when there is no such thing."""
    try:
        return call()
    except UnansweredError:
        raise
    except Exception as error:
        from mlflow.exceptions import MlflowException

        # An unknown alias is an invalid parameter to MLflow, all else that is unknown does not exist.
        unknown = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if not isinstance(error, MlflowException) or error.error_code not in unknown:
            raise
    raise absent()
