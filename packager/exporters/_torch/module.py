# SPDX-License-Identifier: Apache-2.0
"""Open a torch module that brings code: a pickle, or TorchScript. Reached only with consent of the recipe.

Such a file does not state shapes; they come from the recipe or from MLflow's signature. Code that a pickle needs is
looked for in the source's `code` directory, where MLflow puts `code_paths`.
"""

from __future__ import annotations

import inspect
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.errors import StepError
from packager.exporters import ExportOptions, Port, SourceModel
from packager.exporters._files import archive, mlflow
from packager.exporters._torch import precision, program, script, training

_UNFIX = "name the axis in the `shape` of an input: `inputs: {x: {dtype: float32, shape: [batch, 8]}}`"


def load(source: Path, payload: str, options: ExportOptions) -> SourceModel:
    """Open the file. Raises StepError when it is not a module, needs missing code, or its inputs are unknown."""
    lib = program.import_torch()
    if (source / "code").is_dir():
        sys.path.insert(0, str(source / "code"))
    module = _module(lib, source / payload)
    scripted = isinstance(module, lib.jit.ScriptModule)
    signature, outputs = mlflow.read_signature(source)
    if precision.is_half_module(lib, module):
        precision.widen_module(lib, module)
        options, signature = precision.widen_options(options), [precision.widen_port(port) for port in signature]
    declared = script.parameters(module) if scripted else _parameters(module)
    ports = _ports(options.inputs, signature, declared)
    named = all(port.name in declared for port in ports)
    _check_complete(declared, [port.name for port in ports] if named else list(declared)[: len(ports)])
    interface = options.interface(ports, {}, unfix=_UNFIX)
    names = tuple(port.name for port in ports) if named else ()
    stated = options.outputs or tuple(filter(None, outputs))
    if scripted:
        training.refuse_script(module)
        return script.Scripted(module, interface, stated)
    return program.Traced(module.eval(), interface, names, stated)


def _module(lib: Any, path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise StepError(
            f"`{path.name}` is in torch's format from before 1.6, which scanners do not see through, or is damaged",
            hint="load it once where you trust it and save it again with `torch.save`, or better as pt2",
        )
    archive.refuse_bomb(path)
    try:
        with program.silence_warnings():
            module = lib.load(str(path), map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise StepError(
            f"`{path.name}` needs the module `{error.name}`, which the source does not hold",
            hint="log the model with `code_paths`, or as pt2 (MLflow's default), which needs no code",
        ) from error
    except Exception as error:  # unpickling runs foreign code: anything can come out
        raise StepError(
            f"`{path.name}` cannot be opened: {error_causes.find_cause(error)}",
            hint="its code ran without network, home and secrets; log the model as pt2, which needs no code to open",
        ) from error
    if not isinstance(module, lib.nn.Module | lib.jit.ScriptModule):
        kind = "weights without their module" if isinstance(module, dict) else f"a {type(module).__name__}"
        raise StepError(
            f"`{path.name}` holds {kind}, expected a torch module", hint="save the module itself, or as pt2"
        )
    return module


def _parameters(module: Any) -> dict[str, bool]:
    """Return the names under which `forward` takes its arguments, and whether it needs them."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(module.forward).parameters.items()
    return {name: argument.default is argument.empty for name, argument in found if argument.kind in kinds}


def _check_complete(declared: Mapping[str, bool], given: Sequence[str]) -> None:
    for name, needed in declared.items():
        if needed and name not in given:
            raise StepError(f"`forward` needs `{name}`, which is not among the inputs", hint="add it under `inputs`")


def _ports(recipe: Sequence[Port] | None, signature: Sequence[Port], declared: Mapping[str, bool]) -> list[Port]:
    """Return the inputs as `forward` orders them: the recipe's, else the signature's, the nameless ones named after it.

    A sole input may have any name; several must have those of `forward`, or come ordered in a signature.
    """
    if not recipe and not signature:
        raise StepError(
            "the inputs of a pickled module are unknown",
            hint="add `inputs: {NAME: {dtype: float32, shape: [batch, …]}}` to the recipe, or log with a signature",
        )
    if not recipe:
        names = iter(declared)
        return [replace(port, name=port.name or next(names, f"input_{index}")) for index, port in enumerate(signature)]
    foreign = [port.name for port in recipe if port.name not in declared]
    if foreign and len(recipe) > 1:
        listed = ", ".join(f"`{name}`" for name in declared)
        raise StepError(f"`forward` has no argument `{foreign[0]}`, expected some of {listed}")
    order = list(declared)
    return sorted(recipe, key=lambda port: order.index(port.name) if port.name in order else 0)
