# SPDX-License-Identifier: Apache-2.0
"""Exporters: one file for each kind of source that can become a graph; the file name is the registration.

An exporter has two halves. `detect` runs in the main process, sees names and small files only and imports nothing
heavy. `load` runs in the sandboxed worker, opens the payload and returns a `SourceModel`: the source itself, ready
to be run (it is the reference that artefacts are measured against) and to be turned into ONNX.

`ExportOptions` is what the recipe requests; `Interface` is what came out (`_interface/ports.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from packager import plugins
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._files import bentoml, unknown
from packager.exporters._interface import integers, masks
from packager.exporters._interface.ports import (
    AS_FOUND,
    BATCH,
    Arrays,
    ExportOptions,
    Feeds,
    Interface,
    Port,
    Range,
    pair_ports,
)
from packager.exporters._transformers import compared

__all__ = [
    "AS_FOUND",
    "Arrays",
    "BATCH",
    "Coverage",
    "ExportOptions",
    "Exporter",
    "Feeds",
    "GenerativeSource",
    "Interface",
    "Leaves",
    "Port",
    "Range",
    "SourceModel",
    "bound_integers",
    "classes_of",
    "describe",
    "detect_kind",
    "exporter",
    "gaps_of",
    "generative",
    "leaves_of",
    "make_plausible",
    "mask_for_comparison",
    "pair_ports",
    "rounding_of",
    "rows_of",
    "samples_of",
    "settle_lengths",
    "unoptimised",
    "work_of",
]


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

    def answer_row(self, read: str | bytes) -> str:
        """Return what an encoder-decoder writes about a text or the bytes of a WAV file, as its publisher has it.

        Raises RequestError for what the model does not take, StepError for a source that is no encoder-decoder.
        """


def generative(
    kind: str,
    source: Path,
    payload: str,
    task: str | None = None,
    *,
    base: tuple[Path, str] | None = None,
    adapters: Sequence[str] = (),
) -> GenerativeSource:
    """Open a source that generates text. Raises StepError for a kind that does not, and for another task than its own.

    An exporter offers it as `load_generative(source, payload, task)`; None is `text-generation`. One of adapters takes
    their `base` too, a directory and the model's folder in it. With `adapters`, kinds of layers by the end of their
    path, the graph takes inputs for adapters of those.
    """
    offered = getattr(exporter(kind), "load_generative", None)
    if offered is None:
        raise StepError(
            f"a source of kind `{kind}` generates no text by itself",
            hint="leave `task` out of the recipe: it is for directories of transformers and MLflow's flavour of them",
        )
    given = {} if base is None else {"base": base}
    found = cast(GenerativeSource, offered(source, payload, task, **given))
    if not adapters:
        return found
    taking = getattr(found, "with_adapters", None)
    if taking is None:
        raise StepError("an encoder-decoder takes no adapters", hint="leave `adapters` out of the recipe")
    return cast(GenerativeSource, taking(adapters))


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
    known = {kind: exporter(kind) for kind in plugins.list_names("exporters")}
    if named := bentoml.detect(paths, read, known):
        return named
    for kind in sorted(known, key=lambda name: (known[name].EXECUTES, name)):
        payload = known[kind].detect(paths, read)
        if payload is not None:
            return unknown.correct_kind(kind, payload, paths, read, known), payload
    return unknown.by_content(paths, read, known, detect_kind)
