# SPDX-License-Identifier: Apache-2.0
"""The parts of ONNX Runtime Web with which a passport runs its model in the reader's browser.

They are two files of the package `onnxruntime-web` (npm), given as its folder: this program fetches nothing. The page
carries them compressed, with the graph and its reference inputs; the reference outputs are those of the signed
statement, and the page checks the digest of everything else against the manifest before it runs.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import PackagerError, UsageError
from packager.files import open_regular
from packager.formats import reference_outputs
from packager.trust.verify import read_statements

MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
MAX_MODEL = 64 << 20  # bytes of graph that a page may carry
MAX_PART = 128 << 20
_INDEX = "vectors/index.json"


def list_parts(bundle: Bundle, folder: Path) -> JSON:
    """Return what the page needs to run `bundle`. `folder` is `onnxruntime-web`, or its `dist`.

    Raises UsageError where a file is missing, or the bundle has no graph that can travel in a page.
    """
    there = folder / "dist" if (folder / "dist").is_dir() else folder
    name, target = _target(bundle)
    return {
        "target": name,
        "path": target["path"],
        "tolerance": target["tolerance"],
        "module": _compressed(there / MODULE),
        "wasm": _compressed(there / WASM),
        "outputs": _text(_reference_outputs(bundle)),
        "model": _text(bundle.read(target["path"], limit=MAX_MODEL)),
        "cases": [
            {
                "name": case["name"],
                "file": case["file"],
                "data": _text(bundle.read(f"vectors/inputs/{case['file']}.safetensors")),
            }
            for case in bundle.load(_INDEX)["cases"]
        ],
    }


def _reference_outputs(bundle: Bundle) -> bytes:
    """Return the outputs that a statement about the bundle records; the page checks digest and signature itself."""
    for statement in read_statements(bundle):
        if statement.predicate_type == reference_outputs.PREDICATE:
            try:
                files = reference_outputs.read(statement.predicate, bundle.tree, "statement", bundle.evidence)
            except PackagerError:
                continue
            return files.get("outputs.safetensors", b"")
    return b""


def _target(bundle: Bundle) -> tuple[str, Mapping[str, JSON]]:
    """Choose what runs: a graph in one file for ONNX Runtime on CPUs, fp32 first."""
    external = [path for path, _ in bundle.tree if path.endswith((".onnx.data", ".onnx_data"))]
    found = [
        (target["precision"] != "fp32", name, target)
        for name, target in bundle.contract.document["targets"].items()
        if target["path"].endswith(".onnx") and target["runtime"] == "onnxruntime" and target["device"] == "cpu"
    ]
    if not found or external or bundle.tree.get(_INDEX) is None:
        raise UsageError(
            f"`{bundle.name}` cannot run in a page: that takes an `onnxruntime` target for CPUs in one file, "
            "and reference inputs",
            hint="leave `--player` out",
        )
    _, name, target = min(found, key=lambda row: row[:2])
    blob = bundle.tree.get(target["path"])
    if blob is not None and blob.size > MAX_MODEL:
        raise UsageError(
            f"the graph has {blob.size} bytes, and a page carries at most {MAX_MODEL}", hint="leave `--player` out"
        )
    return name, target


def _compressed(path: Path) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_PART)
    except FileNotFoundError:
        raise UsageError(
            f"`{path}` is missing", hint="`npm install onnxruntime-web`, then give `node_modules/onnxruntime-web`"
        ) from None
    return _text(gzip.compress(data, mtime=0))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
