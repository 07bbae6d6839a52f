# SPDX-License-Identifier: Apache-2.0
"""What a fork server imports before it forks workers: libraries by fixed lists, nothing that a model names.

A library is on a list if it starts no thread when it is imported, and keeps nothing of the environment: `transformers`
is on none, because it remembers where its cache was.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence

_STEPS = ("packager.steps.export", "packager.steps.measure", "packager.steps.scan", "packager.contract.runtime_support")
_TABLES = ("sklearn.base", "sklearn.pipeline", "sklearn.linear_model", "sklearn.ensemble", "sklearn.preprocessing")
_GRAPHS = ("numpy", "onnx", "onnxruntime")
_TORCH = (
    "torch",
    "torch.export.pt2_archive",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._compat",
    "onnxscript.optimizer",
    "onnxscript.function_libs.torch_lib.ops",
)
LISTS: Mapping[str, Sequence[str]] = {
    "tables": (*_GRAPHS, *_TABLES, "joblib", "packager.exporters.sklearn", "packager.exporters.sklearn_pickle"),
    "torch": (*_GRAPHS, *_TORCH, "packager.exporters.pt2", "packager.exporters.torch_pickle"),
}
OF_KIND = {
    "sklearn": "tables",
    "sklearn-pickle": "tables",
    "pt2": "torch",
    "torch-pickle": "torch",
    "torchscript": "torch",
    "transformers": "torch",
}
"""The list of each kind of source that has one."""
WARM_STEPS = ("export", "measure", "look")
"""Steps that open a source, or what was made of it, with the libraries of a list."""


def load(name: str) -> None:
    """Import what the list `name` says; what is not installed is left out, and missed by the step that needs it."""
    if name == "tables":
        importlib.import_module("packager.exporters._tables.skops").preload()
    for module in (*LISTS[name], *_STEPS):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
