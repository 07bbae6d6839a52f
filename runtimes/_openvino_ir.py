# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's intermediate representation as a file: without a trace of its maker, and read back."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError

_NAMED = re.compile(rb'(<layer id="(\d+)" name="[A-Za-z][A-Za-z0-9]*_)\d+')
_NOTE = re.compile(rb"\t<rt_info>\n(?:(?!</rt_info>).)*?OpenVINO Runtime.*?\t</rt_info>\n(?=</net>)", re.DOTALL)


def tool() -> Any:
    """Import `openvino` without its reports to its maker, or raise with how to install it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise MissingToolError("openvino", "openvino") from None


def without_maker(data: bytes) -> bytes:
    """Return IR without its counters and without the note of which build wrote it: the lock knows. Raises StepError."""
    stripped, count = _NOTE.subn(b"", by_number(data))
    if count != 1:
        raise StepError("OpenVINO wrote its version where it is not expected", hint="please report this with the model")
    return stripped


def by_number(data: bytes) -> bytes:
    """Return IR whose layers without a name in the graph are called by kind and by their own number.

    OpenVINO calls them by how many were made in this process before.
    """
    return _NAMED.sub(rb"\1\2", data)


def read_back(runtime: Any, file: Path) -> JSON:
    """Open a file once more and return what it is. Raises StepError."""
    data = file.read_bytes()
    found = re.match(rb'<\?xml version="1\.0"\?>\n<net name="[^"]*" version="(\d+)">', data)
    if found is None:
        raise StepError("OpenVINO wrote something that is no IR")
    try:
        runtime.Core().read_model(str(file))
    except Exception as error:  # the runtime raises RuntimeError and other classes
        raise StepError(f"OpenVINO cannot read what it wrote: {last_line(error)}") from error
    sets = sorted({name.decode() for name in re.findall(rb'<layer [^>]*\bversion="([^"]+)"', data)})
    return {"ir": int(found[1]), "opsets": sets}


def last_line(error: BaseException) -> str:
    """Return the last line of a message of OpenVINO, which holds the reason."""
    rows = [row.strip() for row in str(error).splitlines() if row.strip()]
    return (rows[-1] if rows else type(error).__name__)[:300]
