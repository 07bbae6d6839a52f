# SPDX-License-Identifier: Apache-2.0
"""Name the architecture, and the line of its code, of a failure that torch explains no better."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from packager.error_causes import first_line
from packager.errors import StepError
from packager.exporters._transformers.opening import LOG_AS_PT2

_VAGUE = "the model could not be "
_OWN = "/transformers/models/"


@contextlib.contextmanager
def one_graph(kind: str) -> Iterator[None]:
    """Name the architecture `kind` where it cannot be traced or converted."""
    with _restated(f"`{kind}` computes{{position}} what one graph does not hold: {{said}}", LOG_AS_PT2):
        yield


@contextlib.contextmanager
def explain_refusal(kind: str) -> Iterator[None]:
    """Name the architecture `kind` where it does not run on its inputs as they are described."""
    hint = "describe every input under `inputs`: its name, dtype, shape and range"
    with _restated(
        f"`{kind}` does not take its inputs as its configuration describes them{{position}}: {{said}}", hint
    ):
        yield


@contextlib.contextmanager
def _restated(sentence: str, hint: str) -> Iterator[None]:
    try:
        yield
    except StepError as error:
        if not str(error).startswith(_VAGUE) or error.__cause__ is None:
            raise
        links = _chain(error.__cause__)
        said = first_line(links[-1])
        raise StepError(sentence.format(position=_position(links), said=f"{said:.200}"), hint=hint) from error.__cause__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _position(links: list[BaseException]) -> str:
    """Return the innermost line of the architecture's own code."""
    frames = [frame for link in reversed(links) for frame in reversed(traceback.extract_tb(link.__traceback__))]
    own = next((frame for frame in frames if _OWN in frame.filename), None)
    return f" at `{own.filename.rsplit('/', 1)[-1]}:{own.lineno}`" if own else ""
