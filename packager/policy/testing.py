# SPDX-License-Identifier: Apache-2.0
"""Run unit tests of rules: sample facts in YAML files, and the findings that a rule must yield.

    rule: budget
    cases:
      - name: too many files
        params: {files: 1}
        facts: {contents: {…}}
        finds: [files]              # the subjects of the findings, sorted; [] where there must be none

`rule` may also be the path of a `.rego` file, relative to the test. In addition, every case that passes is run again
without each section that the rule reads: then it must fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import plugins, strictyaml
from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.policy import engine, rego, schema
from packager.policy.engine import Profile, RuleSettings
from packager.strictyaml import Node


@dataclass(frozen=True, slots=True)
class Case:
    """Sample facts, and the subjects that a rule must find in them; `program` is the text of a rule in Rego."""

    rule: str
    name: str
    facts: Mapping[str, JSON]
    params: Mapping[str, JSON]
    finds: tuple[str, ...]
    program: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one case; `problem` is None when the findings are the expected ones."""

    rule: str
    name: str
    problem: str | None

    def to_json(self) -> JSON:
        return {"rule": self.rule, "case": self.name, "ok": self.problem is None, "problem": self.problem}


def load(folder: Path) -> tuple[Case, ...]:
    """Read every `.yaml` file of a folder, or one file. Raises UsageError with the line."""
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.yaml"))
    if not paths:
        raise UsageError(f"`{folder}` holds no test of a rule", hint="docs/reference/policies.md shows one")
    return tuple(case for path in paths for case in _read(path))


def _read(path: Path) -> Iterator[Case]:
    members = strictyaml.read_fields(
        strictyaml.parse(strictyaml.load(path), str(path)), "test", ("rule", "cases"), required=("rule", "cases")
    )
    rule = strictyaml.read_text(members["rule"], "rule")
    program = engine.read_program(path.parent / rule) if rego.is_rego(rule) else ""
    if not program and rule not in plugins.list_names("policies"):
        raise members["rule"].where.error(
            f"rule `{rule:.60}` is unknown", hint=did_you_mean(rule, plugins.list_names("policies"))
        )
    for item in strictyaml.read_items(members["cases"], "cases", least=1):
        yield _case(rule, item, program)


def _case(rule: str, item: Node, program: str) -> Case:
    keys = ("name", "facts", "params", "finds")
    members = strictyaml.read_fields(item, "case", keys, required=("name", "facts", "finds"))
    params = engine.parse_parameters(rule, members["params"]) if "params" in members else {}
    finds = tuple(
        sorted(strictyaml.read_text(node, "finds") for node in strictyaml.read_items(members["finds"], "finds"))
    )
    facts: Mapping[str, JSON] = strictyaml.read_table(members["facts"], "facts").value()
    for problem in schema.find_problems(facts).values():
        raise members["facts"].where.error(f"no such facts: {problem}", hint="see `packager schema facts`")
    return Case(rule, strictyaml.read_text(members["name"], "name"), facts, params, finds, program)


def run(case: Case) -> Iterator[Outcome]:
    """Run the rule on the facts of a case; where it passes, run it again without each section that it reads."""
    profile = Profile("test", (case.rule,), settings={case.rule: RuleSettings(case.params, program=case.program)})
    got = tuple(sorted(finding.subject for finding in engine.judge(profile, case.facts).findings))
    different = None if got == case.finds else f"expected findings about {list(case.finds)}, got {list(got)}"
    yield Outcome(case.rule, case.name, different)
    if case.finds:
        return
    for section in profile.needs(case.rule):
        rest = {name: value for name, value in case.facts.items() if name != section}
        passed = engine.judge(profile, rest).ok
        yield Outcome(case.rule, f"{case.name}, without `{section}`", "the rule passes" if passed else None)
