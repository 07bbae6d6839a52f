# SPDX-License-Identifier: Apache-2.0
"""What torch's exporter looks up anew for every export, looked up once in a process of tests.

Each export reads five hundred ONNX translations from their source, which is more than half of the time of an export of
a small model, and walks dozens of times over a thousand operators that it has made attributes of. A worker exports once;
a process of tests does hundreds of times.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest


def remember(patch: pytest.MonkeyPatch) -> None:
    """Have torch's exporter keep its table of translations, and the operators that it has seen."""
    _remember_translations(patch)
    _remember_operators(patch)


def _remember_operators(patch: pytest.MonkeyPatch) -> None:
    """Make attributes of operators that are new since the last time only; they stay attributes."""
    with contextlib.suppress(ImportError, AttributeError):  # names inside of torch: another version has others
        from torch import _C
        from torch._export import utils

        walk: Any = utils._materialize_cpp_cia_ops
        seen = 0

        def walk_when_new() -> None:
            nonlocal seen
            count = len(_C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
            if count != seen:
                walk()
                seen = count

        patch.setattr(utils, "_materialize_cpp_cia_ops", walk_when_new)


def _remember_translations(patch: pytest.MonkeyPatch) -> None:
    """Begin with a copy of the table that was made first for an operator set."""
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
