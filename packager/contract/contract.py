# SPDX-License-Identifier: Apache-2.0
"""The contract of a bundle: what it takes, what it gives, what it needs, how exact and how fast it promises to be.

`derivation.py` makes it, here it is read. `docs/reference/contract.md` is for people, `contract.schema.json` for
programs; `parse` is what this program trusts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import get_args

from packager import canonical
from packager.canonical import JSON
from packager.contract.format_numbers import FORMAT, READABLE, is_readable
from packager.contract.quantised import describe_blocks
from packager.errors import IntegrityError
from packager.names import NAME, check
from packager.recipe.clauses import Target
from packager.recipe.fields import DTYPES
from packager.recipe.lengths import OF_DATA, Measured, evaluate
from packager.runtime import Reproducibility
from packager.server.generation.settings import Generation
from packager.types import check_digest, check_path

MAX_CONTRACT = 4 << 20
STABILITIES: tuple[Reproducibility, ...] = get_args(Reproducibility)


def render_lines(read: Contract) -> list[str]:
    """Return one line for every free axis and every input with a limit of values, and for targets in blocks.

    They say what was measured, what is taken, and which weights stay as they are.
    """
    rows = [f"axis {name}: {span}" for name, span in read.dimensions.items()]
    for port in read.inputs:
        if port.listed:
            rows.append(f"values {port.name}: {', '.join(map(str, port.listed[:12]))}; others are refused")
        elif port.limit:
            low, high = (f"{end:.15g}" for end in port.limit)
            rows.append(f"values {port.name}: {low}{'' if low == high else f' to {high}'}; others are refused")
    named = {name for port in read.outputs for name in port.shape if isinstance(name, str)}
    lengths = {name: span.lengths.near(0) for name, span in read.dimensions.items()}
    own = sorted(name for name in named - set(lengths) if evaluate(name, lengths) is None)
    origins = {True: "depends on the data", False: "no simple formula of the others"}
    told = {name: describe_blocks(target) for name, target in read.document.get("targets", {}).items()}
    rows += [f"quantised {name}: {words}" for name, words in told.items() if words]
    return [*rows, *(f"axis {name}: of an output, {origins[name.startswith(OF_DATA)]}" for name in own)]


def build_schema() -> bytes:
    """Return the JSON Schema of contracts."""
    return resources.files("packager.contract").joinpath("contract.schema.json").read_bytes()


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output; text is the dtype `string`. `range` are the values that make sense, or None.

    `limit` are those outside of which a request is refused, `listed` all that there are; `missing`: a number may be.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    limit: tuple[float, float] | None = None
    listed: tuple[float | str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """Versions of a runtime: promised, known to load (None: none), and what the oldest promised one needs."""

    runtime: str
    versions: str
    loads: str | None
    oldest: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Terms:
    """One target: what runs where, how exactly, and what it needs. `graph` is what its own graph uses."""

    target: Target
    path: str
    tolerance: Mapping[str, Mapping[str, float]]
    needs: Mapping[str, JSON]
    graph: Mapping[str, JSON]
    stability: Reproducibility


@dataclass(frozen=True, slots=True)
class RawInputs:
    """The pipeline that turns raw inputs into tensors and results into answers: its document by path and digest.

    `inputs` is how many texts or images were compared with the source's own tokenizer or processor, `largest` by how
    much one differs (of 255; equal token ids are 0), `tolerance` how far answers may be from its own pipeline's.
    """

    task: str
    path: str
    digest: str
    reference: str
    inputs: int
    largest: float
    tolerance: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Base:
    """Of an adapter: the one bundle that it runs in."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Contract:
    """A parsed contract. `dimensions` says of a name which lengths were measured, and which are taken.

    `classes` says of outputs with one score per class which class every column is. `generation` is what a bundle that
    generates text says of tokens; its graph is run by a loop, not by single requests. In `format` 1 the ranges of
    inputs are all that is promised of values, and nothing is refused for them. `document` is the JSON that was parsed,
    for those who write parts of it elsewhere. With a `base` the bundle is an adapter, and the rest is what its base is.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dimensions: Mapping[str, Measured]
    graph: Mapping[str, JSON]
    runs_on: Mapping[str, Promise]
    targets: Mapping[str, Terms]
    slo: Mapping[str, float]
    format: int = FORMAT
    classes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    generation: Generation | None = None
    document: Mapping[str, JSON] = field(default_factory=dict, compare=False, repr=False)
    pipeline: RawInputs | None = None
    base: Base | None = None

    def describe(self) -> list[str]:
        """Return a line for every free axis and every input with a limit of values: what was measured, and is taken."""
        return render_lines(self)


def parse(data: bytes, subject: str = "contract.json") -> Contract:
    """Parse the bytes of a contract, which may be hostile. Raises IntegrityError; nothing else."""
    try:
        return _contract(canonical.load(data, limit=MAX_CONTRACT))
    except (ValueError, TypeError, KeyError, AttributeError, IntegrityError) as error:
        reason = error.message if isinstance(error, IntegrityError) else error
        formats = " or ".join(map(str, READABLE))
        raise IntegrityError(f"`{subject}` is not a contract of format {formats}: {reason}", subject=subject) from None


def _contract(value: JSON) -> Contract:
    new = ("values",) if isinstance(value, dict) and value.get("format") != 1 else ()
    needed = ("format", "interface", "ranges", "graph", "runs-on", "targets", *new)
    _members(
        value,
        needed,
        ("slo", "classes", *(("missing", "generation", "pipeline", "base") if new else ())),
        "the contract",
    )
    if not is_readable(value):
        raise ValueError(f"it is of format {value['format']!s:.20}")
    graph = _facts(value["graph"])
    return Contract(
        *_interface(value),
        graph,
        {name: _read_promise(name, promise) for name, promise in _mapping(value["runs-on"], dict).items()},
        {name: _terms(name, terms, graph) for name, terms in _mapping(value["targets"], dict).items()},
        _mapping(value.get("slo", {}), _number),
        value["format"],
        _mapping(value.get("classes", {}), lambda labels: tuple(map(_class, _list(labels)))),
        Generation.from_json(value["generation"]) if "generation" in value else None,
        value,
        _pipeline(value["pipeline"]) if "pipeline" in value else None,
        _base(value["base"]) if "base" in value else None,
    )


def _base(value: JSON) -> Base:
    _members(value, ("name", "version", "digest"), (), "base")
    name, version = check(value["name"], value["version"], subject="base")
    return Base(name, version, check_digest(value["digest"], subject="base"))


def _pipeline(value: JSON) -> RawInputs:
    _members(value, ("task", "path", "digest", "reference", "inputs", "largest", "tolerance"), (), "pipeline")
    bounds = _members(value["tolerance"], ("atol", "rtol"), (), "pipeline.tolerance")
    return RawInputs(
        _text(value["task"]),
        check_path(value["path"]),
        check_digest(value["digest"], subject="pipeline"),
        _text(value["reference"]),
        _whole(value["inputs"]),
        _number(value["largest"]),
        {key: _number(number) for key, number in bounds.items()},
    )


def _class(value: JSON) -> int | str:
    if type(value) is not int and not isinstance(value, str):
        raise ValueError(f"expected a class, got `{value!s:.60}`")
    found: int | str = value
    return found


def _interface(value: JSON) -> tuple[tuple[Port, ...], tuple[Port, ...], Mapping[str, Measured]]:
    interface = _members(value["interface"], ("inputs", "outputs", "dimensions"), (), "interface")
    ranges, limits = _mapping(value["ranges"], _range), _mapping(value.get("values", {}), _limit)
    missing = {_text(name) for name in _list(value.get("missing", []))}
    inputs = [_port(port) for port in _list(interface["inputs"])]
    return (
        tuple(
            replace(port, range=ranges.get(port.name), missing=port.name in missing, **limits.get(port.name, {}))
            for port in inputs
        ),
        tuple(_port(port) for port in _list(interface["outputs"])),
        _mapping(interface["dimensions"], _dimension),
    )


def _members(value: JSON, needed: Sequence[str], optional: Sequence[str], what: str) -> Mapping[str, JSON]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{what} lacks `{missing[0]}`")
    if unknown := sorted(set(value) - {*needed, *optional}):
        raise ValueError(f"{what} has the unknown member `{unknown[0]:.60}`")
    return value


def _mapping(value: JSON, read: Callable[[JSON], JSON]) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    return {_text(name): read(member) for name, member in value.items()}


def _list(value: JSON) -> list[JSON]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    return value


def _text(value: JSON, pattern: str = r".+") -> str:
    if not isinstance(value, str) or len(value) > 1024 or not re.fullmatch(pattern, value, re.DOTALL):
        raise ValueError(f"`{value!s:.60}` cannot stand there")
    return value


def _whole(value: JSON) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a whole number, got `{value!s:.60}`")
    return value


def _number(value: JSON) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"expected a number, got `{value!s:.60}`")
    return float(value)


def _range(value: JSON) -> tuple[float, float]:
    low, high = map(_number, _list(value))
    if low > high:
        raise ValueError(f"range [{low}, {high}] is empty")
    return low, high


def _limit(value: JSON) -> dict[str, JSON]:
    """Return the members of a port that a limit of its values sets."""
    if isinstance(value, dict) and "values" in value:
        listed = _list(_members(value, ("values",), (), "a limit")["values"])
        if not listed or not all(isinstance(item, str) or _number(item) == item for item in listed):
            raise ValueError("a limit lists no values")
        return {"listed": tuple(listed)}
    span = _members(value, ("min", "max"), (), "a limit")
    return {"limit": _range([span["min"], span["max"]])}


def _dimension(value: JSON) -> Measured:
    return Measured.from_json(
        _members(value, ("min", "max"), ("step", "values", "remainders", "also", "limit", "is"), "a dimension")
    )


def _port(value: JSON) -> Port:
    _members(value, ("name", "dtype", "shape"), (), "a port")
    if value["dtype"] not in DTYPES:
        raise ValueError(f"dtype `{value['dtype']!s:.40}` is unknown")
    shape = tuple(size if isinstance(size, str) else _whole(size) for size in _list(value["shape"]))
    return Port(_text(value["name"]), value["dtype"], shape)


def _facts(value: JSON) -> Mapping[str, JSON]:
    _members(value, ("opset", "ir", "operators", "parameters", "bytes"), (), "graph")
    for name in ("ir", "parameters", "bytes"):
        _whole(value[name])
    _mapping(value["opset"], _whole)
    for operators in _mapping(value["operators"], dict).values():
        for definitions in operators.values():
            for since, rows in _mapping(definitions, _list).items():
                _text(since, r"[0-9]{1,4}")
                if not all(isinstance(row, str) and len(row) < 1024 for row in rows):
                    raise ValueError("an operator lists something else than element types")
    facts: Mapping[str, JSON] = value
    return facts


def _read_promise(runtime: str, value: JSON) -> Promise:
    _members(value, ("versions", "loads"), ("oldest",), runtime)
    loads = None if value["loads"] is None else _text(value["loads"])
    return Promise(
        _text(runtime, NAME), _text(value["versions"]), loads, _mapping(value.get("oldest", {}), lambda v: v)
    )


def _terms(name: str, value: JSON, main: Mapping[str, JSON]) -> Terms:
    needed = ("runtime", "device", "precision", "path", "tolerance", "needs", "stability")
    _members(value, needed, ("graph", "artefact"), name)
    target = Target(_text(value["runtime"], NAME), _text(value["device"]), _text(value["precision"]))
    if target.name != name:
        raise ValueError(f"target `{name:.60}` is called `{target.name:.60}` by its members")
    if value["stability"] not in STABILITIES:
        raise ValueError(f"stability `{value['stability']!s:.40}` is unknown")
    tolerance = {
        output: {key: _number(number) for key, number in _members(bound, ("atol", "rtol"), (), output).items()}
        for output, bound in _mapping(value["tolerance"], dict).items()
    }
    needs = _members(value["needs"], ("cpu", "memory"), ("capability", "exact"), "needs")
    memory = _mapping(needs["memory"], _whole)
    features = {key: [_text(feature) for feature in _list(needs[key])] for key in ("cpu", "exact") if key in needs}
    graph = _facts(value["graph"]) if "graph" in value else main
    return Terms(
        target, check_path(value["path"]), tolerance, {**needs, "memory": memory, **features}, graph, value["stability"]
    )
