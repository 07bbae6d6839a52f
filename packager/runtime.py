# SPDX-License-Identifier: Apache-2.0
"""Runtimes, typed: what a plug-in of the group `runtimes` offers, with every default in one place.

A plug-in is one package. `Runtime` lists the members of its `__init__.py`: constants are in capitals there, functions
as they are here. `Conformance` lists those of its `conform.py` likewise. Beside them lie, as far as the runtime goes:

    compile.py       `compile_graph`, a `Compile`: makes artefacts, run in a worker
    session.py       `open_session`, an `Open`: opens artefacts, run in a worker and, copied, at the site
    adapter.py       the program that speaks the protocol of the conformance suite
    probe.py         what measures a version: a `Prober`
    versions.json, kernels.json    what is known of its versions (`packager.contract.runtime_tables`)

A function of either with a parameter `tables` is given what is known of runtimes where it is called, which may be more
than ships: `tables(name)` is a `Table` of `packager.contract.runtime_tables`, `load_shipped` from there its default.

They are found beside the package, wherever it is installed: an entry point in the group `packager.runtimes` is enough.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Protocol,
    TypeAlias,
    TypedDict,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from packager import plugins
from packager.canonical import JSON
from packager.errors import StepError, UsageError, did_you_mean
from packager.events import OnEvent

SERVER_REQUIREMENTS = (
    "granian>=2.5",
    "orjson>=3.10",
    "prometheus-client>=0.21",
    "grpcio>=1.66",
    "uvloop>=0.21; sys_platform != 'win32'",
)
"""What the server needs beside the runtime: part of the `requirements` of every runtime that it serves."""
GENERATION_REQUIREMENTS = ("tokenizers>=0.21", "Jinja2>=3.1.6", "llguidance>=1.6")
"""What an installation of a bundle that generates text needs besides: tokenizer, sandbox of templates, grammars."""

Batches: TypeAlias = Callable[[], Sequence[Mapping[str, Any]]]
Outcomes: TypeAlias = Mapping[str, str]
Tables: TypeAlias = Callable[[str], Any]
"""What is known of a runtime, by its name: `packager.contract.runtime_tables.Tables`, for functions with `tables`."""
Reproducibility: TypeAlias = Literal["bitwise", "recorded"]


class ArtefactFacts(TypedDict):
    """What the contract says of an artefact.

    `reproducibility`: `recorded` where another host may give other bytes. `header`: what the file says it is, read
    back. `needs`: what it takes to run, such as `gpu`. `quantised`: how weights were put into blocks, and which stay.
    """

    reproducibility: Reproducibility
    header: Mapping[str, JSON]
    needs: Mapping[str, JSON]
    quantised: NotRequired[Mapping[str, JSON]]


class CompileFacts(TypedDict):
    """What `compile_graph` returns: the `path` in `out`, its facts, and those of the `graph` it became.

    `clipped`: of half precision, how many constants lie beyond ±65504.
    """

    path: str
    artefact: ArtefactFacts
    graph: NotRequired[Mapping[str, JSON]]
    clipped: NotRequired[int]


class Compile(Protocol):
    """`compile.compile_graph`: write the artefact of `inputs["graph"]/params["path"]` into `out`.

    `params`: `precision`, `device`, `opset`, `ir`, `versions` (the promised range), `interface`. `batches` reads the
    data to calibrate on; what is not calibrated does not call it.
    """

    def __call__(
        self, inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], batches: Batches
    ) -> CompileFacts: ...


class Port(Protocol):
    """An input or output as the runtime sees it: the name of its numpy dtype (or `string`), its sizes.

    A size that the artefact leaves open is a name or None.
    """

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...


class Session(Protocol):
    """An opened artefact. `run` takes numpy arrays by name and returns every output in the order of `outputs`.

    It may be called from several threads at once. `provider` says what executes, `version` is the library's.
    """

    @property
    def inputs(self) -> Sequence[Port]: ...
    @property
    def outputs(self) -> Sequence[Port]: ...
    @property
    def provider(self) -> str: ...
    @property
    def version(self) -> str: ...
    def run(self, feeds: Mapping[str, Any]) -> Sequence[Any]: ...


class Open(Protocol):
    """`session.open_session`: open an artefact with `threads` threads a run, 0 for one per core.

    The file is copied into installations: it imports what `requirements` installs, and nothing of `packager`.
    """

    def __call__(self, path: Path, *, threads: int, device: str) -> Session: ...


class Requirements(Protocol):
    def __call__(self, specifier: str, devices: Collection[str] = ...) -> Sequence[str]: ...


class Prober(Protocol):
    """`probe`: measures the version that an environment has installed."""

    def candidates(self, version: str) -> Sequence[tuple[str, ...]]: ...
    def about(self, python: Path) -> JSON: ...
    def measure(self, python: Path, on_event: OnEvent = ...) -> tuple[JSON, Outcomes]: ...
    def table(self, version: str, said: JSON, limits: JSON, outcomes: Outcomes, pythons: Sequence[str]) -> JSON: ...


class Member(NamedTuple):
    """One member of a plug-in's module, as the documentation lists it."""

    name: str
    about: str
    default: str | None  # None: required


def _runs_everywhere(device: str) -> str | None:
    return None


def _never_the_graph(device: str, precision: str) -> bool:
    return False


def _none_known(specifier: str) -> Sequence[str]:
    return ()


def _no_version(opset: int) -> str | None:
    return None


def _no_knobs(contract: Mapping[str, JSON]) -> Sequence[object]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime as its plug-in states it. `specifier` is a range of its versions, as in PEP 440.

    Of every member: its type, what it is, and in words the default of one that a plug-in may leave out.
    """

    name: str
    location: plugins.Location
    title: Annotated[str, "what people call it"]
    devices: Annotated[tuple[str, ...], "what it runs on: `cpu`, or device names that it defines"]
    precisions: Annotated[tuple[str, ...], "the precisions of its artefacts, of those that a recipe may name"]
    toolchain: Annotated[
        tuple[str, ...], "distributions whose version can change a byte of an artefact; the plug-in's own is added"
    ]
    level_for: Annotated[
        Callable[[str], tuple[int, int]],
        "`(specifier)`: the opset and IR version that every version in the range reads; UsageError where none does",
    ]
    requirements: Annotated[
        Requirements, "`(specifier, devices)`: what a server on it is installed from, as PEP 508 lines"
    ]
    extra: Annotated[str, "the extra of `model-packager` that brings the toolchain", "`build`"] = "build"
    builds_on_gpu: Annotated[bool, "whether artefacts are compiled on the GPU they run on", "False"] = False
    from_source: Annotated[
        bool,
        "whether artefacts are compiled from the source: `inputs` has `source`, `params` have `kind` and `payload`",
        "False",
    ] = False
    served: Annotated[bool, "whether `packager serve` runs it, through `session.py`", "False"] = False
    tasks: Annotated[tuple[str, ...], "the tasks of a recipe that it is for", "none is needed"] = ()
    engine: Annotated[str, "the runtime whose artefacts it runs: they are compiled and measured there", "itself"]
    distributions: Annotated[
        tuple[str, ...],
        "names under which it is installed; the version of the first that is there is its version",
        "its name",
    ]
    is_graph: Annotated[
        Callable[[str, str], bool],
        "`(device, precision)`: whether the canonical graph itself is the artefact of that target",
        "False",
    ] = _never_the_graph
    unmeasurable: Annotated[
        Callable[[str], str | None], "`(device)`: why artefacts for it cannot run on this host, or None", "None"
    ] = _runs_everywhere
    ceiling: Annotated[
        Callable[[str], tuple[int, int]],
        "`(specifier)`: the newest opset and IR version that a graph may keep which is ONNX already",
        "`level_for`",
    ]
    promised: Annotated[
        Callable[[str], Sequence[str]], "`(specifier)`: the known versions in a range, oldest first", "none"
    ] = _none_known
    oldest_with: Annotated[
        Callable[[int], str | None], "`(opset)`: the oldest version that runs all of an opset, or None", "None"
    ] = _no_version
    knobs: Annotated[
        Callable[[Mapping[str, JSON]], Sequence[object]],
        "`(contract)`: what a site may set besides the server's knobs, as `packager.server.declaration.Knob`",
        "none",
    ] = _no_knobs

    def check_target(self, device: str, precision: str) -> None:
        """Raise UsageError for a target that the runtime does not have."""
        if device not in self.devices or precision not in self.precisions:
            raise UsageError(
                f"{self.name} has no target `{device}` with precision `{precision}`",
                hint=f"devices: {', '.join(self.devices)}; precisions: {', '.join(self.precisions)}",
            )

    def read_session(self) -> bytes:
        """Return the source of the file that opens artefacts at a site. Raises UsageError where there is none."""
        file = self.location.path / "session.py"
        if not file.is_file():
            raise UsageError(f"runtime `{self.name}` cannot be served: it has no `session.py`")
        return file.read_bytes()

    def compiler(self) -> Compile:
        """Import `compile.py`. Raises StepError where there is none: such a runtime runs the graph as it is."""
        module = _part(self.location, "compile")
        if module is None:
            raise StepError(f"runtime `{self.name}` compiles nothing: it runs the graph as it is")
        return cast(Compile, module.compile_graph)

    def opener(self) -> Open:
        """Import `session.py`. Raises StepError where there is none: such artefacts cannot be measured."""
        module = _part(self.location, "session")
        if module is None:
            raise StepError(f"runtime `{self.name}` opens nothing: it has no `session.py`")
        return cast(Open, module.open_session)


def _no_options(version: str) -> Mapping[str, JSON]:
    return {}


def _no_deviations(version: str) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformance:
    """How a runtime is put under the conformance suite, as its `conform.py` states it. Members as in `Runtime`."""

    name: str
    location: plugins.Location
    accepts: Annotated[tuple[str, ...], "the runtimes whose artefacts it is tested with"]
    channels: Annotated[tuple[str, ...], "how it answers: `adapter`, `http`, `grpc`, `shm`", "`adapter`"] = ("adapter",)
    device: Annotated[str, "the device that it has to run on", "`cpu`"] = "cpu"
    library: Annotated[str, "part of the name of a shared library that its process has to have loaded", "any"] = ""
    versions: Annotated[Callable[[], Sequence[str]], "`()`: the versions that can be tested, oldest first"]
    requirements: Annotated[
        Callable[[str, str], Sequence[str]],
        "`(version, python)`: the pinned packages of an environment with that version",
    ]
    pythons: Annotated[Callable[[str], Sequence[str]], "`(version)`: the Python versions that it has wheels for"]
    knobs: Annotated[tuple[str, ...], "knobs of a bundle that its adapter sets", "none"] = ()
    options: Annotated[
        Callable[[str], Mapping[str, JSON]], "`(version)`: `options` of the messages to its adapter", "none"
    ] = _no_options
    deviations: Annotated[
        Callable[[str], Mapping[str, str]],
        "`(version)`: laws that the version breaks for every model, each with what was seen",
        "none",
    ] = _no_deviations
    adapter: Annotated[Callable[[], str], "`()`: the runtime whose `adapter.py` drives it", "itself"]
    engine: Annotated[
        str,
        "the runtime whose adapter runs graphs of single operators in its environment; empty: it reads no graphs",
        "`adapter()`",
    ]
    releases: Annotated[
        Mapping[str, str], "the vendor's names of versions (`24.05`), which a range may be written in", "none"
    ]
    installs: Annotated[bool, "whether it is tested as an installation of the bundle", "False"] = False


def load_runtime(name: str, tables: Tables | None = None) -> Runtime:
    """Import a runtime; its functions answer from `tables`, by default from what ships.

    Raises UsageError for an unknown one, and for one that lacks a member that it must have.
    """
    module = plugins.load("runtimes", name)
    location = plugins.locate("runtimes", name)
    if location is None or not location.path.is_dir():
        raise UsageError(f"runtime `{name:.60}` is no package", hint="a runtime is a folder with an `__init__.py`")
    stated = _stated(Runtime, module, location, tables)
    own = name.replace("_", "-")
    stated.setdefault("engine", own)
    stated.setdefault("distributions", (own,))
    stated.setdefault("ceiling", stated["level_for"])
    if location.distribution:
        stated["toolchain"] = (*stated["toolchain"], location.distribution)
    return Runtime(name=own, location=location, **stated)


def find_testable() -> dict[str, plugins.Location]:
    """Return where the runtimes lie that can be tested, by published name: those with a `conform.py`."""
    found = plugins.find_locations("runtimes")
    return {name: found[name] for name in sorted(found) if (found[name].path / "conform.py").is_file()}


def load_conformance(name: str, tables: Tables | None = None) -> Conformance:
    """Import what a runtime states of its tests; its functions answer from `tables`, by default from what ships.

    Raises UsageError for one that cannot be tested.
    """
    location = plugins.locate("runtimes", name)
    module = _part(location, "conform") if location else None
    if location is None or module is None:
        raise UsageError(f"runtime `{name:.60}` cannot be tested here", hint=did_you_mean(name, find_testable()))
    stated = _stated(Conformance, module, location, tables)
    stated.setdefault("adapter", lambda: name)
    stated.setdefault("engine", stated["adapter"]())
    stated.setdefault("releases", {})
    return Conformance(name=name, location=location, **stated)


def load_prober(name: str) -> Prober:
    """Import `probe.py` of a runtime, which need not be one that artefacts are made for.

    Raises UsageError for an unknown runtime, and for one without it.
    """
    location = plugins.locate("runtimes", name)
    if location is None:
        found = [known for known, at in plugins.find_locations("runtimes").items() if (at.path / "probe.py").is_file()]
        raise UsageError(f"`{name:.80}` is not among the runtimes", hint=did_you_mean(name, found))
    module = _part(location, "probe")
    if module is None:
        raise UsageError(
            f"`{name}` cannot be probed: nothing here measures what it reads",
            hint="for a server around ONNX Runtime, probe `onnxruntime==VERSION`",
        )
    return cast(Prober, module)


def adapter_file(name: str) -> Path:
    """Return the path of a runtime's adapter. Raises UsageError for a runtime that cannot be tested."""
    return load_conformance(name).location.path / "adapter.py"


def list_members(record: type[Runtime] | type[Conformance]) -> list[Member]:
    """Return what a plug-in's module may have, the required members first: constants are in capitals there."""
    rows = []
    for name, hint in get_type_hints(record, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, about, *default = get_args(hint)
            function = kind is Requirements or get_origin(kind) is abc.Callable
            rows.append(Member(name if function else name.upper(), about, default[0] if default else None))
    return sorted(rows, key=lambda row: row.default is not None)


def _stated(
    record: type[Runtime] | type[Conformance],
    module: ModuleType,
    location: plugins.Location,
    tables: Tables | None,
) -> dict[str, Any]:
    """Return the members of a record that a module has, functions with the `tables` that they take.

    Raises UsageError for a required member that it lacks.
    """
    found: dict[str, Any] = {}
    for member in list_members(record):
        if hasattr(module, member.name):
            found[member.name.lower()] = _bind_tables(getattr(module, member.name), tables)
        elif member.default is None:
            owner = f"`{location.distribution}`" if location.distribution else "this package"
            raise UsageError(
                f"`{module.__name__}` of {owner} has no `{member.name}`",
                hint=f"a runtime must have it: {member.about}",
            )
    return found


def _bind_tables(member: Any, tables: Tables | None) -> Any:
    if tables is None or not inspect.isfunction(member) or "tables" not in inspect.signature(member).parameters:
        return member
    return functools.partial(member, tables=tables)


def _part(location: plugins.Location, part: str) -> ModuleType | None:
    """Import a module of a plug-in, None where there is no such file."""
    name = f"{location.module}.{part}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
