# SPDX-License-Identifier: Apache-2.0
"""Find operators of training in a captured program: their answers differ from run to run, or depend on other rows.

`model.eval()` before the capture is what removes it; afterwards it is unknown whether it was intended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from packager.errors import StepError

_SWITCHES = {  # operator: what it is called, and the position of its training switch
    "aten::dropout": ("dropout", 2),
    "aten::dropout_": ("dropout", 2),
    "aten::native_dropout": ("dropout", 2),
    "aten::feature_dropout": ("dropout", 2),
    "aten::feature_dropout_": ("dropout", 2),
    "aten::alpha_dropout": ("dropout", 2),
    "aten::alpha_dropout_": ("dropout", 2),
    "aten::feature_alpha_dropout": ("dropout", 2),
    "aten::rrelu": ("randomised leaky ReLU", 3),
    "aten::batch_norm": ("batch normalisation", 5),
    "aten::instance_norm": ("", 5),
    "aten::native_batch_norm": ("batch normalisation", 5),
    "aten::cudnn_batch_norm": ("batch normalisation", 5),
    "aten::_native_batch_norm_legit": ("batch normalisation", 5),
    "aten::_native_batch_norm_legit_functional": ("batch normalisation", 5),
    "aten::lstm": ("dropout between recurrent layers", 6),
    "aten::gru": ("dropout between recurrent layers", 6),
}
_RATES = {"aten::lstm": 5, "aten::gru": 5}  # the rate that goes with the switch: no dropout, no difference
_ATTENTION = "aten::scaled_dot_product_attention"  # its dropout is a rate without a switch, the fifth argument


def refuse(program: Any, *, captured_here: bool) -> None:
    """Raise StepError for a program that was captured in training mode, naming the layer and the remedy.

    `captured_here` says that the module was put into eval mode first, so that it switches training on by itself.
    """
    found = sorted(set(_found(program)))
    if not found:
        return
    listed = " and ".join(found)
    if captured_here:
        raise StepError(
            f"`forward` keeps {listed} in training mode although the model is in eval mode",
            hint="pass `training=self.training` to functions such as `F.dropout`, then save the model again",
        )
    raise StepError(
        f"the program was captured in training mode: its {listed} is still on",
        hint="call `model.eval()` before `torch.export.export` or `mlflow.pytorch.log_model`, and log it again",
    )


def _found(program: Any) -> Iterator[str]:
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            schema = getattr(node.target, "_schema", None)
            if node.op == "call_function" and schema is not None:
                yield from _of(schema, node)


def _of(schema: Any, node: Any) -> Iterator[str]:
    def argument(position: int) -> Any:
        declared = schema.arguments[position]
        given = node.args[position] if position < len(node.args) else node.kwargs.get(declared.name)
        return declared.default_value if given is None and declared.has_default_value() else given

    if schema.name == _ATTENTION:
        yield from ("dropout",) if argument(4) else ()
        return
    what, position = _SWITCHES.get(schema.name, ("", 0))
    if what and argument(position) is True and (schema.name not in _RATES or argument(_RATES[schema.name])):
        yield what


def refuse_script(module: Any) -> None:
    """Raise StepError for a trace that was recorded in training mode: the switch is a constant in it."""
    graph: Any = getattr(module, "inlined_graph", None)
    for kind in _SWITCHES if graph is not None else ():
        what, position = _SWITCHES[kind]
        for node in graph.findAllNodes(kind, recurse=True) if what and kind not in _RATES else ():
            if list(node.inputs())[position].toIValue() is True:
                raise StepError(
                    f"the script was traced in training mode: its {what} is still on",
                    hint="call `model.eval()` before `torch.jit.trace`, and save it again",
                )
