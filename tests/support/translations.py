# SPDX-License-Identifier: Apache-2.0
"""torch's table of ONNX translations, read once in a process of tests.

Each export reads five hundred functions from their source, which is more than half of the time of an export of a small
model. A worker exports once; a process of tests does hundreds of times.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest


def remember(patch: pytest.MonkeyPatch) -> None:
    """Have torch's exporter begin with a copy of the table that it made first for an operator set."""
    with contextlib.suppress(ImportError, AttributeError):  # names inside of torch: another version has others
        from torch.onnx._internal.exporter import _registration

        kind: Any = _registration.ONNXRegistry
        read, known = kind.from_torchlib, dict[tuple[Any, ...], Any]()

        def copied(*opset: Any, **named: Any) -> Any:
            key = (*opset, *named.values())
            if key not in known:
                known[key] = read(*opset, **named)
            made = kind()
            made.__dict__.update(known[key].__dict__)
            made.functions = {name: [*rows] for name, rows in known[key].functions.items()}
            return made

        patch.setattr(kind, "from_torchlib", staticmethod(copied))
