# SPDX-License-Identifier: Apache-2.0
"""Find, by running it, the lengths a model takes and what it returns; make it a source that can be traced."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from unittest import mock

from packager.errors import StepError
from packager.exporters import BATCH, ExportOptions, Feeds, Interface, Leaves, Port
from packager.exporters._torch import program
from packager.exporters._transformers import choosing, inputs, opening, refusing
from packager.exporters._transformers.images import HEIGHT
from packager.exporters._transformers.inputs import Inputs, Subject
from packager.exporters._transformers.opening import LOG_AS_PT2

Answer: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"

IMAGES, TEXTS = "images", "texts"  # the first axes of two towers, whose rows need not be as many
_ROWS = (BATCH, IMAGES, TEXTS)
_UNFIX = "name the free axes in the shapes under `inputs`, such as `[batch, sequence]`"
_PICTURES = ("pixel_values", "pixel_mask")
_DOUBLINGS = 8
_ROUNDING = 0.01  # what two ways to compute one attention may differ by, as a share of the result


@dataclass(frozen=True, slots=True)
class Settled:
    """The interface that the model was seen to take, the names of its outputs, and which run along the sequence."""

    interface: Interface
    outputs: tuple[str, ...]
    along: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Source(program.Traced):
    """A model of transformers as a source. `along` says of every output whether its second axis is the sequence."""

    along: tuple[bool, ...] = ()

    def plausible(self, feeds: Feeds) -> Feeds:
        """Return drawn values as a processor makes them, in pictures whose places a model can tell apart."""
        made = inputs.make_plausible(feeds)
        return choosing.replace_open_pictures(made, self.outputs, self.interface.inputs, self.run)

    def leaves(self, feeds: Feeds) -> Leaves:
        """Leave out what stands at padding, and the order of what was detected."""
        return Leaves(along=self.along, sets=self.outputs)

    def _example(self) -> dict[str, Any]:
        """Return tensors well above the low ends: at those, what convolutions leave of a length is one."""
        spans = self.interface.dimensions.items()
        above = {name: (low if name in _ROWS else min(5 * low + 6, high), high) for name, (low, high) in spans}
        return program.build_example(replace(self.interface, dimensions=above))

    def to_onnx(self, opset: int) -> Any:
        model = self.module.model
        with refusing.one_graph(type(model).__name__), _traceable(model):
            return program.Traced.to_onnx(self, opset)


def answer_all(model: Any) -> Answer:
    """Return the function from the inputs to every tensor of the model's own output, by name."""
    fixed = opening.disable_cache(model)
    return lambda feeds: _tensors(model(**feeds, **fixed))


def _tensors(result: Any) -> dict[str, Any]:
    kind = program.import_torch().Tensor
    if isinstance(result, kind):
        return {"output": result}
    items = result.items() if isinstance(result, Mapping) else ((f"output_{i}", v) for i, v in enumerate(result))
    return {name: value for name, value in items if isinstance(value, kind)}


# -- what it takes and returns


def settle(subjects: Sequence[Subject], options: ExportOptions, answer: Answer) -> Settled:
    """Return the first interface that the model takes at its low end and above. Raises StepError of the likeliest."""
    failures: list[StepError] = []
    for subject in subjects:
        described = inputs.describe_inputs(subject, options.inputs)
        for variant, interface in _variants(described, options):
            try:
                with refusing.explain_refusal(type(subject.model).__name__):
                    return _observed(interface, answer)
            except StepError as error:
                failures.append(_unsized(variant) or error)
    raise failures[0]


def _unsized(described: Inputs) -> StepError | None:
    """Return what to say when images have no size that is known."""
    port = next((port for port in described.ports if HEIGHT in port.shape), None)
    if port is None:
        return None
    return StepError(
        f"the model does not take `{port.name}` of every size, and its configuration and processor name none",
        hint=f"write the size under `inputs`: `{port.name}: {{dtype: {port.dtype}, shape: [batch, 3, 224, 224]}}`",
    )


def _variants(described: Inputs, options: ExportOptions) -> Iterator[tuple[Inputs, Interface]]:
    """Return the interfaces to try: towers apart, as described, from longer low ends on, and one row at a time."""
    requested = described.requested(options)
    names = {port.name for port in described.ports}
    if not options.inputs and BATCH not in options.named and "input_ids" in names and names & set(_PICTURES):
        towers = replace(
            described,
            ports=[_tower(port) for port in described.ports],
            spans={**described.spans, IMAGES: (1, 64), TEXTS: (1, 64)},
        )
        yield towers, towers.requested(options).interface(towers.ports, towers.limits, unfix=_UNFIX)
    base = requested.interface(described.ports, described.limits, unfix=_UNFIX)
    free = set(base.dimensions) - {BATCH, *options.named}
    for doubling in range(_DOUBLINGS if free else 1):
        lows = {name: low << doubling if name in free else low for name, (low, _) in base.dimensions.items()}
        if not doubling or all(lows[name] < base.dimensions[name][1] for name in free):
            lengths = {name: (lows[name], high) for name, (_, high) in base.dimensions.items()}
            limits = {name: replace(base.limit(name), low=low) for name, (low, _) in lengths.items()}
            yield described, replace(base, dimensions=lengths, limits=limits)
    if BATCH not in options.named:
        yield described, requested.interface(described.ports, {**described.limits, BATCH: (1, 1)}, unfix=_UNFIX)


def _tower(port: Port) -> Port:
    first = IMAGES if port.name in _PICTURES else TEXTS
    return replace(port, shape=(first, *port.shape[1:]))


def _observed(interface: Interface, answer: Answer) -> Settled:
    """Run the model at its low end and at other lengths, all different, and read what came back."""
    low = {name: bounds[0] for name, bounds in interface.dimensions.items()}
    other = {
        name: min(high, start + 2 + 3 * index)
        for index, (name, (start, high)) in enumerate(interface.dimensions.items())
    }
    runs = [(lengths, _run(interface, lengths, answer)) for lengths in (other, low)]
    names = tuple(runs[0][1])
    if not names or tuple(runs[1][1]) != names:
        raise StepError(
            "the model returns no own tensors, or others for short inputs than for long ones", hint=LOG_AS_PT2
        )
    mask = next((port for port in interface.inputs if port.name == "attention_mask"), None)
    axis = mask.shape[1] if mask and isinstance(mask.shape[-1], str) else None
    along = [_follows([(lengths, made[name]) for lengths, made in runs], mask, axis) for name in names]
    taken = {port.name for port in interface.inputs}
    return Settled(interface, tuple(f"{name}_out" if name in taken else name for name in names), tuple(along))


def check_attention(model: Any, interface: Interface, answer: Answer) -> None:
    """Refuse a model that the library computes in two ways: one graph can follow one of them only.

    Where no row has padding, transformers drops the mask and leaves it to `sdpa` to be causal. An architecture that
    forgot to say so attends to later tokens then, and does not with padding, or with `eager` attention.
    """
    configured = getattr(model.config, "_attn_implementation", None)
    if configured != "sdpa" or not any(port.name == "attention_mask" for port in interface.inputs):
        return
    lengths = {name: min(high, low + 4) for name, (low, high) in interface.dimensions.items()}
    with program.silence_warnings():
        chosen = _run(interface, lengths, answer)
        try:
            model.set_attn_implementation("eager")
            plain = _run(interface, lengths, answer)
        except (StepError, ValueError):  # it has only one way
            return
        finally:
            model.set_attn_implementation(configured)
    for name, value in chosen.items():
        if value.is_floating_point() and _gap(value, plain[name]) > _ROUNDING:
            raise StepError(
                f"transformers computes `{type(model).__name__}` in two ways: without padding, `{name}` differs by"
                f" {_gap(value, plain[name]):.2g} of its size between `sdpa` and `eager` attention",
                hint='set `"attn_implementation": "eager"` in `config.json`: causal with padding and without',
            )


def _gap(value: Any, other: Any) -> float:
    """Return the largest difference of two tensors as a share of the largest number in them."""
    if value.shape != other.shape or not value.numel():
        return 0.0
    return float((value - other).abs().nan_to_num(0).max() / other.abs().nan_to_num(0).max().clamp(min=1e-30))


def _follows(runs: Sequence[tuple[Mapping[str, int], Any]], mask: Port | None, axis: int | str | None) -> bool:
    """Say whether an output has a row for every token, at all the lengths it was seen at."""
    if mask is None or axis is None:
        return False
    first = str(mask.shape[0])
    return all(made.shape[:2] == (lengths.get(first, made.shape[0]), lengths[str(axis)]) for lengths, made in runs)


def _run(interface: Interface, lengths: Mapping[str, int], answer: Answer) -> dict[str, Any]:
    torch = program.import_torch()
    generator = torch.Generator().manual_seed(0)
    drawn = {port.name: _draw(torch, port, lengths, generator) for port in interface.inputs}
    arrays = inputs.make_plausible({name: value.numpy() for name, value in drawn.items()})
    feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad(), program.silence_warnings(), program.explain_export_error("run on its own inputs"):
        return answer(feeds)


def _draw(torch: Any, port: Port, lengths: Mapping[str, int], generator: Any) -> Any:
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.shape]
    dtype = getattr(torch, port.dtype)
    if port.name.endswith("_mask"):
        return torch.ones(shape, dtype=dtype)
    low, high = port.range or (0, 1)
    if dtype.is_floating_point:
        return low + (high - low) * torch.rand(shape, dtype=dtype, generator=generator)
    return torch.randint(int(low), int(high) + 1, shape, dtype=dtype, generator=generator)


# -- tracing


def traced_module(model: Any, answer: Answer, names: Sequence[str], parts: Sequence[Any] = ()) -> Any:
    """Wrap a function as a torch module that takes `names`; the class is made here because torch is imported here."""
    torch = program.import_torch()

    class Answering(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.parts = torch.nn.ModuleList(parts)

        def forward(self, **feeds: Any) -> Any:
            return tuple(answer(feeds).values())

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    stated = [inspect.Parameter(name, kind) for name in ("self", *names)]
    Answering.forward.__signature__ = inspect.Signature(stated)  # type: ignore[attr-defined]  # torch names inputs by it
    return Answering().eval()


@contextlib.contextmanager
def _traceable(model: Any) -> Iterator[None]:
    """Let a model be traced: experts are chosen by arithmetic, `len` of a tensor stays free, values are not checked."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(program.import_torch(), "_check_tensor_all", _unchecked))
        stack.enter_context(_experts_by_arithmetic(model))
        for name in {type(part).__module__ for part in model.modules()}:
            if name.startswith("transformers.models."):
                stack.enter_context(mock.patch.object(sys.modules[name], "len", _length, create=True))
        yield


def _unchecked(*_: object) -> None:
    """Stand in for a check of values, which a graph has no position for."""


def _length(value: Any) -> Any:
    """Return what `len` does, but of a tensor the length that the trace knows, which may be a symbol."""
    return value.shape[0] if isinstance(value, program.import_torch().Tensor) else len(value)


@contextlib.contextmanager
def _experts_by_arithmetic(model: Any) -> Iterator[None]:
    choose = getattr(model, "set_experts_implementation", None)  # transformers 5
    if choose is None:
        yield
        return
    chosen = model.get_experts_implementation()
    choose("batched_mm")
    try:
        yield
    finally:
        choose(chosen)
