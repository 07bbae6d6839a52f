# SPDX-License-Identifier: Apache-2.0
"""Bounds on packages that follow from the age of a library, where its own metadata states none.

Metadata is written before what comes later is known: an old release that names no upper bound is installed with a numpy
that it was not compiled against. Every row was seen to fail without its bound; a trial (`steps.trial`) finds the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, slots=True)
class Bound:
    """Releases of a library need a package within a range, because of `reason`."""

    library: str
    releases: str
    package: str
    range: str
    reason: str


BOUNDS = (
    Bound("scikit-learn", "<1.4.2", "numpy", "<2", "its wheels are compiled against numpy 1"),
    Bound("xgboost", "<2.1", "numpy", "<2", "it calls numpy in a way that numpy 2 refuses"),
    Bound("xgboost", "<1.6", "setuptools", "<81", "it imports `pkg_resources`, which setuptools 81 dropped"),
    Bound("torch", "<2.3", "numpy", "<2", "its wheels are compiled against numpy 1"),
    Bound("keras", "<3.5", "onnx", "<1.19", "its TensorFlow holds ml-dtypes below 0.5, and onnx 1.19 needs more"),
    Bound("tensorflow", "<2.18", "onnx", "<1.19", "it holds ml-dtypes below 0.5, and onnx 1.19 needs more"),
)

_FIRST = {  # the first release with wheels for a Python, of libraries that are compiled for each
    "scikit-learn": {"3.11": "1.1.3", "3.12": "1.3.1", "3.13": "1.5.2", "3.14": "1.7.2"},
    "tensorflow": {"3.11": "2.12.0", "3.12": "2.16.1", "3.13": "2.20.0"},
    "torch": {"3.11": "2.0.0", "3.12": "2.2.0", "3.13": "2.5.0", "3.14": "2.9.0"},
}


def list_bounds(packages: Mapping[str, str]) -> Iterator[Bound]:
    """Yield the bounds that follow from exact versions (`==1.2.2`) among `packages`."""
    for bound in BOUNDS:
        version = exact_version(packages.get(bound.library, ""))
        if version is not None and SpecifierSet(bound.releases).contains(version, prereleases=True):
            yield bound


def unbuilt_library(packages: Mapping[str, str], python: str) -> str | None:
    """Return the library and version that has no build for a Python because it is older; None if all may have one."""
    for library, first in _FIRST.items():
        version = exact_version(packages.get(library, ""))
        if version is not None and python in first and version < Version(first[python]):
            return f"{library} {version}"
    return None


def exact_version(spec: str) -> Version | None:
    """Return the version of a range that allows one only."""
    try:
        return Version(spec.removeprefix("==")) if spec.startswith("==") else None
    except InvalidVersion:  # `==1.2.*`
        return None
