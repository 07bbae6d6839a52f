# SPDX-License-Identifier: Apache-2.0
"""Will this graph load on that version of a runtime? A pure function of the graph's facts and what is known.

Three answers: `ok`, `no` with every reason and what would help, `unknown` where nothing was measured. Never `ok` by
default: an operator or element type that no table lists is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from packager.canonical import JSON
from packager.contract.runtime_tables import Kernels, Outcome, Row, Table, Tables, load_shipped, version_key
from packager.errors import UsageError

OPSET = 18  # the newest that every version since 1.15 has all kernels for, and torch's own: no conversion, no loss
IR = 8  # the oldest that can hold functions; newer ones add types only, and the graph says when it needs them
_LACKS = {"nan": "answers wrongly for missing numbers (NaN)", "int64": "computes whole numbers in 32 bits"}
_AVOIDED = {"nan": "serve it on ONNX Runtime", "int64": "state a `range` within 32 bits for it in the recipe"}
_ENGINE = "onnxruntime"  # whose tables judge a graph inside another runtime
_SHIPPED = (
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.microsoft.experimental",
)
_TRIED = ("ai.onnx", "ai.onnx.ml")  # the operator sets that the tables are about


Limit: TypeAlias = Literal[
    "version",
    "opset",
    "ir",
    "operator",
    "target",
    "python",
    "cpu",
    "processor",
    "device",
    "driver",
    "memory",
    "locale",
    "install",
    "values",
]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why not, or why it is unknown. `opset`: re-exported at most at this opset, the reason would vanish."""

    limit: Limit
    subject: str
    message: str
    fix: str | None = None
    opset: int | None = None

    def to_json(self) -> JSON:
        known = {"limit": self.limit, "subject": self.subject, "message": self.message, "fix": self.fix}
        return known if self.opset is None else {**known, "opset": self.opset}


@dataclass(frozen=True, slots=True)
class Judgement:
    """An answer with its reasons; `source` is what it rests on: measured, vendor, assumed from VERSION, or none."""

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    source: str = "measured"

    def to_json(self) -> JSON:
        return {
            "outcome": self.outcome,
            "source": self.source,
            "reasons": [reason.to_json() for reason in self.reasons],
        }


def judge_graph(graph: Mapping[str, JSON], runtime: str, version: str, tables: Tables = load_shipped) -> Judgement:
    """Judge a graph (`opset`, `ir`, `operators` of a contract) on one version of a runtime.

    A patch release that was not measured is what all measured ones of its minor version are; if they differ, or there
    are none, the answer is unknown.
    """
    table = tables(runtime)
    row = find_row(table, version)
    if row is not None:
        return _on_row(graph, table, row, tables)
    near = [row for row in table.rows.values() if version_key(row.version)[:2] == version_key(version)[:2]]
    answers = [_on_row(graph, table, row, tables) for row in near]
    if not near or len({answer.outcome for answer in answers}) > 1:
        known = f"known are {next(iter(table.rows))} to {[*table.rows][-1]}" if table.rows else "none is known"
        fix = f"measure it: `packager runtimes probe {runtime}=={version}`"
        reason = Reason("version", version, f"{runtime} {version} is not known; {known}", fix)
        return Judgement("unknown", (reason,), source="none")
    return replace(answers[0], source=f"assumed from {near[0].version}")


def find_row(table: Table, version: str) -> Row | None:
    """Return the row of a version under any of its names, with or without trailing zeros."""
    wanted = _shortened(version_key(version))
    for row in table.rows.values():
        if any(_shortened(version_key(name)) == wanted for name in (row.version, *row.also)):
            return row
    return None


def _shortened(numbers: tuple[int, ...]) -> tuple[int, ...]:
    while len(numbers) > 1 and not numbers[-1]:
        numbers = numbers[:-1]
    return numbers


def _on_row(graph: Mapping[str, JSON], table: Table, row: Row, tables: Tables) -> Judgement:
    if table.runtime != _ENGINE and _ENGINE in row.inside:
        inner = judge_graph(graph, _ENGINE, row.inside[_ENGINE], tables)
        reasons = tuple(
            replace(r, message=f"{r.message} (inside {table.runtime} {row.version})") for r in inner.reasons
        )
        return Judgement(inner.outcome, reasons, row.source)
    found = [*_limits(graph, table, row), *_operators(graph, table, row)]
    refused = tuple(reason for outcome, reason in found if outcome == "no")
    open_ = tuple(reason for outcome, reason in found if outcome == "unknown")
    outcome: Outcome = "no" if refused else "unknown" if open_ else "ok"
    return Judgement(outcome, refused or open_, row.source)


def _limits(graph: Mapping[str, JSON], table: Table, row: Row) -> Iterator[tuple[Outcome, Reason]]:
    name = f"{table.runtime} {row.version}"
    for domain, needed in graph["opset"].items():
        most = row.opset.get(domain)
        if domain in _TRIED and most is None:
            yield (
                "unknown",
                Reason("opset", domain, f"it is not known which opset of {domain} {name} reads", _probe(name)),
            )
        elif most is not None and needed > most:
            best = min(most, row.complete or most) if domain == "ai.onnx" else most
            what = f"the graph is of opset {needed} ({domain}), {name} reads up to {most}"
            level = f"opset {best}" if domain == "ai.onnx" else f"opset {best} of {domain}"
            yield "no", Reason("opset", domain, what, f"re-export at {level}", best if domain == "ai.onnx" else None)
    if row.ir is None:
        yield "unknown", Reason("ir", "ir", f"it is not known which IR version {name} reads", _probe(name))
    elif graph["ir"] > row.ir:
        fix = f"promise {table.runtime} {row.version} in `runs-on` and build again, which exports IR {row.ir}"
        yield "no", Reason("ir", "ir", f"the graph is of IR version {graph['ir']}, {name} reads up to {row.ir}", fix)


def _probe(name: str) -> str:
    return f"measure it: `packager runtimes probe {name.replace(' ', '==')}`"


def _operators(graph: Mapping[str, JSON], table: Table, row: Row) -> Iterator[tuple[Outcome, Reason]]:
    kernels = table.kernels_of(row.version)
    for domain, operator, since, types in list_uses(graph):
        name = operator if domain == "ai.onnx" else f"{domain}.{operator}"
        subject = f"{name}-{since}" + (f"({types})" if types else "")
        where = f"{table.runtime} {row.version}"
        if kernels is None:
            yield "unknown", Reason("operator", subject, f"the operators of {where} are not known", _probe(where))
        else:
            outcome = kernels.outcomes(domain, operator, since, types, row.version)
            if domain not in _SHIPPED:
                yield (
                    "no",
                    Reason(
                        "operator",
                        subject,
                        f"{where} has no operators of the domain {domain}",
                        "export the source without custom operators",
                    ),
                )
            elif outcome == "no":
                yield _lacking(kernels, row, (domain, operator, since, types), subject, where, table)
            elif outcome == "unknown":
                why = f"whether {where} runs {subject} was not measured"
                yield "unknown", Reason("operator", subject, why, "prove it on that runtime: `packager conform`")


def list_uses(graph: Mapping[str, JSON]) -> Iterator[tuple[str, str, str, str]]:
    """Yield domain, operator, the opset its definition is from, and element types, of everything a graph uses."""
    for domain, operators in graph["operators"].items():
        for operator, definitions in operators.items():
            for since, rows in definitions.items():
                yield from ((domain, operator, since, types) for types in rows)


def doubt_values(
    graph: Mapping[str, JSON], row: Row, runtime: str, *, missing: Iterable[str], large: Iterable[str]
) -> Iterator[Reason]:
    """Yield why answers may be wrong for some values of inputs.

    `missing` are inputs in which a number may be missing (NaN), `large` those of whole numbers beyond 32 bits.
    """
    where, used = f"{runtime} {row.version}", {operator for _, operator, _, _ in list_uses(graph)}
    for lack in row.lacks:
        kind, _, operator = lack.partition(" ")
        names = {"nan": missing, "int64": large}.get(kind, ())
        for name in names if not operator or operator in used else ():
            what = f"{where} {_LACKS[kind]}" + (f" in {operator}" if operator else "")
            yield Reason("values", name, f"{what}, and `{name:.64}` may hold such", _AVOIDED[kind])


def _lacking(
    kernels: Kernels, row: Row, use: tuple[str, str, str, str], subject: str, where: str, table: Table
) -> tuple[Outcome, Reason]:
    domain, operator, since, types = use
    older = [n for n in kernels.versions(domain, operator) if n < int(since)]
    fits = [n for n in older if kernels.outcomes(domain, operator, str(n), types, row.version) == "ok"]
    opset = _opset_before(kernels, domain, operator, max(fits)) if fits and domain == "ai.onnx" else None
    later = [v for v in kernels.over if version_key(v) > version_key(row.version) and kernels.outcomes(*use, v) == "ok"]
    fixes = [f"re-export at opset {opset}"] if opset else []
    if "float16" in types and kernels.outcomes(domain, operator, since, _wider(types), row.version) == "ok":
        fixes.append("use the fp32 target")
    fixes += [f"upgrade to {table.runtime} {min(later, key=version_key)}"] if later else []
    what = f"has no kernel for {subject}"
    if kernels.is_wrong(*use, row.version):
        what = f"answers most tests of {subject} wrongly"
    return "no", Reason("operator", subject, f"{where} {what}", ", or ".join(fixes) or None, opset)


def _opset_before(kernels: Kernels, domain: str, operator: str, since: int) -> int:
    """Return the newest opset in which the definition from `since` still holds."""
    newer = [number for number in kernels.versions(domain, operator) if number > since]
    return min(newer) - 1 if newer else since


def _wider(types: str) -> str:
    return types.replace("bfloat16", "float32").replace("float16", "float32")


# promises and ranges


def parse_specifier(text: str, runtime: str) -> SpecifierSet:
    """Parse a PEP 440 range. Raises UsageError."""
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        raise UsageError(
            f"`{text:.80}` is not a version range", hint=f'write it as in `{runtime}: ">=1.17,<2"`'
        ) from None


def list_promised(table: Table, text: str) -> list[Row]:
    """Return the known versions that a range allows, oldest first.

    A runtime with two ways to count (Triton: 24.05 is server 2.46.0) is judged in the one the range is written in.
    When the range names only patch releases that were not measured, the rows of their minor versions stand for them.
    """
    wanted = parse_specifier(text, table.runtime)
    numbers = [version_key(clause.version) for clause in wanted]
    dated = any(number and number[0] >= 10 for number in numbers)
    named = [(row, _name(row, dated)) for row in table.rows.values()]
    found = [row for row, name in named if name and wanted.contains(name, prereleases=True)]
    return found or [row for row, name in named if name and any(map(wanted.contains, _patches(name)))]


def _patches(version: str) -> list[str]:
    """Return the patch releases that may exist of a version's minor."""
    major, minor = Version(version).release[:2]
    return [f"{major}.{minor}.{patch}" for patch in range(10)]


def _name(row: Row, dated: bool) -> str | None:
    return next((name for name in (row.version, *row.also) if (version_key(name)[0] >= 10) == dated), None)


def level_for(runtime: str, text: str, tables: Tables = load_shipped) -> tuple[int, int]:
    """Return the opset and the IR version that every known version in a range reads completely.

    Raises UsageError when the range names no known version.
    """
    table = tables(runtime)
    rows = list_promised(table, text)
    if not rows:
        known = f"known are {next(iter(table.rows))} to {[*table.rows][-1]}; " if table.rows else ""
        raise UsageError(
            f"no known version of {runtime} is in `{text:.80}`",
            hint=f"{known}for a newer one run `packager runtimes update`",
        )
    levels = [_level(row, tables) for row in rows]
    return min(OPSET, *(opset for opset, _ in levels)), min(IR, *(ir for _, ir in levels))


def _level(row: Row, tables: Tables) -> tuple[int, int]:
    if row.complete is not None and row.ir is not None:
        return row.complete, row.ir
    inner = row.inside.get(_ENGINE)
    found = inner and find_row(tables(_ENGINE), inner)
    near = (
        [found]
        if found
        else [
            r for r in tables(_ENGINE).rows.values() if inner and version_key(r.version)[:2] == version_key(inner)[:2]
        ]
    )
    return min((r.complete or OPSET for r in near), default=OPSET), min((r.ir or IR for r in near), default=IR)


def loads_on(graph: Mapping[str, JSON], runtime: str, tables: Tables = load_shipped) -> str | None:
    """Return the widest range of versions that a graph is known to load on, in PEP 440 form; None where none is known.

    Its end stays open while the newest known version loads it, so that a table that only grew says the same.
    """
    answers = [
        (row.version, judge_graph(graph, runtime, row.version, tables).outcome) for row in tables(runtime).rows.values()
    ]
    return join_versions(answers)


def join_versions(answers: Iterable[tuple[str, Outcome]]) -> str | None:
    """Write the versions that are `ok`, given oldest first, as one range."""
    rows = list(answers)
    good = [index for index, (_, outcome) in enumerate(rows) if outcome == "ok"]
    if not good:
        return None
    clauses = [f">={rows[good[0]][0]}"]
    clauses += [f"!={rows[i][0]}" for i in range(good[0], good[-1]) if rows[i][1] != "ok"]
    return ",".join([*clauses, *([f"<{rows[good[-1] + 1][0]}"] if good[-1] + 1 < len(rows) else [])])
