# SPDX-License-Identifier: Apache-2.0
"""What the operator reads: one JSON object per event, one event per line, on stderr.

`time` (UTC), `level` and `event` are always there; what else an event says is beside them. The HTTP server's own
messages take the same form. Requests are logged at level debug only.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson

LOGGER = logging.getLogger("packager.server")
FORMATS = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")


class JsonLines(logging.Formatter):
    """Format a record as one line of JSON; a traceback becomes one string in it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """Format a record as one readable line; what it holds is JSON, so that no value can start a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {}).items()
        words = [f"{key}={orjson.dumps(value, default=str).decode()}" for key, value in fields]
        if record.exc_info:
            words.append(f"traceback={orjson.dumps(self.formatException(record.exc_info)).decode()}")
        return " ".join([moment, record.levelname.lower(), *record.getMessage().splitlines(), *words])


def event(name: str, level: int = logging.INFO, *, failure: bool = False, **fields: Any) -> None:
    """Write one event; `failure` adds the traceback of the exception being handled."""
    LOGGER.log(level, name, exc_info=failure, extra={"fields": fields})


def settings(level: str, form: str = "json") -> dict[str, Any]:
    """Return the `logging.config` dictionary; granian takes the same one, so that it cannot undo it."""
    ours = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    # granian speaks of its workers at info and calls its embedded mode experimental at warning, on every start.
    theirs = ours | {"level": "DEBUG" if level == "debug" else "ERROR"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}, "text": {"()": TextLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form, "stream": "ext://sys.stderr"}},
        "loggers": {LOGGER.name: ours, "_granian": theirs, "granian.access": theirs, "asyncio": ours},
    }
