# SPDX-License-Identifier: Apache-2.0
"""A pipeline: models of one repository, one after another, and how their tensors are joined.

    name: support
    steps:
      - model: prepare                 # a model of the repository
        inputs: {pixels: image}        # input of the model: tensor of the pipeline
        outputs: {scaled: features}
      - model: digits
        inputs: {image: features}
        outputs: {output: scores}
    outputs: [scores]                  # optional: by default what no step takes

What no step makes is an input of the pipeline. The order of the steps in the file means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packager import strictyaml
from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.names import NAME
from packager.recipe.fields import MAX_NAME

_TENSOR = r"[A-Za-z0-9_][^\s\x00-\x1f\x7f]{0,255}"
MAX_STEPS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One use of a model. `place` is where a person finds it, for messages."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    place: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in an order in which each finds its tensors made, and the tensors that leave; the rest enter."""

    name: str
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> JSON:
        steps = [{"model": step.model, "inputs": {**step.inputs}, "outputs": {**step.outputs}} for step in self.steps]
        return {"name": self.name, "steps": steps, "outputs": list(self.outputs)}

    @staticmethod
    def from_json(value: JSON) -> Pipeline:
        """Read what `to_json` gave. Raises UsageError, KeyError, TypeError."""
        name = value["name"]
        steps = [
            Step(row["model"], row["inputs"], row["outputs"], f"`{name}`, `{row['model']}`") for row in value["steps"]
        ]
        return _joined(name, steps, value["outputs"])


def parse(data: bytes, file: str) -> Pipeline:
    """Read a pipeline; `file` is what messages call it. Raises UsageError with the line."""
    node = strictyaml.parse(data, file)
    found = strictyaml.read_fields(node, "the pipeline", ("name", "steps", "outputs"), ("name", "steps"))
    name = strictyaml.read_text(
        found["name"], "name", pattern=NAME, expect="a name of lower-case words", limit=MAX_NAME
    )
    steps = [_step(item) for item in strictyaml.read_items(found["steps"], "steps", least=1, most=MAX_STEPS)]
    listed = strictyaml.read_items(found["outputs"], "outputs", least=1) if "outputs" in found else ()
    if any(step.model == name for step in steps):
        raise found["name"].where.error(f"`{name}` is also the name of a step", hint="give the pipeline another name")
    return _joined(name, steps, [_tensor(item, "outputs") for item in listed])


def _step(node: strictyaml.Node) -> Step:
    keys = ("model", "inputs", "outputs")
    found = strictyaml.read_fields(node, "a step", keys, keys)
    model = strictyaml.read_text(found["model"], "model", pattern=NAME, expect="the name of a model", limit=MAX_NAME)
    return Step(model, _ports(found["inputs"], "inputs"), _ports(found["outputs"], "outputs"), str(node.where))


def _ports(node: strictyaml.Node, what: str) -> dict[str, str]:
    entries = strictyaml.read_table(node, what, least=1).entries
    return {key.text: _tensor(value, f"{what}.{key.text:.80}") for key, value in entries}


def _tensor(node: strictyaml.Node, what: str) -> str:
    return strictyaml.read_text(node, what, pattern=_TENSOR, expect="the name of a tensor", limit=256)


def _joined(name: str, steps: list[Step], listed: list[str]) -> Pipeline:
    """Check how the tensors are joined, and put the steps in order."""
    makers = _makers(steps)
    taken = {tensor for step in steps for tensor in step.inputs.values()}
    for tensor in listed:
        if tensor not in makers:
            raise UsageError(f"`{name}`: no step makes the output `{tensor}`", hint=did_you_mean(tensor, makers))
    ordered = tuple(_ordered(steps, makers))
    outputs = tuple(dict.fromkeys(listed)) or tuple(tensor for tensor in makers if tensor not in taken)
    for tensor, maker in makers.items():
        if tensor not in taken and tensor not in outputs:
            raise UsageError(
                f"{maker.place}: no step takes `{tensor}`", hint="list it under `outputs`, or leave it out of the step"
            )
    entering = (tensor for step in ordered for tensor in step.inputs.values() if tensor not in makers)
    return Pipeline(name, ordered, tuple(dict.fromkeys(entering)), outputs)


def _makers(steps: list[Step]) -> dict[str, Step]:
    """Return which step makes each tensor."""
    found: dict[str, Step] = {}
    for step in steps:
        for tensor in step.outputs.values():
            if tensor in found:
                raise UsageError(
                    f"{step.place}: `{tensor}` is made twice, first at {found[tensor].place}",
                    hint="give one of the two another name",
                )
            found[tensor] = step
    return found


def _ordered(steps: list[Step], makers: Mapping[str, Step]) -> Iterator[Step]:
    """Yield the steps so that each comes after those it takes from. Raises UsageError for a circle."""
    done: set[str] = set()
    left = list(steps)
    while left:
        ready = [step for step in left if all(t in done or t not in makers for t in step.inputs.values())]
        if not ready:
            circle = ", ".join(f"`{step.model}` ({step.place})" for step in left)
            raise UsageError(f"steps wait for each other: {circle}", hint="no step may need what follows from it")
        yield from ready
        left = [step for step in left if step not in ready]
        done.update(tensor for step in ready for tensor in step.outputs.values())
