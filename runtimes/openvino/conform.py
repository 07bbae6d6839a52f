# SPDX-License-Identifier: Apache-2.0
"""OpenVINO under test, on the CPU in full precision; it reads the canonical graph and its own compiled form alike."""

from __future__ import annotations

from packaging.version import Version

from packager.contract.runtime_tables import Tables, load_shipped

ACCEPTS = ("onnxruntime", "openvino")
CHANNELS = ("adapter",)
DEVICE = "cpu"
LIBRARY = "openvino"
KNOBS = ("runtime.threads",)  # of the bundle, that its adapter can set
_NUMPY = (("2025.0.0", "1.26.4"), ("2026.0.0", "2.1.3"))  # before this version of OpenVINO, that of numpy


def versions(tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the versions that can be tested, oldest first: those whose operators were measured."""
    table = tables("openvino")
    return tuple(version for version in table.rows if table.kernels_of(version))


def requirements(version: str, python: str) -> tuple[str, ...]:
    """Return the pinned packages of the environment, with a numpy that each release's own bounds allow."""
    numpy = next((numpy for before, numpy in _NUMPY if Version(version) < Version(before)), "2.2.6")
    return (f"openvino=={version}", f"numpy=={numpy}")


def pythons(version: str, tables: Tables = load_shipped) -> tuple[str, ...]:
    """Return the Python versions it has wheels for, and numpy too."""
    known = [row.python for row in tables("openvino").rows.values() if row.version == version]
    return tuple(python for python in (known or [("3.11",)])[0] if python in ("3.10", "3.11", "3.12", "3.13"))


def deviations(version: str) -> dict[str, str]:
    """Return the laws that this release breaks for every model, each with what was seen."""
    law, seen = (
        "test_a_bad_request_is_refused_in_a_sentence",
        "OpenVINO gives an array of another shape the one it wants",
    )
    return {f"{law}[adapter-{kind}]": seen for kind in ("one dimension less", "wrong fixed size")}
