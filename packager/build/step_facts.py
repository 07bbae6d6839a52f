# SPDX-License-Identifier: Apache-2.0
"""What each step's answer holds, as types: the one place where the build reads the facts of a step.

The runner has checked an answer against the `ANSWER` schema of its step before it is a `Result`. The records here state
the same members, so that a misspelt or absent one is an error of types; a test holds them against the schemas. Their
annotations are evaluated (no `__future__` import), because `__required_keys__` does not see through text.
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

from packager.canonical import JSON
from packager.types import Result


class PortFacts(TypedDict):
    """One input or output of a graph; an axis is a length, or the name of a dimension."""

    name: str
    dtype: str
    shape: Sequence[int | str]


class InterfaceFacts(TypedDict):
    """Inputs and outputs of a graph in its order, and the lengths that each named dimension may have."""

    inputs: Sequence[PortFacts]
    outputs: Sequence[PortFacts]
    dimensions: Mapping[str, JSON]


class GraphFacts(TypedDict):
    """The answer of `export` and `export_generation`.

    `ranges` and `values` bound the inputs, `graph` is what a runtime must read, `nondeterministic` the operators that
    may answer differently from run to run, `classes` the labels by output, `generation` what generates text.
    """

    interface: InterfaceFacts
    ranges: Mapping[str, Sequence[float]]
    graph: Mapping[str, JSON]
    nondeterministic: Sequence[str]
    values: NotRequired[Mapping[str, Sequence[float | str]]]
    firm: NotRequired[Sequence[str]]
    missing: NotRequired[Sequence[str]]
    classes: NotRequired[Mapping[str, Sequence[int | str]]]
    generation: NotRequired[Mapping[str, JSON]]


class ArtefactFacts(TypedDict):
    """The answer of `compile`: the path of what the runtime opens, what the contract says of it, and its own graph."""

    path: str
    artefact: Mapping[str, JSON]
    graph: NotRequired[Mapping[str, JSON] | None]


class CaseFacts(TypedDict):
    """One compared case: its lengths, and the differences of each output."""

    name: str
    fill: str
    lengths: Mapping[str, int]
    outputs: Mapping[str, Mapping[str, JSON]]


class MeasurementFacts(TypedDict):
    """The answer of `measure`; the steps that measure a generator have `cases` alone."""

    cases: Sequence[CaseFacts]
    shortened: NotRequired[Mapping[str, int]]
    kinds: NotRequired[Mapping[str, JSON]]
    coverage: NotRequired[Mapping[str, JSON]]
    evaluation: NotRequired[Mapping[str, JSON]]
    distributions: NotRequired[Mapping[str, JSON]]


class ReferenceFacts(TypedDict):
    """The answer of `reference`: how many prompts, and the tokens of the longest one with its answer.

    `source` is the longest source of an encoder-decoder, in positions.
    """

    prompts: int
    longest: int
    source: NotRequired[int]


class PipelineFacts(TypedDict):
    """The answer of `pipeline`: what it was compared with, on how many inputs, and the largest difference."""

    task: str
    reference: str
    inputs: int
    largest: float
    rows: int
    max_abs: float


def read_graph(result: Result) -> GraphFacts:
    """Return the facts of an exported graph."""
    return cast(GraphFacts, result.facts)


def read_artefact(result: Result) -> ArtefactFacts:
    """Return the facts of a compiled artefact."""
    return cast(ArtefactFacts, result.facts)


def read_measurement(result: Result) -> MeasurementFacts:
    """Return the facts of a measured artefact."""
    return cast(MeasurementFacts, result.facts)


def read_reference(result: Result) -> ReferenceFacts:
    """Return the facts of a source's answers to the reference prompts."""
    return cast(ReferenceFacts, result.facts)


def read_pipeline(result: Result) -> PipelineFacts:
    """Return the facts of a compared pipeline."""
    return cast(PipelineFacts, result.facts)
