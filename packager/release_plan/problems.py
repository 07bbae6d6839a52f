# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a task, as data: an error, a bug, or a gate that said no."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterable

from packager.errors import PackagerError, StepError
from packager.release_plan.plan import Problem
from packager.types import Verdict

_DETAILS = 20  # findings or lines of a log of one problem
_BUG = 70


class GateError(Exception):
    """A gate ran to its end and said no."""

    def __init__(self, message: str, details: Iterable[str]) -> None:
        super().__init__(message)
        self.details = tuple(itertools.islice(details, _DETAILS))


def refuse_by(message: str, verdict: Verdict) -> GateError:
    """Return the error of a gate whose policy found something."""
    errors = [item for item in verdict.findings if item.level == "error"]
    first = f": {errors[0].message}" if errors else ""
    return GateError(f"{message}{first}", (f"{item.level}: {item.message}" for item in verdict.findings))


def describe_error(error: PackagerError) -> Problem:
    """Return an error as data, with the end of the log of a step that died."""
    log = error.log.splitlines()[-_DETAILS:] if isinstance(error, StepError) and error.log else []
    return Problem(error.code, error.message, error.hint, tuple(log))


def describe_bug(error: BaseException) -> Problem:
    """Return an exception that is no error of ours as data."""
    lines = "".join(traceback.format_exception(error)).splitlines()[-_DETAILS:]
    return Problem(_BUG, f"this is a bug in packager: {type(error).__name__}: {error}", None, tuple(lines))
