# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one JSON object per event, one event per line, on stderr.

Every line has `time` (UTC), `level` and `event`, and the fields of the event. Messages of the HTTP server have the
same form. Requests are logged at level debug only.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

LOGGER = logging.getLogger("packager.server")
FORMATS = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")


UNFIT = (  # as in packager.escape, which the server cannot import
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
    "\u2028\u2029\ud800-\udfff\ufffe\uffff"
)
_UNFIT = re.compile(f"[{UNFIT}]")


def _shown(text: str) -> str:
    """Escape characters that act on a terminal; JSON in the line keeps its meaning."""
    return _UNFIT.sub(lambda found: json.dumps(found[0])[1:-1], text)


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
        return _shown(orjson.dumps(line, default=str).decode())


class TextLines(logging.Formatter):
    """Format a record as one readable line; values are JSON, so that none can start a new line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", {}).items()
        words = [f"{key}={orjson.dumps(value, default=str).decode()}" for key, value in fields]
        if record.exc_info:
            words.append(f"traceback={orjson.dumps(self.formatException(record.exc_info)).decode()}")
        return _shown(" ".join([moment, record.levelname.lower(), *record.getMessage().splitlines(), *words]))


def log_event(name: str, level: int = logging.INFO, *, failure: bool = False, **fields: Any) -> None:
    """Write one event; `failure` adds the traceback of the exception being handled."""
    LOGGER.log(level, name, exc_info=failure, extra={"fields": fields})


def configure_logging(level: str, form: str = "json") -> dict[str, Any]:
    """Return the `logging.config` dictionary; granian takes the same one, so that it cannot undo it."""
    ours = {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
    # On every start granian logs its workers at info and a warning that its embedded mode is experimental.
    theirs = ours | {"level": "DEBUG" if level == "debug" else "ERROR"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}, "text": {"()": TextLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form, "stream": "ext://sys.stderr"}},
        "loggers": {LOGGER.name: ours, "_granian": theirs, "granian.access": theirs, "asyncio": ours},
    }
