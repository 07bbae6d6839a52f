# SPDX-License-Identifier: Apache-2.0
"""Toy: a graph in a small container format, run by ONNX's reference evaluator; no ONNX Runtime at the site.

Its versions are those of `onnx`, which is what executes.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.runtime import SERVER_REQUIREMENTS

TITLE = "Toy"
DEVICES = ("cpu",)
PRECISIONS = ("fp32",)
TOOLCHAIN = ("onnx", "numpy", "protobuf")
EXTRA = "onnx"
SERVED = True
DISTRIBUTIONS = ("onnx",)


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version that every version in the range reads: `versions.json` says which."""
    return runtime_support.level_for("toy", specifier, tables)


def requirements(specifier: str, devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines."""
    return ("numpy>=2", f"onnx{SpecifierSet(specifier)}", *SERVER_REQUIREMENTS)
