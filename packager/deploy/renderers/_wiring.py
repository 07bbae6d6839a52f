# SPDX-License-Identifier: Apache-2.0
"""Do the steps of a pipeline fit together? Names, element types, ranks and every length are held against the contracts.

A free dimension belongs to its step until a tensor joins it with one of another step: from then on they are one
length, in the range that both take. A length that no caller chooses (the number of hits of a detector, say) has to fit
wherever it can end up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from packager.canonical import JSON
from packager.deploy.triton.pipeline import Pipeline, Step
from packager.errors import UsageError, did_you_mean

Free: TypeAlias = tuple[int, str]  # number of the step, name of the dimension in its contract
Size: TypeAlias = int | Free
Port: TypeAlias = tuple[int, JSON]  # number of the step, input or output of its contract


class _Lengths:
    """Free dimensions of all steps, joined where tensors join them."""

    def __init__(self, interfaces: Sequence[JSON]) -> None:
        self._same: dict[Free, Size] = {}
        self.span = {
            (number, name): (span["min"], span["max"])
            for number, found in enumerate(interfaces)
            for name, span in found["dimensions"].items()
        }

    def of(self, size: Size) -> Size:
        """Return what stands for a size: a length, or one free dimension for all that are joined."""
        while not isinstance(size, int) and size in self._same:
            size = self._same[size]
        return size

    def join(self, one: Size, other: Size) -> bool:
        """Make two sizes one; False if no length is both."""
        one, other = self.of(one), self.of(other)
        if one == other:
            return True
        if isinstance(one, int):
            one, other = other, one
        if isinstance(one, int):
            return False
        low, high = self.span[one]
        least, most = (other, other) if isinstance(other, int) else self.span[other]
        low, high = max(low, least), min(high, most)
        if low > high:
            return False
        if not isinstance(other, int):
            self.span[other] = (low, high)
        self._same[one] = other
        return True


def join_interfaces(pipeline: Pipeline, interfaces: Mapping[str, JSON], *, batched: bool) -> JSON:
    """Return inputs, outputs and dimensions of the whole, in the form of a contract.

    `interfaces` are those of the models. With `batched` the server counts rows, so all first dimensions are one. Raises
    UsageError about the first tensor that does not fit.
    """
    steps = pipeline.steps
    lengths = _Lengths([interfaces[step.model] for step in steps])
    for step in steps:
        _check_names(step, interfaces[step.model])
    made = dict(_ports(steps, interfaces, "outputs"))
    taken = list(_ports(steps, interfaces, "inputs"))
    entering: dict[str, Port] = {}
    for tensor, port in taken:
        _join(tensor, made.get(tensor) or entering.setdefault(tensor, port), port, steps, lengths)
    if batched:
        _join_rows([*made.values(), *(port for _, port in taken)], lengths)
    _check_unchosen(steps, made, taken, interfaces)
    ports = {tensor: made.get(tensor) or entering[tensor] for tensor in (*pipeline.inputs, *pipeline.outputs)}
    return _described(pipeline, ports, lengths)


def _check_names(step: Step, known: JSON) -> None:
    for kind, word in (("inputs", "input"), ("outputs", "output")):
        names = [port["name"] for port in known[kind]]
        for name in getattr(step, kind):
            if name not in names:
                raise UsageError(f"{step.place}: `{step.model}` has no {word} `{name}`", hint=did_you_mean(name, names))
    for port in known["inputs"]:
        if port["name"] not in step.inputs:
            raise UsageError(
                f"{step.place}: input `{port['name']}` of `{step.model}` gets no tensor",
                hint=f"add `{port['name']}: …` under its `inputs`",
            )


def _ports(steps: Sequence[Step], interfaces: Mapping[str, JSON], kind: str) -> Iterator[tuple[str, Port]]:
    for number, step in enumerate(steps):
        ports = {port["name"]: port for port in interfaces[step.model][kind]}
        for name, tensor in getattr(step, kind).items():
            yield tensor, (number, ports[name])


def _sizes(port: Port) -> list[Size]:
    return [size if isinstance(size, int) else (port[0], size) for size in port[1]["shape"]]


def _join(tensor: str, origin: Port, port: Port, steps: Sequence[Step], lengths: _Lengths) -> None:
    """Make the sizes of a tensor those of where it comes from and of where it goes."""
    same = origin[1]["dtype"] == port[1]["dtype"] and len(origin[1]["shape"]) == len(port[1]["shape"])
    if not same or not all(lengths.join(one, other) for one, other in zip(_sizes(origin), _sizes(port), strict=True)):
        raise UsageError(
            f"`{tensor}` does not fit: {_told(origin, steps)}, {_told(port, steps)}",
            hint="join ports of one element type and of shapes with a length in common",
        )


def _told(port: Port, steps: Sequence[Step]) -> str:
    number, about = port
    shape = ", ".join(map(str, about["shape"]))
    return f"`{about['name']}` of `{steps[number].model}` ({steps[number].place}) is {about['dtype']} [{shape}]"


def _join_rows(ports: Sequence[Port], lengths: _Lengths) -> None:
    """Make all first dimensions one: the server counts rows once for a request."""
    firsts = [_sizes(port)[0] for port in ports]
    if not all(lengths.join(firsts[0], other) for other in firsts[1:]):
        raise UsageError("no number of rows fits all steps", hint="compare the ranges of their first dimensions")


def _check_unchosen(
    steps: Sequence[Step], made: Mapping[str, Port], taken: Sequence[tuple[str, Port]], interfaces: Mapping[str, JSON]
) -> None:
    """Refuse a length that a step makes up and a later one may not take: no caller could keep out of it."""
    chosen: set[Size] = set()
    for tensor, port in taken:  # in the order of the steps
        origin = made.get(tensor)
        for size, source in zip(_sizes(port), _sizes(origin or port), strict=True):
            if origin is None or isinstance(source, int) or source in chosen:
                chosen.add(size)
            elif not _within(_span(source, steps, interfaces), _span(size, steps, interfaces)):
                raise UsageError(
                    f"`{tensor}`: {_told(origin, steps)}, where `{source[1]}` is not the caller's choice, and "
                    f"{_told(port, steps)}",
                    hint="the later step has to take every length that the earlier one may give",
                )


def _span(size: Size, steps: Sequence[Step], interfaces: Mapping[str, JSON]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    span = interfaces[steps[size[0]].model]["dimensions"][size[1]]
    return span["min"], span["max"]


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _described(pipeline: Pipeline, ports: Mapping[str, Port], lengths: _Lengths) -> JSON:
    """Name the dimensions of the whole after the first of those that were joined, two of one name apart."""
    names: dict[Free, str] = {}
    for port in ports.values():
        for size in _sizes(port):
            root = lengths.of(size)
            if not isinstance(size, int) and not isinstance(root, int) and root not in names:
                same = sum(1 for other in names.values() if other.partition("-")[0] == size[1])
                names[root] = f"{size[1]}-{same + 1}" if same else size[1]
    found = {
        tensor: {"name": tensor, "dtype": port[1]["dtype"], "shape": _shape(port, lengths, names)}
        for tensor, port in ports.items()
    }
    spans = {name: dict(zip(("min", "max"), lengths.span[root], strict=True)) for root, name in names.items()}
    return {
        "inputs": [found[tensor] for tensor in pipeline.inputs],
        "outputs": [found[tensor] for tensor in pipeline.outputs],
        "dimensions": spans,
    }


def _shape(port: Port, lengths: _Lengths, names: Mapping[Free, str]) -> list[int | str]:
    roots = [lengths.of(size) for size in _sizes(port)]
    return [root if isinstance(root, int) else names[root] for root in roots]
