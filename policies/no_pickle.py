# SPDX-License-Identifier: Apache-2.0
"""No file may be a pickle or another executable format.

Pickles run code when they are opened. They are recognised by suffix and by their first bytes, whatever the suffix; so
are native programs, scripts, and archives other than wheels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("contents",)


_SUFFIXES = frozenset(
    {
        ".pkl",
        ".pickle",
        ".p",
        ".joblib",
        ".dill",
        ".cloudpickle",
        ".pt",
        ".pth",
        ".ckpt",
        ".npy",
        ".npz",
        ".h5",
        ".keras",
        ".pt2",
        ".mar",
        ".skops",
        ".dat",
    }
)
_ZIPPED = frozenset({".whl"})


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for each file that is an executable format by its content or its suffix."""
    for file in facts["contents"]["files"]:
        path, looks = file["path"], file["looks"]
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in _SUFFIXES:
            yield _finding(path, f"`{path}` has the suffix of a format that can contain pickles", looks)
        elif looks is not None and not (looks == "zip" and suffix in _ZIPPED):
            yield _finding(path, f"`{path}` begins like a {looks} file", looks)


def _finding(path: str, message: str, looks: JSON) -> Finding:
    return Finding("no-pickle", "error", path, message, "export it to ONNX or safetensors", evidence={"looks": looks})
