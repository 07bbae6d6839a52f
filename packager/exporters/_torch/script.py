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
from packager.exporters import Arrays, Feeds, Interface
from packager.exporters._torch import program
from packager.graph import canonicalise, integers, rename


def parameters(module: Any) -> dict[str, bool]:
    """Return the names under which `forward` takes its arguments, and whether it needs them."""
    return {item.name: not item.has_default_value() for item in module.forward.schema.arguments[1:]}


@dataclass(frozen=True, slots=True)
class Scripted:
    """A script as a source, its inputs passed by position. `outputs` are the requested names, empty for the default."""

    module: Any
    interface: Interface
    outputs: tuple[str, ...] = ()

    def to_onnx(self, opset: int) -> Any:
        lib, ports = program.import_torch(), self.interface.inputs
        given = tuple(program.build_example(self.interface).values())
        count = len(self._answers(given))
        inputs, outputs = [f"input_{index}" for index in range(len(ports))], [f"output_{i}" for i in range(count)]
        free = {
            name: {i: axis for i, axis in enumerate(port.shape) if isinstance(axis, str)}
            for name, port in zip(inputs, ports, strict=True)
        }
        sink = io.BytesIO()
        with program.explain_export_error("converted"), program.silence_warnings(), lib.no_grad():
            lib.onnx.export(
                self._still(),
                given,
                sink,
                dynamo=False,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=free,
            )
        model = canonicalise.import_onnx().load_from_string(sink.getvalue())
        integers.write_exactly(model, inputs)
        names = [port.name for port in ports]
        _refuse_missing(model, dict(zip(inputs, names, strict=True)))
        rename.name_ports(model, names, program.named_outputs(count, self.outputs, names))
        return model

    def _still(self) -> Any:
        """Return the module as it answers, without what only training needs."""
        if getattr(self.module, "training", False):
            self.module.eval()
        return self.module

    def _answers(self, given: Sequence[Any]) -> Arrays:
        with (
            program.silence_warnings(),
            program.explain_export_error("run on its own inputs"),
            program.import_torch().inference_mode(),
        ):
            return program.list_arrays(self._still()(*given))

    def run(self, feeds: Feeds) -> Arrays:
        with program.silence_warnings(), program.import_torch().inference_mode():
            return program.list_arrays(
                self._still()(*(program.copy_tensor(feeds[port.name]) for port in self.interface.inputs))
            )

    def extra_files(self) -> Mapping[str, Path]:
        return {}


def _refuse_missing(model: Any, inputs: Mapping[str, str]) -> None:
    """Refuse a graph that lost an input: the older exporter drops what a script does not use."""
    kept = {value.name for value in model.graph.input}
    lost = [name for inner, name in inputs.items() if inner not in kept]
    if lost:
        raise StepError(f"the script does not use its input `{lost[0]}`", hint="leave it out under `inputs`")
