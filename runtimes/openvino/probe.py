# SPDX-License-Identifier: Apache-2.0
"""Measure one installed version of OpenVINO: which operators it runs rightly, given IR that this host compiles.

A bundle's target for OpenVINO is IR, made when the bundle was built; what a version must do is open it. So every graph
is compiled by the OpenVINO installed here, as a build does it, opened by the version under test and run, and held
against ONNX Runtime. An operator is `ok` on some element types where every way of asking was answered rightly; it is
`unclear` where that depends on attributes, lengths or what is constant, which a contract does not state.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import itertools
import struct
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from packager.runtimes import _kernels, _probes, _trials
from packager.runtimes._probes import Probe
from packager.runtimes._trials import Trial
from packager.runtimes.openvino import compile as compiling
from packager.runtimes.openvino import questions
from packager.runtimes.openvino.questions import Question

from packager.canonical import JSON
from packager.contract import runtime_tables
from packager.errors import MissingToolError, StepError
from packager.events import Finished, OnEvent, Started, ignore
from packager.graph import canonicalise

TRIAL, _CONVERT, _REFERENCE = (Path(__file__).with_name(f"{name}.py") for name in ("trial", "convert", "reference"))
_SLICE = 500  # graphs for one process: what it leaks goes with it
_TOLERANCE, _HALF = 1e-4, 2e-2  # relative; the second where float16 takes part
_NO_RULE = "No conversion rule"
_OF_SMALL_FLOATS = ("saturate", "round_mode")  # attributes of 8-bit types only, which are not tested
_failed_trials: set[int] = set()  # trials that failed in another version: run last, as each spoils those it is run with
_made: dict[bytes, bytes | str] = {}  # digest of a graph -> its IR, or why there is none


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with what ONNX Runtime answers; nothing where that only opens the graph."""

    question: Question
    expected: bytes

    def trials(self, *, is_test: bool) -> list[Trial]:
        tolerance = _HALF if "float16" in self.question.types else _TOLERANCE
        return [
            replace(form, expected=self.expected, tolerance=tolerance) for form in self.question.forms(is_test=is_test)
        ]


@dataclass(slots=True)
class Answers:
    """What was seen of one operator on some element types: how often it was right, gave something else, was refused.

    `rules` counts the refusals because of a missing conversion rule, which no shape or attribute changes; `beside` the
    answers that are not about the operator.
    """

    right: int = 0
    wrong: int = 0
    refused: int = 0
    rules: int = 0
    beside: int = 0

    def note(self, reported: Iterable[str]) -> None:
        """Count the results of some graphs."""
        for text in reported:
            if text == "ok":
                self.right += 1
            elif text.startswith("differs"):
                self.wrong += 1
            elif _is_beside(text):
                self.beside += 1
            else:
                self.refused += 1
                self.rules += _NO_RULE in text

    def __add__(self, other: Answers) -> Answers:
        return Answers(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def is_settled(self) -> bool:
        return bool(self.right or self.rules)

    @property
    def is_mixed(self) -> bool:
        return bool(self.wrong or (self.right and self.refused))


def _is_beside(text: str) -> bool:
    """Return whether an answer is not about the operator.

    It was only opened; its input became its output, so that their names did not stay apart; numpy has no form of its
    input or output, which inside a graph would not matter; the question could not be read.
    """
    beside = ("it wants the inputs", "changed the names", "no numpy form", "holds no")
    return text == "loads" or any(words in text for words in beside)


def candidates(version: str) -> list[tuple[str, ...]]:
    """Return what to install to measure `version`, the preferred form first: as it is, else with numpy 1."""
    return [(f"openvino=={version}",), (f"openvino=={version}", "numpy<2")]


def about(python: Path) -> JSON:
    """Return the facts that the runtime in an environment reports, or None if it cannot run the most trivial graph.

    Raises MissingToolError where nothing here compiles graphs, or says what they should give.
    """
    compiling.tool()
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingToolError("onnxruntime", "onnx")
    (trivial,) = answered([_probes.trivial_run()])
    return _trials.read_facts(python, TRIAL) if trivial and trials(python, [trivial]) == ["ok"] else None


def trials(python: Path, graphs: Sequence[Trial]) -> list[str]:
    """Compile ONNX graphs here, open and run them in the runtime of an environment; return the results."""
    made = _artefacts([trial.graph for trial in graphs])
    opened = {
        index: replace(trial, graph=ir)
        for index, (trial, ir) in enumerate(zip(graphs, made, strict=True))
        if isinstance(ir, bytes)
    }
    order = sorted(opened, key=lambda index: hash(opened[index]) in _failed_trials)
    parts = _sliced([opened[index] for index in order])
    reported = dict(zip(order, (text for part in parts for text in _trials.run(python, TRIAL, part)), strict=True))
    for index, text in reported.items():
        if text.startswith("died"):  # it, or one that was run together with it
            (reported[index],) = _trials.run(python, TRIAL, [opened[index]])
    _failed_trials.update(hash(opened[index]) for index, text in reported.items() if text != "ok")
    return [reported[index] if isinstance(ir, bytes) else ir for index, ir in enumerate(made)]


def _artefacts(graphs: Sequence[bytes]) -> list[bytes | str]:
    """Return the IR of every graph as `trial.py` reads it, or why there is none; each is compiled once."""
    names = [hashlib.sha256(data).digest() for data in graphs]
    fresh = {name: Trial(data) for name, data in zip(names, graphs, strict=True) if name not in _made}
    for name, (reported, files) in zip(fresh, _kept(_CONVERT, [*fresh.values()], (".xml", ".bin")), strict=True):
        _made[name] = struct.pack(">Q", len(files[0])) + b"".join(files) if reported == "ok" else reported
    return [_made[name] for name in names]


def answered(graphs: Sequence[Trial]) -> list[Trial | None]:
    """Return trials with what this host's ONNX Runtime gives as what is expected; None where it gives nothing."""
    found = _references(graphs)
    return [
        replace(trial, expected=expected, tolerance=_HALF if _has_halves(expected) else _TOLERANCE)
        if expected
        else None
        for trial, expected in zip(graphs, found, strict=True)
    ]


def _has_halves(arrays: bytes) -> bool:
    numpy = importlib.import_module("numpy")
    with numpy.load(io.BytesIO(arrays), allow_pickle=False) as found:
        return any(found[name].dtype.name == "float16" for name in found.files)


def _references(graphs: Sequence[Trial]) -> list[bytes | None]:
    """Return what this host's ONNX Runtime gives for every graph: nothing where it only opens it, None where not."""
    return [
        files[0] if reported == "ok" else b"" if reported == "loads" else None
        for reported, files in _kept(_REFERENCE, graphs, (".npz",))
    ]


def _kept(program: Path, graphs: Sequence[Trial], suffixes: Sequence[str]) -> list[tuple[str, list[bytes]]]:
    """Run a program of trials here; return its results and the files it left for each."""
    found = []
    for part in _sliced(graphs):
        with tempfile.TemporaryDirectory() as name:
            for index, reported in enumerate(_trials.run(Path(sys.executable), program, part, Path(name))):
                paths = [Path(name, f"{index}{suffix}") for suffix in suffixes]
                found.append((reported, [path.read_bytes() for path in paths] if reported == "ok" else []))
    return found


def _sliced(graphs: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    for start in range(0, len(graphs), _SLICE):
        yield graphs[start : start + _SLICE]


def measure(python: Path, on_event: OnEvent = ignore) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of the runtime in an environment (`opset`, `ir`), and what each probe did."""
    label = "probe openvino"
    on_event(Started(label))
    started = time.monotonic()
    limits = _limits(python)
    tests = _tests(python)
    found = [probe for probe in _probes.list_probes() if probe.domain or probe.opset <= limits["opset"]["ai.onnx"]]
    answers = _asked(python, found, tests)
    on_event(Finished(label, time.monotonic() - started))
    return limits, {probe.words: outcome(probe, answers[probe], tests) for probe in found}


Tests = Mapping[tuple[str, str, int], Mapping[str, Answers]]  # domain, operator, since -> types -> what was seen


def outcome(probe: Probe, seen: Answers, tests: Tests) -> str:
    """Judge the answers of a probe: `ok`, it `lacks` the operator, it is `unclear`, or could not be tested (`fails`).

    A test that fails on types on which others pass fails by its attributes or lengths, which are not known of a graph:
    nothing of its operator is ok then, nor where a test gives other numbers, whatever its types. A test of fewer types
    (an input left out) speaks for every row that has them. A definition without separate tests is doubted with the
    others, and where ONNX has none, by having attributes. What only gives other numbers may be right on other values.
    """
    own = tests.get((probe.domain, probe.operator, probe.since), {})
    if not seen.right:
        return _without_right(seen, own.values())
    doubted = any(
        each.is_mixed or (each.refused and runtime_tables.agree(types, probe.types)) for types, each in own.items()
    )
    if not own:
        kin = [key for key in tests if key[:2] == (probe.domain, probe.operator)]
        doubted = any(each.is_mixed for key in kin for each in tests[key].values()) if kin else _has_attributes(probe)
    return "unclear" if seen.is_mixed or doubted else "ok"


def _without_right(seen: Answers, own: Iterable[Answers]) -> str:
    """Judge what was never right. A refusal is a no if a missing rule explains it, or no test leaves a doubt about

    whether it comes of attributes: none that fails where others pass, none that was no test of the operator.
    """
    if not (seen.wrong or seen.refused):
        return "fails"
    doubted = seen.wrong or seen.beside or any(each.is_mixed or each.beside for each in own)
    return "unclear" if doubted and not seen.rules else "lacks"


def _has_attributes(probe: Probe) -> bool:
    schema = canonicalise.import_onnx().defs.get_schema(probe.operator, probe.since, probe.domain)
    return bool(set(schema.attributes) - {*questions.TYPE_ATTRIBUTES, *_OF_SMALL_FLOATS})


def table(version: str, reported: JSON, limits: JSON, outcomes: _kernels.Kernels, pythons: Sequence[str]) -> JSON:
    """Return a table of knowledge with the one measured row; `reported` is what `about` returned."""
    maker = compiling.tool().get_version().partition("-")[0]
    row = {
        "source": "measured",
        "opset": limits["opset"],
        "ir": limits["ir"],
        "numpy": "<2" if reported["numpy"].startswith("1.") else "",
        "python": list(pythons),
        "note": f"opens IR made by OpenVINO {maker}",
    }
    return {
        "format": 1,
        "runtime": "openvino",
        "serial": 0,
        "versions": {version: row},
        "kernels": _kernels.tabulate_kernels({version: outcomes}),
    }


def _limits(python: Path) -> JSON:
    """Return the newest opset and IR version of graphs; an operator set of which nothing opens is left out."""
    gates = _probes.make_gate_graphs()
    reported = dict(zip(gates, trials(python, [Trial(data) for data in gates.values()]), strict=True))
    newest = {key: [v for (k, v), text in reported.items() if k == key and text == "loads"] for key, _ in gates}
    if not newest["ai.onnx"] or not newest["ir"]:
        raise StepError(
            f"the runtime loads nothing: {next(iter(reported.values()))}", hint="is it installed completely?"
        )
    onnx = canonicalise.import_onnx()  # what is newer than it knows could not be tried
    known = {"ai.onnx": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    opset = {key: min(max(newest[key]), most) for key, most in known.items() if newest[key]}
    return {"opset": opset, "ir": min(max(newest["ir"]), onnx.IR_VERSION)}


def _tests(python: Path) -> Tests:
    """Put ONNX's own tests to the runtime."""
    answered = [each for each in _answerable(questions.list_onnx_tests()) if each and each.expected]
    found: dict[tuple[str, str, int], dict[str, Answers]] = defaultdict(lambda: defaultdict(Answers))
    for each, reported in zip(answered, _run_questions(python, answered, is_test=True), strict=True):
        question = each.question
        found[question.domain, question.operator, question.since][question.types].note(reported)
    return found


def _answerable(found: Sequence[Question]) -> list[AnsweredQuestion | None]:
    """Return the questions with ONNX Runtime's answers; None where it refuses."""
    reported = _references([question.trial() for question in found])
    return [
        None if expected is None else AnsweredQuestion(question, expected)
        for question, expected in zip(found, reported, strict=True)
    ]


def _run_questions(python: Path, answered: Sequence[AnsweredQuestion], *, is_test: bool) -> list[list[str]]:
    """Run every form of some questions in the runtime; return the results of each."""
    forms = [each.trials(is_test=is_test) for each in answered]
    reported = iter(trials(python, [trial for each in forms for trial in each]))
    return [[next(reported) for _ in each] for each in forms]


def _asked(python: Path, found: Sequence[Probe], tests: Tests) -> dict[Probe, Answers]:
    """Return what was seen of every probe: by a test of just these types, else by questions, until one is answered."""
    answers = {}
    waiting = {}
    for probe in found:
        known = tests.get((probe.domain, probe.operator, probe.since), {})
        answers[probe] = sum((a for types, a in known.items() if questions.covers(types, probe.types)), Answers())
        if not (answers[probe].right or answers[probe].wrong or answers[probe].refused):
            waiting[probe] = _ways()[probe]
    for turn in range(questions.MOST):
        now = {p: ways[turn] for p, ways in waiting.items() if turn < len(ways) and not answers[p].is_settled}
        for (probe, answered), reported in zip(
            now.items(), _run_questions(python, [*now.values()], is_test=False), strict=True
        ):
            answers[probe].note(reported)
            partly = not questions.is_complete(answered.question, probe)
            answers[probe].refused += partly and bool(answers[probe].right)  # right, but not of all its types
    _load_only([probe for probe, ways in waiting.items() if not ways], answers)
    return answers


@functools.cache
def _ways() -> Mapping[Probe, list[AnsweredQuestion]]:
    """Return for every probe the questions that ONNX Runtime answers; those of all its types, if there are any."""
    templates = questions.group_by_definition(questions.list_onnx_tests())
    by_probe = {
        p: questions.list_questions(p, templates.get((p.domain, p.operator, p.since), []))
        for p in _probes.list_probes()
    }
    reported = iter(_answerable([question for each in by_probe.values() for question in each]))
    found = {}
    for probe, each in by_probe.items():
        ready = [answered for answered in [next(reported) for _ in each] if answered]
        whole = [answered for answered in ready if questions.is_complete(answered.question, probe)]
        found[probe] = (whole or ready)[: questions.MOST]
    return found


def _load_only(found: Sequence[Probe], answers: Mapping[Probe, Answers]) -> None:
    """Test types that no array can hold: of a graph that ONNX Runtime opens, whether there is a rule to convert it."""
    for optional, rank in _probes.VARIANTS[:4]:
        waiting = [probe for probe in found if not answers[probe].rules]
        graphs = [Trial(_probes.serialise_graph(probe, optional=optional, rank=rank)) for probe in waiting]
        fair = [graph is not None for graph in _references(graphs)]
        made = _artefacts([trial.graph for trial, opens in zip(graphs, fair, strict=True) if opens])
        for probe, ir in zip(itertools.compress(waiting, fair), made, strict=True):
            answers[probe].note([ir] if isinstance(ir, str) and _NO_RULE in ir else [])
