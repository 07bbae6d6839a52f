# SPDX-License-Identifier: Apache-2.0
"""TorchScript modules as sources. Runs in the worker only.

They are converted by torch's older exporter: `torch.export` takes no script, and the converter between the two
(`TS2EPConverter`) is private and fixes the batch. The older one keeps free axes and control flow.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.errors import StepError
from packager.exporters import Arrays, Feeds, Interface, _torch
from packager.graphs import graph


def parameters(module: Any) -> dict[str, bool]:
    """Return the names under which `forward` takes its arguments, and whether it needs them."""
    return {item.name: not item.has_default_value() for item in module.forward.schema.arguments[1:]}


@dataclass(frozen=True, slots=True)
class Scripted:
    """A script as a source, its inputs passed by position. `outputs` are the wished names, empty for the default."""

    module: Any
    interface: Interface
    outputs: tuple[str, ...] = ()

    def to_onnx(self, opset: int) -> Any:
        lib, inputs = _torch.torch(), [port.name for port in self.interface.inputs]
        given = tuple(_torch.example(self.interface).values())
        names = self._names(len(self._answers(given)))
        free = {port.name: {i: axis for i, axis in enumerate(port.shape) if isinstance(axis, str)}
                for port in self.interface.inputs}  # fmt: skip
        sink = io.BytesIO()
        with _torch.translated("converted"), _torch.quiet(), lib.no_grad():
            lib.onnx.export(
                self._still(), given, sink, dynamo=False, opset_version=opset, input_names=inputs,
                output_names=names, dynamic_axes=free,
            )  # fmt: skip
        model = graph.tool().load_from_string(sink.getvalue())
        _refuse_missing(model, inputs)
        return model

    def _still(self) -> Any:
        """Return the module as it answers, without what only training needs."""
        if getattr(self.module, "training", False):
            self.module.eval()
        return self.module

    def _names(self, count: int) -> Sequence[str]:
        if self.outputs and len(self.outputs) != count:
            raise StepError(f"expected {count} output names, got {len(self.outputs)}: {', '.join(self.outputs)}")
        return self.outputs or (["output"] if count == 1 else [f"output_{index}" for index in range(count)])

    def _answers(self, given: Sequence[Any]) -> Arrays:
        with _torch.quiet(), _torch.translated("run on its own inputs"), _torch.torch().inference_mode():
            return _torch.arrays(self._still()(*given))

    def run(self, feeds: Feeds) -> Arrays:
        with _torch.quiet(), _torch.torch().inference_mode():
            return _torch.arrays(self._still()(*(_torch.tensor(feeds[port.name]) for port in self.interface.inputs)))

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def _refuse_missing(model: Any, inputs: Sequence[str]) -> None:
    """Refuse a graph that lost an input: the older exporter drops what a script does not use."""
    kept = {value.name for value in model.graph.input}
    lost = [name for name in inputs if name not in kept]
    if lost:
        raise StepError(f"the script does not use its input `{lost[0]}`", hint="leave it out under `inputs`")
