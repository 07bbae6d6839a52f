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


def event(name: str, level: int = logging.INFO, *, failure: bool = False, **fields: Any) -> None:
    """Write one event; `failure` adds the traceback of the exception being handled."""
    LOGGER.log(level, name, exc_info=failure, extra={"fields": fields})


def settings(level: str) -> dict[str, Any]:
    """Return the `logging.config` dictionary; granian takes the same one, so that it cannot undo it."""
    ours = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    # granian speaks of its workers at info and calls its embedded mode experimental at warning, on every start.
    theirs = ours | {"level": "DEBUG" if level == "debug" else "ERROR"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": {LOGGER.name: ours, "_granian": theirs, "granian.access": theirs, "asyncio": ours},
    }
