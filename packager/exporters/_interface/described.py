# SPDX-License-Identifier: Apache-2.0
"""Describe what an ONNX file takes and returns: what it states, and what it was seen to run.

Free axes get names that a recipe can use and the lengths that ran (`_sizes`); single numbers that choose something (a
sample rate, a flag) get the values that ran; an output of the same name, type and shape as an input is its next state.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import BATCH
from packager.exporters._interface import sizes
from packager.exporters._interface.sizes import Axis, Span
from packager.graph import canonicalise

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_POOR = re.compile(
    r"(?i)(unk_+|dynamicdimension|dim_?|axis_?|d|n|none|symbolic|\w*_?dyn_?\w*|\w+_dim)?_*[0-9]*|[a-z]_?[0-9]+|.{41,}"
)
_VALUES = (1, 0, 2, 3, 8, 16, 100, 8000, 16000, 22050, 24000, 44100, 48000)  # of a single whole number
_RATE, _IS_RATE = (
    8000,
    re.compile(r"(?i)(^|_)sr($|_)|rate"),
)  # hertz: the lowest in use, and what such inputs are called
_CHANNELS = (1, 3, 4)
_LOCALE = re.compile(r"construct locale with name:([\w.@-]+)")
_MEMORY = 512 << 20  # bytes that runs take more than the model: after that, no larger inputs are tried
_ELEMENTS = 1 << 26  # of all inputs of a run
_DEEPEST = 3  # single numbers that are tried together


@dataclass(frozen=True, slots=True)
class Input:
    """An input as it stands in the file; free axes are `Axis`. `filled` is a value that it takes, where known."""

    name: str
    dtype: str
    axes: tuple[int | Axis, ...]
    filled: Any = None

    @property
    def is_single(self) -> bool:
        """Say whether it is one whole number or flag of which no value is known."""
        return (
            self.filled is None
            and self.dtype.startswith(("int", "uint", "bool"))
            and all(axis == 1 for axis in self.axes)
        )


def describe(path: Path, *, seconds: float = 60) -> JSON:
    """Return what a file takes and returns, found by running it for at most `seconds`.

    `inputs` are `{name, dtype, shape}`, with `values` that a single number takes (`alike`: others run like one of
    these), and `state` where an output feeds it;
    `dimensions` are `{kind, low, high, step, limited, ran, remainders, also}` as in `Span`, `fixed` the axes that take
    one length only,
    `outputs` what came back, `opset` the versions of its operator sets, `domains` those of operators that are not
    ONNX's own, `runs` how often it was run. Where nothing ran, shapes are the stated ones and `failed` is the reason.
    """
    model = canonicalise.read(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_input(value) for value in model.graph.input if value.name not in weights]
    domains = {
        canonicalise.domain_of(part.domain)
        for part in canonicalise.walk_messages(model)
        if part.DESCRIPTOR.name == "NodeProto"
    }
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    del model  # the session holds the weights itself
    runner = Runner(path, inputs)
    spans = runner.explore(seconds=seconds, fits=runner.fits)
    if spans is None:
        return {
            "inputs": [_stated(entry) for entry in inputs],
            "dimensions": {},
            "outputs": [],
            "runs": runner.count,
            "failed": runner.failed,
        }
    names = name_spans(spans, inputs)
    axes = {axis: name for name, span in zip(names, spans, strict=True) for axis in span.axes}
    fixed = {
        name: span.low for name, span in zip(names, spans, strict=True) if span.kind == sizes.FIXED and not span.varies
    }
    described = [_described(entry, axes, fixed, runner, spans) for entry in inputs]
    return {
        "inputs": described,
        "dimensions": {name: _dimension(span) for name, span in zip(names, spans, strict=True) if name not in fixed},
        "fixed": fixed,
        "outputs": runner.outputs(spans, names),
        "runs": runner.count,
        "opset": opset,
        "domains": sorted(domains - {"", "ai.onnx.ml"}),
    }


def _input(value: Any) -> Input:
    name, dtype, shape = canonicalise.read_port(value)
    stated = [dim.dim_param or None for dim in value.type.tensor_type.shape.dim]
    axes = tuple(
        axis if isinstance(axis, int) else Axis(name, position, stated[position]) for position, axis in enumerate(shape)
    )
    return Input(name, dtype, axes)


def _stated(entry: Input) -> JSON:
    shape = [axis if isinstance(axis, int) else axis.stated or "?" for axis in entry.axes]
    return {"name": entry.name, "dtype": entry.dtype, "shape": shape}


def _dimension(span: Span) -> JSON:
    listed = list(span.ran) if span.kind == sizes.SOME else []
    return {
        "kind": span.kind,
        "low": span.low,
        "high": span.high,
        "step": span.step,
        "limited": span.limited,
        **({"ran": listed} if listed else {}),
        **({"remainders": list(span.remainders), "also": list(span.also)} if span.kind == sizes.STEPS else {}),
        **({"varies": True} if span.varies else {}),
    }


def _described(
    entry: Input, axes: Mapping[Axis, str], fixed: Mapping[str, int], runner: Runner, spans: Sequence[Span]
) -> JSON:
    named = [axis if isinstance(axis, int) else axes[axis] for axis in entry.axes]
    found: dict[str, JSON] = {"name": entry.name, "dtype": entry.dtype, "shape": [fixed.get(str(a), a) for a in named]}
    if entry.is_single and entry.dtype != "bool":
        listed, alike = runner.values(entry, spans)
        found |= {"values": listed} if listed else {}
        found |= {"alike": True} if alike else {}
    if state := runner.state(entry):
        found["state"] = state
    return found


# -- names


def name_spans(spans: Sequence[Span], inputs: Sequence[Input]) -> list[str]:
    """Return a name for every span that a recipe can use: the file's own if it says something, else what it is."""
    ranks = {entry.name: entry for entry in inputs}
    names: list[str] = []
    for span in spans:
        own = next((axis.stated for axis in span.axes if axis.stated and _says_something(axis.stated)), None)
        name = own or _guessed(span, ranks)
        number = 2
        while (name if number == 2 else f"{name}_{number}") in names:
            number += 1
        names.append(name if name not in names else f"{name}_{number}")
    return names


def _says_something(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not _POOR.fullmatch(name)


def guess_name(port: str, position: int, inputs: Mapping[str, Input]) -> str:
    """Return a name for an axis that has no name in the file that a recipe could use."""
    return _guessed(Span((Axis(port, position),)), inputs)


def _guessed(span: Span, inputs: Mapping[str, Input]) -> str:
    axis = min(span.axes, key=lambda axis: axis.position)
    if axis.position == 0:
        return BATCH
    entry = inputs[axis.port]
    if len(entry.axes) == 4:
        last = entry.axes[3] in _CHANNELS and entry.axes[1] not in _CHANNELS
        return (
            {1: "height", 2: "width"}.get(axis.position, "channels")
            if last
            else ({2: "height", 3: "width"}.get(axis.position, "channels"))
        )
    if len(entry.axes) in (2, 3) and len([other for other in entry.axes[1:] if isinstance(other, Axis)]) == 1:
        return "sequence" if entry.dtype.startswith("int") else "length"
    clean = re.sub(r"\W+", "_", entry.name).strip("_")[:32]
    return f"{clean}_{axis.position}" if _NAME.fullmatch(clean) else f"length_{axis.position}"


# -- runs


def lacking_locale(line: str, who: str) -> StepError | None:
    """Return the error of a host without the locale that `who` compares texts in, None if `line` is another error."""
    missing = _LOCALE.search(line)
    return missing and StepError(
        f"this host lacks the locale `{missing[1]}`, in which the {who} compares texts",
        hint=f"`locale-gen {missing[1]}` makes it, here and on every host that serves the model; "
        "or export the model with `locale: C.UTF-8`",
    )


def open_file(path: Path, options: Any) -> Any:
    """Return a session of onnxruntime. Raises StepError for a file that it does not load."""
    try:
        return importlib.import_module("onnxruntime").InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime raises what it likes
        if missing := lacking_locale(str(error), "source"):
            raise missing from error
        raise StepError(
            f"`{path.name}` does not load in onnxruntime: {error_causes.find_cause_line(str(error))}",
            hint="the file is at fault, or needs another version of its library: run it where it was made, then save "
            "it again",
        ) from error


class Runner:
    """Runs a file at lengths, and remembers what came back."""

    def __init__(self, path: Path, inputs: Sequence[Input]) -> None:
        self._inputs, self._path = inputs, path
        self._numpy = importlib.import_module("numpy")
        self._session = self._open()
        self._single: dict[str, int] = {}
        self._seen: dict[tuple[tuple[Axis, int], ...], dict[str, tuple[str, tuple[int, ...]]]] = {}
        self._idle = self._peak = _memory()
        self._most = _ELEMENTS
        self._ran: dict[str, dict[int, tuple[bool, ...]]] = {}  # of single numbers: which of the trials each value ran
        self.count, self.failed = 0, ""

    def _open(self) -> Any:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        return open_file(self._path, options)

    def explore(self, *, runs: sizes.Runs | None = None, **limits: Any) -> list[Span] | None:
        """Return the spans at the first values of single numbers at which anything runs.

        `limits` are those of `_sizes.explore`; `runs` is called instead of `self.runs`.
        """
        free = list(dict.fromkeys(axis for entry in self._inputs for axis in entry.axes if isinstance(axis, Axis)))
        for chosen in self._choices():
            self._single = chosen
            found = sizes.explore(free, runs or self.runs, **limits) if free else ([] if self.runs({}) else None)
            if found is not None:
                self._try_values(found, runs or self.runs)
                return found
        return None

    def _try_values(self, spans: Sequence[Span], runs: sizes.Runs) -> None:
        """Run every value of every single number at the lengths that ran, and at some that failed.

        Lengths that run with another value are no limit: their span `varies`.
        """
        before, base = self._single, dict(next(iter(self._seen))) if self._seen else {}
        trials: list[tuple[Span | None, Mapping[Axis, int]]] = [(None, base)]
        for span in spans:
            trials += [(None, {**base, **dict.fromkeys(span.axes, n)}) for n in sorted({span.low, span.high})]
            trials += [(span, {**base, **dict.fromkeys(span.axes, n)}) for n in _beyond(span)]
        for entry in (entry for entry in self._inputs if entry.name in before):
            ran = {}
            for value in sorted({*_VALUES, *(() if entry.dtype.startswith("uint") else (-1,))}):
                self._single = {**before, entry.name: value}
                ran[value] = tuple(runs(lengths) for _, lengths in trials)
                for (beyond, _), answered in zip(trials, ran[value], strict=True):
                    if beyond is not None and answered and value != before[entry.name]:
                        beyond.varies = True
            self._ran[entry.name] = ran
        self._single = before

    def _choices(self) -> Iterator[dict[str, int]]:
        """Yield values of the single numbers: all alike, then each by itself."""
        names = [entry.name for entry in self._inputs if entry.is_single]
        if not names:
            yield {}
            return
        yield from (dict.fromkeys(names, value) for value in _VALUES)
        for name in names[:_DEEPEST]:
            yield from ({**dict.fromkeys(names, 1), name: value} for value in _VALUES[3:])

    def runs(self, lengths: Mapping[Axis, int]) -> bool:
        """Run the file; a failure is remembered by its last words."""
        self.count += 1
        feeds = {entry.name: self._drawn(entry, lengths) for entry in self._inputs}
        try:
            answers = self._session.run(None, feeds)
        except Exception as error:  # the runtime raises what it likes
            self.failed = error_causes.find_cause_line(str(error))
            return False
        named = zip((value.name for value in self._session.get_outputs()), answers, strict=True)
        if (used := _memory()) > self._peak:
            self._peak = used
            if used - self._idle > _MEMORY:
                self._most = self._elements(lengths)
        self._seen[tuple(sorted(lengths.items()))] = {
            name: (array.dtype.name, tuple(array.shape)) for name, array in named if hasattr(array, "dtype")
        }
        return True

    def fits(self, lengths: Mapping[Axis, int]) -> bool:
        """Say whether inputs of these lengths are no larger than those that took as much memory as a look may."""
        return self._elements(lengths) <= self._most

    def _elements(self, lengths: Mapping[Axis, int]) -> int:
        return sum(
            math.prod(axis if isinstance(axis, int) else lengths[axis] for axis in entry.axes) for entry in self._inputs
        )

    def _drawn(self, entry: Input, lengths: Mapping[Axis, int]) -> Any:
        numpy = self._numpy
        shape = tuple(axis if isinstance(axis, int) else lengths[axis] for axis in entry.axes)
        if entry.filled is not None:
            return numpy.full(shape, entry.filled, object if entry.dtype == "string" else entry.dtype)
        if entry.name in self._single:
            return numpy.full(shape, self._single[entry.name], entry.dtype)
        if entry.dtype == "string":
            return numpy.full(shape, "a", object)
        random = numpy.random.Generator(numpy.random.PCG64(0))
        if entry.dtype.startswith(("float", "bfloat")):
            return random.random(shape).astype(entry.dtype)
        return numpy.ones(shape, entry.dtype)

    def values(self, entry: Input, spans: Sequence[Span]) -> tuple[list[int], bool]:
        """Return the values of a single number to state, none where all that were tried run alike.

        Where some fail, those that ran; where all run, but at other lengths, one of each kind, and True: spans are
        narrowed to what runs with all of these.
        """
        ran = self._ran.get(entry.name, {})
        running = [value for value, found in ran.items() if any(found)]
        kinds: dict[tuple[bool, ...], list[int]] = {}
        for value in running:
            kinds.setdefault(ran[value], []).append(value)
        if len(kinds) < 2:
            return (running if len(running) < len(ran) else []), False
        chosen = sorted(_typical(values, entry.name) for values in kinds.values())
        lengths, ends = dict(next(iter(self._seen))), []
        for span in sorted(spans, key=lambda span: not span.varies):
            found = self._narrowed(span, entry.name, chosen, lengths)
            if found is None:  # no length runs with all of them
                return kinds[ran[self._single[entry.name]]], False
            ends.append((span, *found))
        for span, low, high in ends:
            span.varies = span.varies or (low, high) != (span.low, span.high)
            span.low, span.high = low, high
        return chosen, True

    def _narrowed(
        self, span: Span, name: str, values: Sequence[int], lengths: dict[Axis, int]
    ) -> tuple[int, int] | None:
        """Return the ends of the lengths of a span that run with all values, None where there are none.

        `lengths` are those of the other spans; of this one it holds such a length afterwards.
        """
        before = self._single

        def all_run(length: int) -> bool:
            runs = []
            for value in values:
                self._single = {**before, name: value}
                runs.append(self.runs({**lengths, **dict.fromkeys(span.axes, length)}))
            self._single = before
            return all(runs)

        tried = dict.fromkeys(span.low + (span.high - span.low) * part // 8 for part in (0, 8, 4, 2, 6, 1, 3, 5, 7))
        inside = next((length for length in tried if all_run(length)), None)
        if inside is None or (span.kind != sizes.ANY and not (all_run(span.low) and all_run(span.high))):
            return None
        lengths.update(dict.fromkeys(span.axes, inside))
        return _last_of(all_run, inside, span.low), _last_of(all_run, inside, span.high)

    def state(self, entry: Input) -> str | None:
        """Return the output that is this input's next state: its type and shape, and a name that begins alike."""
        if not self._seen or not entry.dtype.startswith("float"):
            return None
        lengths, seen = next(iter(self._seen.items()))
        known = dict(lengths)
        shape = tuple(axis if isinstance(axis, int) else known[axis] for axis in entry.axes)
        stem = re.sub(r"(?i)_?(in(put)?|prev|past)?_?[0-9]*$", "", entry.name) or entry.name
        fitting = [name for name, found in seen.items() if found == (entry.dtype, shape) and len(shape) > 1]
        return next((name for name in fitting if name != entry.name and name.startswith(stem)), None)

    def outputs(self, spans: Sequence[Span], names: Sequence[str]) -> list[JSON]:
        """Return every output with the axes that followed a dimension in all runs; `?` follows something else."""
        runs = [(dict(lengths), seen) for lengths, seen in self._seen.items()]
        called = {axis: name for name, span in zip(names, spans, strict=True) for axis in span.axes}
        made: list[JSON] = []
        for name, (dtype, shape) in runs[0][1].items():
            shapes = [(lengths, seen[name][1]) for lengths, seen in runs if len(seen[name][1]) == len(shape)]
            axes = [
                _followed([(lengths, found[position]) for lengths, found in shapes], called)
                for position in range(len(shape))
            ]
            made.append({"name": name, "dtype": "string" if dtype == "object" else dtype, "shape": axes})
        return made


def _memory() -> int:
    """Return the most memory that this program ever held, in bytes; `getrusage` counts the parent process, too."""
    rows = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(rows["VmHWM"].split()[0])


def _beyond(span: Span) -> list[int]:
    """Return lengths outside a span that was limited; none of one that simply was not tried any further."""
    limited = span.limited or span.kind == sizes.FIXED
    longer = [span.high + 1, 2 * span.high, 4 * span.high] if limited else []
    return longer + [length for length in (span.low - 1, span.low // 2, 1) if 0 < length < span.low]


def _typical(values: Sequence[int], name: str) -> int:
    """Return the value that stands for others which run like it: a usual rate where the input is one."""
    rates = [value for value in values if value >= _RATE] if _IS_RATE.search(name) else []
    return min(rates or [value for value in values if value >= 0] or values)


def _last_of(runs: Callable[[int], bool], inside: int, end: int) -> int:
    """Return the length nearest to `end` up to which all run, from one that does; what lies between is halved."""
    if runs(end):
        return end
    good, bad = inside, end
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if runs(middle) else (good, middle)
    return good


def _followed(seen: Sequence[tuple[Mapping[Axis, int], int]], called: Mapping[Axis, str]) -> int | str:
    """Return what an output's axis was in all runs: one length, a dimension, or `?`."""
    if len({length for _, length in seen}) == 1:
        return seen[0][1]
    return next((name for axis, name in called.items() if all(run[axis] == length for run, length in seen)), "?")
