# SPDX-License-Identifier: Apache-2.0
"""Measure a runtime that may answer wrongly without an error: put questions to it, and hold the answers against

ONNX Runtime's. An operator is `ok` on some element types where every way of asking was answered rightly; it is
`unclear` where that depends on attributes, lengths or what is constant, which a contract does not state.
"""

from __future__ import annotations

import functools
import importlib
import io
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from packager.runtimes import _kernels, _probes, _questions, _trials
from packager.runtimes._probes import Probe
from packager.runtimes._questions import Question
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.contract import runtime_tables
from packager.errors import StepError
from packager.graph import canonicalise

Run = Callable[[Sequence[Trial]], list[str]]
"""Load, run and compare graphs in the runtime under test; returns what it said of each."""

_REFERENCE = Path(__file__).with_name("_reference.py")
_SLICE = 500  # graphs for one process: what it leaks goes with it
_TOLERANCE, _HALF = 1e-4, 2e-2  # relative; the second where float16 takes part
_SURELY_WRONG = 6  # wrong answers: an operator's two tests in every form
_NO_RULE = ("No conversion rule", "Unimplemented(")  # how runtimes say that they lack an operator, whatever its input
_OF_SMALL_FLOATS = ("saturate", "round_mode")  # attributes of 8-bit types only, which are not tested


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
                self.rules += is_without_rule(text)

    def __add__(self, other: Answers) -> Answers:
        return Answers(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def is_settled(self) -> bool:
        return bool(self.right or self.rules)

    @property
    def is_mixed(self) -> bool:
        return bool(self.wrong or (self.right and self.refused))


def is_without_rule(text: str) -> bool:
    """Return whether a runtime refuses an operator itself, not some attributes or lengths of it."""
    return any(words in text for words in _NO_RULE)


def _is_beside(text: str) -> bool:
    """Return whether an answer is not about the operator.

    It was only opened; its input became its output, so that their names did not stay apart; numpy has no form of its
    input or output, which inside a graph would not matter; the question could not be read.
    """
    beside = ("it wants the inputs", "changed the names", "no numpy form", "holds no", "has no type for", "public API")
    return text == "loads" or any(words in text for words in beside)


def answered(graphs: Sequence[Trial]) -> list[Trial | None]:
    """Return trials with what this host's ONNX Runtime gives as what is expected; None where it gives nothing."""
    found = find_references(graphs)
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


def find_references(graphs: Sequence[Trial]) -> list[bytes | None]:
    """Return what this host's ONNX Runtime gives for every graph: nothing where it only opens it, None where not."""
    return [
        files[0] if reported == "ok" else b"" if reported == "loads" else None
        for reported, files in run_here(_REFERENCE, graphs, (".npz",))
    ]


def run_here(program: Path, graphs: Sequence[Trial], suffixes: Sequence[str]) -> list[tuple[str, list[bytes]]]:
    """Run a program of trials here; return its results and the files it left for each."""
    found = []
    for part in slice_trials(graphs):
        with tempfile.TemporaryDirectory() as name:
            for index, reported in enumerate(_trials.run(Path(sys.executable), program, part, Path(name))):
                paths = [Path(name, f"{index}{suffix}") for suffix in suffixes]
                found.append((reported, [path.read_bytes() for path in paths] if reported == "ok" else []))
    return found


def slice_trials(graphs: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
    """Yield graphs in parts for one process each."""
    for start in range(0, len(graphs), _SLICE):
        yield graphs[start : start + _SLICE]


def measure_answers(
    run: Run, found: Sequence[Probe], last: Callable[[Sequence[Probe], Mapping[Probe, Answers]], None] | None = None
) -> _kernels.Kernels:
    """Return what each probe did in a runtime. `last` may note more of those that no question is about."""
    tests = _tests(run)
    answers = _asked(run, found, tests)
    if last is not None:
        last([probe for probe in found if answers[probe] == Answers() and not _ways()[probe]], answers)
    return {probe.words: outcome(probe, answers[probe], tests) for probe in found}


def find_limits(run: Run) -> JSON:
    """Return the newest opset and IR version of graphs; an operator set of which nothing opens is left out.

    Raises StepError where nothing opens.
    """
    gates = _probes.make_gate_graphs()
    reported = dict(zip(gates, run([Trial(data) for data in gates.values()]), strict=True))
    newest = {key: [v for (k, v), text in reported.items() if k == key and text == "loads"] for key, _ in gates}
    if not newest["ai.onnx"] or not newest["ir"]:
        raise StepError(
            f"the runtime loads nothing: {next(iter(reported.values()))}", hint="is it installed completely?"
        )
    onnx = canonicalise.import_onnx()  # what is newer than it knows could not be tried
    known = {"ai.onnx": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    opset = {key: min(max(newest[key]), most) for key, most in known.items() if newest[key]}
    return {"opset": opset, "ir": min(max(newest["ir"]), onnx.IR_VERSION)}


Tests = Mapping[tuple[str, str, int], Mapping[str, Answers]]  # domain, operator, since -> types -> what was seen


def outcome(probe: Probe, seen: Answers, tests: Tests) -> str:
    """Judge the answers of a probe: `ok`, it `lacks` the operator, it answers `wrong`, it is `unclear`, or could not be

    tested (`fails`).

    A test that fails on types on which others pass fails by its attributes or lengths, which are not known of a graph:
    nothing of its operator is ok then, nor where a test gives other numbers, whatever its types. A test of fewer types
    (an input left out) speaks for every row that has them. A definition without separate tests is doubted with the
    others, and where it has attributes that none of them has. What gives other numbers may be right on other values,
    unless three of four tests and questions are answered wrongly.
    """
    own = tests.get((probe.domain, probe.operator, probe.since), {})
    if seen.wrong >= max(_SURELY_WRONG, 3 * seen.right) and not seen.refused:
        return "wrong"
    if not seen.right:
        return _without_right(seen, own.values())
    doubted = any(
        each.is_mixed or (each.refused and runtime_tables.agree(types, probe.types)) for types, each in own.items()
    )
    if not own:
        kin = [key for key in tests if key[:2] == (probe.domain, probe.operator)]
        mixed = any(each.is_mixed for key in kin for each in tests[key].values())
        doubted = mixed or _has_untested_attributes(probe, [since for _, _, since in kin])
    return "unclear" if seen.is_mixed or doubted else "ok"


def _without_right(seen: Answers, own: Iterable[Answers]) -> str:
    """Judge what was never right. A refusal is a no if a missing rule explains it, or no test leaves a doubt about

    whether it comes of attributes: none that fails where others pass, none that was no test of the operator.
    """
    if not (seen.wrong or seen.refused):
        return "fails"
    doubted = seen.wrong or seen.beside or any(each.is_mixed or each.beside for each in own)
    return "unclear" if doubted and not seen.rules else "lacks"


def _has_untested_attributes(probe: Probe, tested: Sequence[int]) -> bool:
    """Return whether a definition has attributes that no tested definition of its operator has."""
    own, *others = (
        {*canonicalise.import_onnx().defs.get_schema(probe.operator, since, probe.domain).attributes}
        for since in (probe.since, *tested)
    )
    return bool(own.difference(*others, _questions.TYPE_ATTRIBUTES, _OF_SMALL_FLOATS))


def _tests(run: Run) -> Tests:
    """Put ONNX's own tests to the runtime."""
    found: dict[tuple[str, str, int], dict[str, Answers]] = defaultdict(lambda: defaultdict(Answers))
    for each, reported in zip(_answered_tests(), _run_questions(run, _answered_tests(), is_test=True), strict=True):
        question = each.question
        found[question.domain, question.operator, question.since][question.types].note(reported)
    return found


@functools.cache
def _answered_tests() -> list[AnsweredQuestion]:
    """Return ONNX's own tests that ONNX Runtime answers, and those of element-wise operators with other values too."""
    asked = _questions.list_onnx_tests()
    others = [question for one in asked if (question := one.with_others())]
    answered = [each for each in _answerable(asked) if each and each.expected]
    return answered + [each for each in _answerable(others) if each and each.expected and _is_elementwise(each)]


def _is_elementwise(answered: AnsweredQuestion) -> bool:
    """Return whether the answer is of the shape of the inputs, and only of numbers."""
    numpy = importlib.import_module("numpy")
    with numpy.load(io.BytesIO(answered.expected), allow_pickle=False) as arrays:
        found = [arrays[name] for name in arrays.files]
    shape = numpy.shape(next(iter(answered.question.feeds.values())))
    return all(array.shape == shape and not (array.dtype.kind == "f" and numpy.isnan(array).any()) for array in found)


def _answerable(found: Sequence[Question]) -> list[AnsweredQuestion | None]:
    """Return the questions with ONNX Runtime's answers; None where it refuses."""
    reported = find_references([question.trial() for question in found])
    return [
        None if expected is None else AnsweredQuestion(question, expected)
        for question, expected in zip(found, reported, strict=True)
    ]


def _run_questions(run: Run, answered: Sequence[AnsweredQuestion], *, is_test: bool) -> list[list[str]]:
    """Run every form of some questions in the runtime; return the results of each."""
    forms = [each.trials(is_test=is_test) for each in answered]
    reported = iter(run([trial for each in forms for trial in each]))
    return [[next(reported) for _ in each] for each in forms]


def _asked(run: Run, found: Sequence[Probe], tests: Tests) -> dict[Probe, Answers]:
    """Return what was seen of every probe: by a test of just these types, else by questions, until one is answered."""
    answers = {}
    waiting = {}
    for probe in found:
        known = tests.get((probe.domain, probe.operator, probe.since), {})
        answers[probe] = sum((a for types, a in known.items() if _questions.covers(types, probe.types)), Answers())
        if not (answers[probe].right or answers[probe].wrong or answers[probe].refused):
            waiting[probe] = _ways()[probe]
    for turn in range(_questions.MOST):
        now = {p: ways[turn] for p, ways in waiting.items() if turn < len(ways) and not answers[p].is_settled}
        for (probe, answered), reported in zip(
            now.items(), _run_questions(run, [*now.values()], is_test=False), strict=True
        ):
            answers[probe].note(reported)
            partly = not _questions.is_complete(answered.question, probe)
            answers[probe].refused += partly and bool(answers[probe].right)  # right, but not of all its types
    return answers


@functools.cache
def _ways() -> Mapping[Probe, list[AnsweredQuestion]]:
    """Return for every probe the questions that ONNX Runtime answers; those of all its types, if there are any."""
    templates = _questions.group_by_definition(_questions.list_onnx_tests())
    by_probe = {
        p: _questions.list_questions(p, templates.get((p.domain, p.operator, p.since), []))
        for p in _probes.list_probes()
    }
    reported = iter(_answerable([question for each in by_probe.values() for question in each]))
    found = {}
    for probe, each in by_probe.items():
        ready = [answered for answered in [next(reported) for _ in each] if answered]
        whole = [answered for answered in ready if _questions.is_complete(answered.question, probe)]
        found[probe] = (whole or ready)[: _questions.MOST]
    return found
