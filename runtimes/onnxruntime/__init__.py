# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on CPUs: runs the graph as it is, and an fp16 form of it compiled ahead.

`versions.json` holds what was measured by loading probe graphs into every version that installs from PyPI:
`loads` is the newest opset it opens, `opset` the newest at which no probed operator is missing (`lacks` names those
that are: a version may open an opset it has no kernels for), `ir` the newest IR version, `numpy` what it must be
installed with although its own metadata may not say so, `pythons` its wheels for Linux on x86-64.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from packager.canonical import JSON
from packager.errors import UsageError

TITLE = "ONNX Runtime"
TOOLCHAIN: tuple[str, ...] = ("onnx", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
EXTRA = "onnx"
PRECISIONS = ("fp32", "fp16")
DEVICES = ("cpu",)

_OPSET = 18  # the newest that every version since 1.15 has all kernels for, and torch's own: no conversion, no loss
_IR = 8  # the oldest that can hold functions; newer ones add types only, and the graph says when it needs them
_PATCHES = 10  # of a minor version that was measured, assume the patch releases between the measured ones
_SERVING = ("granian>=2.5", "orjson>=3.10", "prometheus-client>=0.21")


@functools.cache
def versions() -> dict[str, JSON]:
    """Return the measured versions, oldest first, each with its limits."""
    text = resources.files(__name__).joinpath("versions.json").read_text("utf-8")
    return dict(sorted(json.loads(text).items(), key=lambda item: Version(item[0])))


def promised(specifier: str) -> list[str]:
    """Return the known versions that a PEP 440 range allows, oldest first. Raises UsageError when there is none."""
    try:
        wanted = SpecifierSet(specifier)
    except InvalidSpecifier as error:
        raise UsageError(
            f"`{specifier:.80}` is not a version range", hint='write it as in `onnxruntime: ">=1.17,<2"`'
        ) from error
    found = list(wanted.filter(versions())) or list(wanted.filter(_between()))
    if not found:
        oldest, newest = next(iter(versions())), next(reversed(versions()))
        raise UsageError(
            f"no known version of onnxruntime is in `{specifier:.80}`",
            hint=f"known are {oldest} to {newest}; for a newer one run `packager runtimes update`",
        )
    return found


@functools.cache
def _between() -> tuple[str, ...]:
    """Return the patch releases that may exist beside the measured ones."""
    minors = dict.fromkeys(Version(version).release[:2] for version in versions())
    return tuple(f"{major}.{minor}.{patch}" for major, minor in minors for patch in range(_PATCHES))


def limits(version: str) -> JSON:
    """Return what `version` can read; a patch release that was not measured is as able as the oldest of its minor."""
    known = versions()
    release = Version(version).release[:2]
    return known[version] if version in known else next(known[v] for v in known if Version(v).release[:2] == release)


def level_for(specifier: str) -> tuple[int, int]:
    """Return the opset and the IR version that every version in the range reads: the oldest decides."""
    oldest = limits(promised(specifier)[0])
    return min(_OPSET, oldest["opset"]), min(_IR, oldest["ir"])


def requirements(specifier: str) -> tuple[str, ...]:
    """Return what a server on this runtime is installed from, as PEP 508 lines.

    Before 1.19 the wheels crash on numpy 2, and all but 1.18.1 fail to say so.
    """
    numpy = {limits(version)["numpy"] for version in promised(specifier)}
    bound = numpy.pop() if len(numpy) == 1 else ""
    return (f"numpy{bound}", f"onnxruntime{SpecifierSet(specifier)}", *_SERVING)


def is_graph(device: str, precision: str) -> bool:
    """Say whether the canonical graph itself is the artefact of a target. Raises UsageError for an unknown target."""
    if device not in DEVICES or precision not in PRECISIONS:
        raise UsageError(
            f"onnxruntime has no target `{device}` with precision `{precision}`",
            hint=f"devices: {', '.join(DEVICES)}; precisions: {', '.join(PRECISIONS)}",
        )
    return precision == "fp32"
