# SPDX-License-Identifier: Apache-2.0
"""Errors of the server: a refused request, and a failed start."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

_LONGEST_QUOTE = 100  # characters


class RequestError(Exception):
    """A request is refused; `status` is the HTTP status, the message is what the client reads.

    `retry_after` is in seconds, for a request that may succeed then.
    """

    def __init__(self, message: str, *, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after


class StartError(Exception):
    """The server cannot run. `code` is the exit code: 3 for the network, 4 for the configuration or the model."""

    def __init__(self, message: str, *, code: int = 4, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


def quote(value: object) -> str:
    """Return `value` in backticks; what is longer than 100 characters is cut, marked by an ellipsis.

    Paths are whole: they come from the operator, who needs every part of them.
    """
    text = str(value)
    if len(text) > _LONGEST_QUOTE and not isinstance(value, os.PathLike):
        text = text[: _LONGEST_QUOTE - 1] + "…"
    return f"`{text}`"


def suggest_names(name: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the close match, or the known names."""
    names = sorted(choices)
    close = difflib.get_close_matches(name[:100], names, n=1)
    return f"did you mean {quote(close[0])}?" if close else "expected one of " + ", ".join(map(quote, names))
