# SPDX-License-Identifier: Apache-2.0
"""Exporters: one file for each kind of source that can become a graph; the file name is the registration.

An exporter has two halves. `detect` runs in the main process, sees names and small files only and imports nothing
heavy. `load` runs in the sandboxed worker, opens the payload and returns a `SourceModel`: the source itself, ready
to be run (it is the reference that artefacts are measured against) and to be turned into ONNX.

`ExportOptions` is what the recipe requests; `Interface` is what came out: every axis is a number or a named dimension,
and every named dimension has a range.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from packager import plugins
from packager.canonical import JSON
from packager.edits import Edit
from packager.errors import StepError, close_match
from packager.exporters._files import bentoml
from packager.exporters._interface import integers, masks
from packager.recipe.lengths import Axis, Lengths

if TYPE_CHECKING:
    import numpy as np

Feeds: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
Arrays: TypeAlias = "list[np.ndarray[Any, Any]]"
Range: TypeAlias = tuple[int, int]

BATCH = "batch"
_DEFAULT_RANGES = {BATCH: (1, 64)}
_OTHER_RANGE = (1, 512)
_UNLIMITED = (1, (1 << 31) - 1)
AS_FOUND: tuple[int | str, ...] = ("",)
"""The shape of an input of which a recipe says something else."""
_AS_NAMED = "name the inputs under `inputs` as the source does"


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: `dtype` is numpy's name, an axis is a length or the name of a dimension.

    `range` bounds the values that make sense (token ids, pixel values), both ends included; `values` lists all there
    are. `firm` says that the source refuses what is outside.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    values: tuple[Any, ...] = ()
    firm: bool = False

    def to_json(self) -> JSON:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    def over(self, found: Port, unfix: str) -> Port:
        """Return a port of a source with what this note says of it. Raises StepError where the two contradict."""
        shape = found.shape if self.shape == AS_FOUND else self.shape
        fits = len(shape) == len(found.shape) and not any(
            isinstance(own, int) and own != wanted for own, wanted in zip(found.shape, shape, strict=True)
        )
        if not fits or self.dtype not in ("", found.dtype):
            got = f"{self.dtype or found.dtype} {list(shape)}"
            message = f"input `{found.name}` is {found.dtype} {list(found.shape)}, got {got} from the recipe"
            raise StepError(message, hint=unfix, edits=_corrected(found, self))
        return replace(found, shape=shape, range=self.range or found.range, values=self.values or found.values)


@dataclass(frozen=True, slots=True)
class Interface:
    """What callers may send, and the smallest and largest length of every named dimension that is measured.

    `limits` are the lengths that are taken, where they are others; `ties` name dimensions that are so many times as
    long as another one.
    """

    inputs: tuple[Port, ...]
    dimensions: Mapping[str, Range]
    limits: Mapping[str, Lengths] = field(default_factory=dict)
    ties: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def limit(self, name: str) -> Lengths:
        """Return the lengths of a dimension that are taken."""
        return self.limits.get(name) or Lengths(*self.dimensions[name])


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the recipe says about inputs, dimensions and output names; what it leaves out is inferred.

    `inputs` are those that it describes whole, `notes` what it says of others (an empty `dtype` or a `shape` of
    `AS_FOUND` is as the source says). `dynamic` are spans whose measurement it promises, `limits` the lengths that are
    taken, `ties` dimensions that follow others, `defaults` what is measured of other dimensions. `domains` are the
    operator domains that a source in ONNX form may use besides ONNX's own; `signature` is the function of a source
    that has several.
    """

    inputs: tuple[Port, ...] | None = None
    dynamic: Mapping[str, Range] = field(default_factory=dict)
    limits: Mapping[str, Lengths] = field(default_factory=dict)
    ties: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    notes: tuple[Port, ...] = ()
    defaults: Mapping[str, Range] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    seed: int = 0
    domains: tuple[str, ...] = ()
    signature: str = ""

    @property
    def named(self) -> set[str]:
        """The dimensions that the recipe says something of."""
        return {*self.dynamic, *self.limits, *self.ties}

    @staticmethod
    def from_params(params: Mapping[str, JSON]) -> ExportOptions:
        """Read the step parameters `inputs`, `dynamic`, `outputs`, `seed`, `domains` and `signature`."""
        ports = [_port(name, entry) for name, entry in (params.get("inputs") or {}).items()]
        whole = tuple(port for port in ports if port.dtype and port.shape != AS_FOUND)
        axes = {name: Axis.from_json(value) for name, value in (params.get("dynamic") or {}).items()}
        return ExportOptions(
            whole or None,
            {name: axis.promised for name, axis in axes.items() if axis.promised},
            {name: axis.limit for name, axis in axes.items() if not axis.tied},
            {name: axis.tied for name, axis in axes.items() if axis.tied},
            tuple(port for port in ports if port not in whole),
            outputs=tuple(params.get("outputs") or ()),
            seed=params.get("seed", 0),
            domains=tuple(params.get("domains") or ()),
            signature=str(params.get("signature") or ""),
        )

    def interface(self, ports: Sequence[Port], limits: Mapping[str, Range], *, unfix: str) -> Interface:
        """Give every dimension of `ports` a range: the requested one, else a default, within what the source allows.

        `limits` are the source's own; a range of one length becomes that length. Raises StepError for a range outside
        them and, with the remedy `unfix`, for a dimension that no input has.
        """
        ports = self._noted(ports, unfix)
        used = [axis for port in ports for axis in port.shape if isinstance(axis, str)]
        for name in sorted({*self.named, *(other for _, other in self.ties.values())}):
            if name not in used:
                axes = f"it has {_listed(set(used))}; " if used else ""
                free = [other for other in dict.fromkeys(used) if other not in self.named]
                close = close_match(name, free) or (free[0] if len(free) == 1 else None)
                edit = Edit(("dynamic", name), rename=close) if close else Edit(("dynamic", name))
                known = f"no input of the source has the free dimension `{name}`"
                raise StepError(known, hint=axes + unfix, edits=[edit] if name in self.named else ())
        same = {name: other for name, (factor, other) in self.ties.items() if factor == 1}
        ports = [replace(port, shape=tuple(same.get(str(a), a) for a in port.shape)) for port in ports]
        names = [name for name in dict.fromkeys(used) if name not in same]
        taken = {name: self._limit(name, limits.get(name, _UNLIMITED)) for name in names}
        ranges = {name: self._range(name, taken[name]) for name in names}
        for name, (factor, other) in self.ties.items():
            if factor > 1:
                ranges[name] = (factor * ranges[other][0], factor * ranges[other][1])
        single = {
            name: low
            for name, (low, high) in ranges.items()
            if low == high == taken[name].high and not taken[name].also
        }
        fixed = tuple(replace(port, shape=tuple(single.get(str(a), a) for a in port.shape)) for port in ports)
        ties = {name: tied for name, tied in self.ties.items() if tied[0] > 1 and name not in single}
        kept = [name for name in names if name not in single]
        return Interface(fixed, {name: ranges[name] for name in kept}, {name: taken[name] for name in kept}, ties)

    def _noted(self, ports: Sequence[Port], unfix: str) -> list[Port]:
        """Return the ports with what the recipe says of single ones."""
        noted = {port.name: port for port in self.notes}
        for name in sorted(set(noted) - {port.name for port in ports}):
            expected = _listed(port.name for port in ports)
            free = [port.name for port in ports if port.name not in noted]
            close = close_match(name, free) or (free[0] if len(free) == 1 else None)
            edit = Edit(("inputs", name), rename=close) if close else Edit(("inputs", name))
            message = f"the source has no input `{name}`, expected some of {expected}"
            raise StepError(message, hint=_AS_NAMED, edits=[edit])
        return [noted[port.name].over(port, unfix) if port.name in noted else port for port in ports]

    def _limit(self, name: str, own: Range) -> Lengths:
        """Return the lengths that are taken: what the recipe says, within what the source says of itself."""
        stated = self.limits.get(name) or (Lengths(*self.dynamic[name]) if name in self.dynamic else Lengths())
        ends = [end for end in (stated.high, own[1] if own[1] < _UNLIMITED[1] else None) if end is not None]
        wanted = self.dynamic.get(name, (max(stated.low, own[0]), min([*ends, _UNLIMITED[1]])))
        if wanted[0] < own[0] or wanted[1] > own[1]:
            raise StepError(
                f"the source accepts `{name}` from {own[0]} to {own[1]}, got {wanted[0]} to {wanted[1]}",
                hint=f"narrow `dynamic: {{{name}: …}}`, or export the source with a wider range",
                edits=[Edit(("dynamic", name), [max(wanted[0], own[0]), max(min(wanted[1], own[1]), own[0])])],
            )
        also = tuple(length for length in stated.also if own[0] <= length <= own[1])
        return replace(stated, low=max(stated.low, own[0]), high=min(ends, default=None), also=also)

    def _range(self, name: str, taken: Lengths) -> Range:
        """Return the lengths to measure: those promised, else some that are usual, of those that are taken."""
        low, high = self.dynamic.get(name) or self.defaults.get(name) or _DEFAULT_RANGES.get(name, _OTHER_RANGE)
        first = taken.near(max(low, taken.low))
        return first, max(taken.near(high), first)


def pair_ports(found: Sequence[Port], requested: Sequence[Port], *, ordered: bool = False) -> list[Port | None]:
    """Return for each port of a source the requested one it corresponds to: by name, or the only one for the only one.

    By position only where `requested` is `ordered`, as in a signature: the order of a recipe's `inputs` is not part
    of an action's key, so nothing may depend on it. Without a request all are None. Raises StepError.
    """
    if not requested:
        return [None] * len(found)
    by_name = {port.name: port for port in requested}
    if {port.name for port in found} >= set(by_name):
        return [by_name.get(port.name) for port in found]
    if len(found) == len(requested) and (ordered or len(found) == 1):
        return list(requested)
    lost = [port.name for port in found if port.name not in by_name]
    other = [name for name in by_name if name not in {port.name for port in found}]
    raise StepError(
        f"expected the inputs {_listed(port.name for port in found)}, got {_listed(by_name)}",
        hint=_AS_NAMED,
        edits=[
            *(Edit(("inputs", name), rename=own) for name, own in zip(other, lost, strict=False)),
            *(Edit(("inputs", port.name), _spec(port)) for port in found if port.name in lost[len(other) :]),
            *(Edit(("inputs", name)) for name in other[len(lost) :]),
        ],
    )


def _spec(port: Port) -> JSON:
    return {"dtype": port.dtype, "shape": list(port.shape)}


def _corrected(found: Port, noted: Port) -> list[Edit]:
    """Return what a note on an input would have to say instead, as far as it says something."""
    same_rank = len(noted.shape) == len(found.shape)
    pairs = zip(found.shape, noted.shape, strict=True) if same_rank else ()
    shape = [own if isinstance(own, int) else wanted for own, wanted in pairs] or list(found.shape)
    stated = {"dtype": found.dtype if noted.dtype else None, "shape": None if noted.shape == AS_FOUND else shape}
    return [Edit(("inputs", found.name, key), value) for key, value in stated.items() if value is not None]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _port(name: str, entry: JSON) -> Port:
    bounds, values = entry.get("range"), tuple(entry.get("values") or ())
    if values and not bounds and not isinstance(values[0], str):
        bounds = (min(values), max(values))
    shape = tuple(entry["shape"]) if "shape" in entry else AS_FOUND
    return Port(name, entry.get("dtype", ""), shape, tuple(bounds) if bounds else None, values)


class SourceModel(Protocol):
    """An opened source."""

    @property
    def interface(self) -> Interface: ...

    def to_onnx(self, opset: int) -> Any:
        """Return an `onnx.ModelProto` at exactly `opset` (at most, for a source that is ONNX already)."""

    def run(self, feeds: Feeds) -> Arrays:
        """Compute the outputs as the source itself does, in the order of the graph's outputs."""

    def extra_files(self) -> Mapping[str, Path]:
        """Return what must travel with the graph, by path in the bundle: text and JSON only."""


def describe(kind: str, source: Path, payload: str, *, seconds: float) -> JSON | None:
    """Return what a source takes and returns, found by running it for at most `seconds`; None where its kind knows.

    An exporter offers it as `describe(path, seconds=…)`: `inputs`, `dimensions`, `fixed`, `outputs`, `runs`.
    """
    offered = getattr(exporter(kind), "describe", None)
    return cast("JSON", offered(source / payload, seconds=seconds)) if offered else None


def settle_lengths(source: SourceModel, options: ExportOptions) -> SourceModel:
    """Return a source that knows which lengths it takes where the recipe states none; as it is where its kind knows.

    A source offers it as `settled(options)`. What it finds follows from the source alone, not from the time it takes.
    """
    offered = getattr(source, "settled", None)
    return cast(SourceModel, offered(options)) if offered else source


def samples_of(source: SourceModel) -> Mapping[str, Any]:
    """Return the values that a source wants to be measured on, by input; empty when its ranges say enough.

    A source offers them as `samples()`: arrays whose first axis lists rows (an input without its batch axis), all of
    which it computes without an error. They follow from the source and the seed alone. For flags that must not hide
    everything there is a `Stretch`, which draws them for any shape.
    """
    offered = getattr(source, "samples", None)
    return {**masks.masks(source), **(offered() if offered else {})}


def bound_integers(source: SourceModel, model: Any) -> Interface:
    """Return the interface with a range for every integer input that the source does not answer everywhere.

    `model` is the graph made of the source. A source may offer `exact()`, which opens it in float64 and returns what
    runs it.
    """
    return integers.bound_inputs(
        source.interface, source.run, model, samples_of(source), getattr(source, "exact", None)
    )


def work_of(source: SourceModel) -> Callable[[Mapping[str, int]], float | None] | None:
    """Return what estimates the operations of one run from the lengths of the dimensions, None where nothing does.

    A source offers it as `work()`. It follows from shapes alone: the cases of a measurement depend on it.
    """
    offered = getattr(source, "work", None)
    return cast("Callable[[Mapping[str, int]], float | None] | None", offered()) if offered else None


def rows_of(source: SourceModel) -> Mapping[str, Feeds]:
    """Return sets of rows that a source wants to be measured on as they are, by what they are; empty without any.

    A source offers them as `rows()`: arrays by input, of one length, in which row `i` of all inputs belongs together.
    """
    offered = getattr(source, "rows", None)
    return cast("Mapping[str, Feeds]", offered()) if offered else {}


def gaps_of(source: SourceModel, feeds: Feeds, output: int, expected: Any, got: Any) -> Any:
    """Return for every element of output number `output` how far the source was from `got`, None if it cannot say.

    A source offers it as `gaps(feeds, output, expected, got)`, for labels: the distance of the scores of both labels,
    relative to the largest of the row, infinite where `got` is none of its labels. Called only where something differs.
    """
    offered = getattr(source, "gaps", None)
    if offered is None or expected.shape != got.shape or bool((expected == got).all()):
        return None
    return offered(feeds, output, expected, got)


def rounding_of(source: SourceModel, feeds: Feeds, output: int) -> float | None:
    """Return how far float32 rounding alone can move output number `output` on these feeds, None if it cannot say.

    A source offers it as `rounding(feeds, output)`.
    """
    offered = getattr(source, "rounding", None)
    return cast("float | None", offered(feeds, output)) if offered else None


def unoptimised(source: SourceModel, feeds: Feeds) -> Arrays | None:
    """Return what a source computes when its own runtime rewrites nothing, None where that is the same question.

    A source offers it as `unoptimised(feeds)`: where it is run by the runtime that serves it, an optimisation may move
    its answers, and what that moves is no fault of a bundle.
    """
    offered = getattr(source, "unoptimised", None)
    return cast("Arrays | None", offered(feeds)) if offered else None


def classes_of(source: SourceModel) -> Mapping[str, Sequence[int | str]]:
    """Return of outputs that hold one score per class which classes those are, where a source offers `classes()`."""
    offered = getattr(source, "classes", None)
    return cast("Mapping[str, Sequence[int | str]]", offered()) if offered else {}


class Coverage(Protocol):
    """Counts how much of a model cases exercise; a source that can offers one as `coverage()`."""

    def add(self, feeds: Feeds, outputs: Arrays) -> None: ...

    def totals(self) -> Mapping[str, Mapping[str, int]]:
        """Return by what (`leaves`, `classes`, …) how many were `reached`, and how many there are (`of`)."""


def make_plausible(source: SourceModel, feeds: Feeds) -> Feeds:
    """Return drawn inputs as the source's processor could have made them, where it offers that as `plausible(feeds)`.

    Shapes and dtypes stay as they are: it puts corners of boxes in order and closes holes in masks of images.
    """
    offered = getattr(source, "plausible", None)
    return cast("Feeds", offered(feeds)) if offered else feeds


@dataclass(frozen=True, slots=True)
class Leaves:
    """What a source promises nothing about, so that it is left out of a comparison, as plain data.

    `tied` marks rows of which no graph repeats the answer; `along` says of every output whether its second axis is that
    of `attention_mask`, at whose zeros nothing counts; `sets` names the outputs where some of them form a set.
    """

    tied: Any = None
    along: tuple[bool, ...] = ()
    sets: tuple[str, ...] = ()


def leaves_of(source: SourceModel, feeds: Feeds) -> Leaves:
    """Return what is left out of a comparison of these inputs, where the source offers `leaves(feeds)`."""
    offered = getattr(source, "leaves", None)
    return cast(Leaves, offered(feeds)) if offered else Leaves()


def mask_for_comparison(leaves: Leaves, feeds: Feeds, expected: Arrays, got: Arrays) -> tuple[Arrays, Arrays]:
    """Return both sides as they are to be compared."""
    from packager.exporters._transformers import compared  # it speaks of the arrays above

    if leaves.tied is not None:
        got = [compared.overlay_rows(left, right, leaves.tied) for left, right in zip(expected, got, strict=True)]
    mask = feeds.get("attention_mask")
    if mask is not None and any(leaves.along):
        expected, got = (compared.mask_outputs(mask, side, leaves.along) for side in (expected, got))
    return expected, compared.match_detections(leaves.sets, expected, got)


class GenerativeSource(Protocol):
    """An opened source that generates text: its graphs with a key-value cache, and its own answers."""

    @property
    def ports(self) -> tuple[Sequence[Port], Sequence[Port]]:
        """The inputs and the outputs of the decoder."""

    def graphs(self, opset: int) -> Mapping[str, Any]:
        """Return by folder an `onnx.ModelProto` at exactly `opset`; the decoder's is `model`."""

    def files(self) -> Mapping[str, bytes]:
        """Return the tokenizer and the chat template by their path in the bundle."""

    def about(self) -> JSON:
        """Return what the contract says of generation, without digests."""

    def special_tokens(self) -> Sequence[str]:
        """Return the texts that the source's own tokenizer takes for something special."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids that the source's own tokenizer gives a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids by the source's own tokenizer, without special tokens."""

    def answers(self, steps: int) -> Iterator[tuple[JSON, JSON, Any]]:
        """Yield of every reference prompt: the prompt, the greedy answer, and the logits [tokens, vocabulary].

        Of an encoder-decoder the third is a mapping: `logits`, and of audio `features`, and the `file` as bytes.
        """


def generative(kind: str, source: Path, payload: str, task: str | None = None) -> GenerativeSource:
    """Open a source that generates text. Raises StepError for a kind that does not, and for another task than its own.

    An exporter offers it as `load_generative(source, payload, task)`; None is `text-generation`.
    """
    offered = getattr(exporter(kind), "load_generative", None)
    if offered is None:
        raise StepError(
            f"a source of kind `{kind}` generates no text by itself",
            hint="leave `task` out of the recipe: it is for directories of transformers and MLflow's flavour of them",
        )
    return cast(GenerativeSource, offered(source, payload, task))


class Exporter(Protocol):
    """What a file in this folder provides."""

    TOOLCHAIN: tuple[str, ...]  # distributions whose version can change the bytes
    EXTRA: str  # the pip extra that installs them
    EXECUTES: bool  # opening the payload runs code of its author
    LOOKS_FOR: str  # what a source of this kind holds, for people

    def detect(self, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
        """Return the path of the payload inside the source, or None if it is not of this kind."""

    def load(self, source: Path, payload: str, options: ExportOptions) -> SourceModel:
        """Open the payload. Raises StepError with a remedy for what cannot be exported."""


def exporter(kind: str) -> Exporter:
    """Import the exporter of `kind`. Raises UsageError for an unknown kind."""
    return cast(Exporter, plugins.load("exporters", kind))


def detect_kind(paths: Collection[str], read: Callable[[str], bytes]) -> tuple[str, str]:
    """Return the kind and payload of a source tree.

    Kinds that only hold data come before kinds that run code, then by name: a directory with a graph and a pickle is
    read as the graph. What BentoML saved names its kind itself. Where names say nothing, content does. Raises
    SourceError that says what the source seems to be.
    """
    from packager.exporters._files import unknown  # it reads what MLflow says, in terms of the classes above

    known = {kind: exporter(kind) for kind in plugins.list_names("exporters")}
    if named := bentoml.detect(paths, read, known):
        return named
    for kind in sorted(known, key=lambda name: (known[name].EXECUTES, name)):
        payload = known[kind].detect(paths, read)
        if payload is not None:
            return unknown.correct_kind(kind, payload, paths, read, known), payload
    return unknown.by_content(paths, read, known, detect_kind)
