# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on CPUs: runs its intermediate representation (IR), compiled ahead from the graph.

`versions.json` holds what was measured by opening and running IR of the newest version in older ones;
`packager.contract.runtime_tables` says what its members mean.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.specifiers import SpecifierSet

from packager.contract import runtime_support
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import UsageError

TITLE = "OpenVINO"
TOOLCHAIN: tuple[str, ...] = ("onnx", "openvino", "numpy", "ml-dtypes", "protobuf")
EXTRA = "openvino"
PRECISIONS = ("fp32", "fp16")
DEVICES = ("cpu",)
BUILDS_ON_GPU = False
SERVED = True

_LEVEL = (18, 8)  # what the converter reads does not limit this: older graphs run on more runtimes beside it
_SERVING = ("granian>=2.5", "orjson>=3.10", "prometheus-client>=0.21", "uvloop>=0.21; sys_platform != 'win32'")


def promised(specifier: str, tables: Tables = load_shipped) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first. Raises UsageError when there is none."""
    found = [row.version for row in runtime_support.list_promised(tables("openvino"), specifier)]
    if not found:
        known = [*tables("openvino").rows]
        raise UsageError(
            f"no known version of openvino is in `{specifier:.80}`", hint=f"known are {known[0]} to {known[-1]}"
        )
    return found


def level_for(specifier: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version of the graph that the IR is made of. Raises UsageError for an empty range."""
    promised(specifier, tables)
    return _LEVEL


def requirements(specifier: str, devices: Collection[str] = ("cpu",), tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines."""
    table = tables("openvino")
    numpy = {table.rows[version].numpy for version in promised(specifier, tables)}
    bound = numpy.pop() if len(numpy) == 1 else ""
    return (f"numpy{bound}", f"openvino{SpecifierSet(specifier)}", *_SERVING)
