# SPDX-License-Identifier: Apache-2.0
"""Every rule by its fixtures; profiles, facts of real bundles, and the forms of a verdict."""

from __future__ import annotations

import datetime
import json
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packager.policies import _licences, coverage, parity

from packager import canonical, plugins
from packager.bundle.bundle import Bundle, read
from packager.bundle.single_file import Archive
from packager.canonical import JSON
from packager.errors import NegativeAnswerError, UsageError
from packager.files import make_staging
from packager.formats import secrets
from packager.formats.intoto import Statement
from packager.policy import docs, engine, facts, report, stated_facts, testing, waivers
from packager.policy import schema as factschema
from packager.policy.engine import Profile, RuleSettings
from packager.trust.evidence import Evidence
from packager.trust.verifiers import Attested
from packager.types import Verdict
from tests.e2e.conftest import tool
from tests.support import bundles, environments

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "policies"
RULES = plugins.list_names("policies")
CASES = testing.load(FIXTURES)
SCHEMA = jsonschema.Draft202012Validator(json.loads(factschema.build_schema()))
DAY = datetime.date(2026, 11, 21)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_fixtures_that_pass_fail_and_lack_facts(rule: str) -> None:
    own = [case for case in CASES if case.rule == rule]
    assert [case for case in own if not case.finds], f"write a passing case into {FIXTURES / rule}.yaml"
    assert [case for case in own if case.finds], f"write a failing case into {FIXTURES / rule}.yaml"
    assert engine.list_needs(rule), "a rule says which facts it reads"
    outcomes = [outcome for case in own for outcome in testing.run(case)]
    assert sum("without" in outcome.name for outcome in outcomes) >= len(engine.list_needs(rule))
    assert [outcome for outcome in outcomes if outcome.problem] == []


@pytest.mark.parametrize("case", CASES, ids=[f"{case.rule}/{case.name}" for case in CASES])
def test_removing_a_member_never_turns_a_failure_into_a_pass(case: testing.Case) -> None:
    """Take away any one member anywhere in the facts: what was refused stays refused, or the fact is missing."""
    chosen = Profile("test", (case.rule,), settings={case.rule: RuleSettings(case.params)})
    for changed in _without_one(dict(case.facts)):
        if factschema.find_problems(changed):
            assert not engine.judge(chosen, changed).ok


def _without_one(value: Any) -> list[Any]:
    """Return copies of a document of objects, each without one required-looking member."""
    if not isinstance(value, dict):
        return []
    found = [{name: member for name, member in value.items() if name != gone} for gone in value]
    for name, member in value.items():
        found += [{**value, name: changed} for changed in _without_one(member)]
        if isinstance(member, list):
            found += [{**value, name: [changed]} for item in member for changed in _without_one(item)]
    return found


def test_schema_checker_agrees_with_the_reference_implementation() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(factschema.build_schema()))
    head = {"format": 1, "stage": "bundle", "name": "n", "version": "1"}
    seen = set()
    for case in CASES:
        for sample in [dict(case.facts), *_without_one(dict(case.facts))]:
            valid = SCHEMA.is_valid({**head, **sample})
            seen.add(valid)
            assert valid == (not factschema.find_problems(sample)), sample
    assert seen == {True, False}


@example(True, "format")  # in Python True is 1, in JSON it is not
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(sorted(factschema.list_sections())),
)
def test_schema_checker_agrees_on_random_sections(value: JSON, section: str) -> None:
    head = {"format": 1, "stage": "bundle", "name": "n", "version": "1"}
    assert SCHEMA.is_valid({**head, section: value}) == (not factschema.find_problems({section: value}))


def test_malformed_facts_are_missing_facts() -> None:
    verdict = engine.judge(Profile("p", ("budget",)), {"contents": {"bytes": "many", "files": []}})
    (finding,) = verdict.findings
    assert not verdict.ok
    assert "`contents.bytes` is not of type integer" in finding.message


# profiles


def test_profiles_set_parameters_levels_and_days(tmp_path: Path) -> None:
    text = "rules:\n  - parity\n  - budget: {files: 1, level: warning}\n  - engines: {host-code: true}\n"
    (tmp_path / "p.yaml").write_text(text + "  - signature: {effective-on: 2027-01-01}\n")
    found = engine.load_profile("p.yaml", tmp_path)
    assert found.rules == ("parity", "budget", "engines", "signature")
    assert found.settings_of("budget") == RuleSettings({"files": 1}, "warning")
    assert found.settings_of("engines") == RuleSettings({"host_code": True})
    assert found.settings_of("signature").effective_on == datetime.date(2027, 1, 1)
    for line, word in (
        ("budget: {fils: 1}", "files"),
        ("budget: {files: many}", "expected a number"),
        ("budget: {level: fatal}", "level"),
        ("signature: {effective-on: soon}", "expected a day"),
        ("parity", "listed twice"),
        ("budgets: {}", "budget"),
        ("formats: {allow: [1]}", "expected a list"),
        ("engines: {host-code: 1}", "expected a boolean"),
    ):
        (tmp_path / "bad.yaml").write_text(f"rules:\n  - parity\n  - {line}\n")
        with pytest.raises(UsageError) as caught:
            engine.load_profile("bad.yaml", tmp_path)
        assert word in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(("today", "level"), [(DAY, "warning"), (datetime.date(2027, 1, 1), "error"), (None, "error")])
def test_a_rule_warns_before_its_day(today: datetime.date | None, level: str) -> None:
    chosen = Profile("p", ("signature",), settings={"signature": RuleSettings(effective_on=datetime.date(2027, 1, 1))})
    for given_facts in ({"statements": []}, {}):
        (finding,) = engine.judge(chosen, given_facts, today).findings
        assert finding.level == level
        assert ("from 2027-01-01 on" in finding.message) == (level == "warning")


def test_rules_about_finished_bundles_are_deferred_in_builds_only() -> None:
    chosen = Profile("p", ("signature", "deterministic"))
    while_building = engine.judge(chosen, {"stage": "build", "nondeterministic": []})
    assert while_building.ok
    assert while_building.to_json()["deferred"] == ["signature"]
    assert not engine.judge(chosen, {"stage": "bundle", "nondeterministic": []}).ok


def test_policy_digest_is_in_the_verdict_and_follows_every_setting(tmp_path: Path) -> None:
    texts = [
        "rules: [budget]",
        "rules: [budget, sbom]",
        "rules: [budget: {files: 3}]",
        "rules: [budget: {level: note}]",
    ]
    digests = []
    for text in texts:
        (tmp_path / "p.yaml").write_text(text)
        chosen = engine.load_profile("p.yaml", tmp_path)
        digests.append(engine.judge(chosen, {}).to_json()["policy"])
        assert digests[-1] == chosen.digest
    assert len(set(digests)) == len(texts)


# licences and secrets


@pytest.mark.parametrize(
    ("expression", "ok"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only AND GPL-2.0-only", True),
        ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("MIT MIT", False),
        ("", False),
        ("(MIT", False),
        ("MIT)", False),
        ("AND", False),
        ("MIT WITH", False),
        ("(" * 5000 + "MIT" + ")" * 5000, False),
    ],
)
def test_licence_expressions(expression: str, ok: bool) -> None:
    assert _licences.accepts(expression, (), ("GPL-*",)) == ok


@pytest.mark.parametrize("rule", ["model-licence", "code-licences"])
def test_missing_licence_is_never_acceptable(rule: str) -> None:
    model = {"licence": None, "description": None, "authors": [], "datasets": []}
    components = [{"name": "x", "version": "1", "licence": None, "words": "BSD License"}]
    chosen = Profile("p", (rule,), settings={rule: RuleSettings({"allow": ["*"], "deny": []})})
    assert not engine.judge(chosen, {"model": model, "components": components}).ok


# Put together here, so that no file of this repository holds anything that looks like a credential.
SAMPLES = {
    "private key": "-----BEGIN EC PRIVATE" + " KEY-----\nMHcCAQEEIBh7Zc9kPp0x2dfg",
    "AWS access key": "AKIA" + "QYLPMN5HFIQR7XYA",
    "GitHub token": "ghp_" + "a1B2" * 9,
    "GitLab token": "glpat-" + "x" * 20,
    "Slack token": "xoxb-" + "123456789012-" + "abcdefghijklmnop",
    "Google API key": "AIza" + "S" * 35,
    "Stripe key": "sk_live_" + "4" * 24,
    "npm token": "npm_" + "z" * 36,
    "PyPI token": "pypi-AgE" + "I" * 60,
    "Hugging Face token": "hf_" + "q" * 34,
    "Azure storage key": "AccountKey=" + "Q" * 86 + "==",
    "password in an address": "postgresql://model:" + "hunter22@db",
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_secrets_are_reported_by_line_without_their_text(kind: str) -> None:
    (found,) = secrets.scan(f"one\ntwo {SAMPLES[kind]} end\n".encode())
    assert (found.kind, found.line) == (kind, 2)
    assert SAMPLES[kind] not in json.dumps(found.to_json())


def test_ordinary_text_holds_no_secrets() -> None:
    words = (
        "https://example.org/a:b ghp_short AKIA hf_transformer xoxb- http://host:8000/x see -----BEGIN CERTIFICATE-----"
    )
    assert list(secrets.scan(words.encode())) == []
    for path in (ROOT / "docs").rglob("*.md"):
        assert list(secrets.scan(path.read_bytes())) == [], path


# facts


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    files = {"notes.txt": SAMPLES["GitHub token"].encode(), "model/weights-0002.bin": b"\x80\x04\x95" + bytes(9)}
    files["deps/onnxruntime/requirements.txt"] = b"numpy==2.1 \\\n    --hash=sha256:" + b"0" * 64 + b"\nloose==1\n"
    return bundles.make(bundles.store_in(tmp_path), files)


EVERYTHING = frozenset(factschema.list_sections())


def test_facts_of_a_bundle_fit_the_schema_and_see_what_is_wrong(bundle: Bundle) -> None:
    found = facts.of_bundle(bundle, (), EVERYTHING, DAY)
    SCHEMA.validate(found)
    verdict = engine.judge(Profile("p", ("no-pickle", "secrets", "hash-locked", "graph-structure")), found)
    assert {(finding.rule, finding.subject) for finding in verdict.findings} == {
        ("no-pickle", "model/weights-0002.bin"),
        ("secrets", "notes.txt:1"),
        ("hash-locked", "deps/onnxruntime/requirements.txt"),
        ("graph-structure", "model/model.onnx"),
    }
    assert "sbom" not in found, "an SBOM that cannot be read is no fact"
    assert found["card"]["headings"] == ["t"]


def test_without_trust_there_are_no_statement_facts(bundle: Bundle) -> None:
    found = facts.of_bundle(bundle, None, EVERYTHING, DAY)
    assert not {"statements", "provenance", "conformance", "targets"} & set(found)
    assert not engine.judge(Profile("p", ("signature",)), found).ok


def said(kind: str, predicate: JSON, bundle: Bundle, signer: str = "ci") -> Evidence:
    statement = Statement(kind, "tiny:1.0.0", bundle.digest.removeprefix("sha256:"), predicate)
    attested = Attested(statement.to_bytes(), signer, "key", datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC))
    return Evidence(canonical.sha256(statement.to_bytes()), statement, attested)


def test_statements_of_trusted_signers_are_facts(bundle: Bundle) -> None:
    cell = {
        "target": "t",
        "runtime": "onnxruntime",
        "version": "1.20.0",
        "device": "cpu",
        "outcome": "pass",
        "measures": {"latency_ms": {"p99": 4.0}, "throughput_rps": 90.0},
    }
    result = {"bundle": {"digest": bundle.digest}, "cells": [cell]}
    slsa = {
        "buildDefinition": {"buildType": "x", "resolvedDependencies": [{"uri": "models:/a/1"}, 3]},
        "runDetails": {"builder": {"id": "https://ci"}},
    }
    evidence = [
        said(stated_facts.TEST_RESULT, {stated_facts.CONFORMANCE: result}, bundle),
        said(stated_facts.PROVENANCE, slsa, bundle),
        said(stated_facts.PROVENANCE, ["strange"], bundle),
        said(stated_facts.MEASUREMENTS, {"format": 1, "nondeterministic": [], "name": "ignored"}, bundle),
    ]
    found = facts.of_bundle(bundle, evidence, EVERYTHING, DAY)
    SCHEMA.validate(found)
    assert found["conformance"][0]["cells"][0]["measures"] == {"p99_ms": 4.0, "at_rps": 90.0}
    assert [(item["builder"], item["sources"]) for item in found["provenance"]] == [
        ("https://ci", ["models:/a/1"]),
        (None, []),
    ]
    assert found["nondeterministic"] == []
    assert found["name"] == "tiny"
    other = said(stated_facts.MEASUREMENTS, {"format": 1, "nondeterministic": ["Multinomial"]}, bundle, "boss")
    with pytest.raises(NegativeAnswerError, match="contradict each other"):
        facts.of_bundle(bundle, [*evidence, other], EVERYTHING, DAY)


def test_a_conformance_result_about_another_bundle_proves_nothing(bundle: Bundle) -> None:
    result = {"bundle": {"digest": "sha256:" + "0" * 64}, "cells": []}
    found = facts.of_bundle(
        bundle, [said(stated_facts.TEST_RESULT, {stated_facts.CONFORMANCE: result}, bundle)], EVERYTHING, DAY
    )
    assert found["conformance"] == []


def test_facts_of_a_released_bundle() -> None:
    (newest, *_) = sorted((ROOT / "conformance" / "vectors" / "v1").iterdir(), reverse=True)
    found = facts.of_bundle(read(Archive(newest / "bundle.tar")), (), EVERYTHING, DAY)
    SCHEMA.validate(found)
    chosen = ("formats", "no-pickle", "graph-structure", "graph-level", "hash-locked", "secrets", "budget", "engines")
    assert engine.judge(Profile("p", chosen), found).ok


# the forms of a verdict


def verdict() -> Verdict:
    chosen = Profile("p", ("signature", "no-pickle", "deterministic"))
    contents = {"bytes": 1, "files": [{"path": "a.bin", "size": 1, "sha256": "sha256:" + "0" * 64, "looks": "pickle"}]}
    return engine.judge(chosen, {"stage": "build", "contents": contents, "nondeterministic": []}, DAY)


def test_sarif_names_rule_place_and_remedy() -> None:
    (run,) = json.loads(report.render_sarif(verdict(), "tiny:1.0.0"))["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["signature", "no-pickle", "deterministic"]
    (result,) = run["results"]
    assert (result["ruleId"], result["ruleIndex"], result["level"]) == ("no-pickle", 1, "error")
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "tiny:1.0.0/a.bin"
    assert "export it to ONNX" in result["message"]["text"]
    assert run["properties"]["policy"] == verdict().policy
    assert result["properties"] == {
        "documentation": "docs/reference/policies.md#no-pickle",
        "evidence": {"looks": "pickle"},
    }


def test_junit_has_a_case_per_rule() -> None:
    suites = ElementTree.fromstring(report.render_junit(verdict(), "tiny:1.0.0"))
    assert suites.attrib == {"tests": "3", "failures": "1", "errors": "0"}
    outcomes = {case.attrib["name"]: [child.tag for child in case] for case in suites.iter("testcase")}
    assert outcomes == {"signature": ["skipped"], "no-pickle": ["failure"], "deterministic": []}


def test_the_table_says_everything() -> None:
    text = report.render_table(verdict(), "tiny:1.0.0")
    for word in ("deferred", "FAIL", "ok ", "hint: export it", "refused by `p`", str(verdict().policy)):
        assert word in text


def test_documentation_is_generated_from_the_rules() -> None:
    page = (ROOT / "docs" / "reference" / "policies.md").read_text()
    assert page.endswith(docs.render_chapter()), "run `make reference`"


def test_tests_of_rules_are_read_strictly(tmp_path: Path) -> None:
    good = "rule: budget\ncases:\n  - {name: n, facts: {contents: {bytes: 1, files: []}}, finds: []}\n"
    (tmp_path / "t.yaml").write_text(good)
    assert [outcome.problem for case in testing.load(tmp_path) for outcome in testing.run(case)] == [None, None]
    for old, new, word in (
        ("budget", "budgt", "budget"),
        ("bytes: 1", "bytes: x", "no such facts"),
        ("contents", "content", "not a section"),
        ("finds: []", "find: []", "finds"),
    ):
        (tmp_path / "t.yaml").write_text(good.replace(old, new))
        with pytest.raises(UsageError) as caught:
            testing.load(tmp_path)
        assert word in f"{caught.value.message} {caught.value.hint}"
    (tmp_path / "t.yaml").write_text(good.replace("finds: []", "finds: [files]"))
    (outcome,) = [item for case in testing.load(tmp_path) for item in testing.run(case)]
    assert outcome.problem == "expected findings about ['files'], got []"


SARIF_SCHEMA = "@microsoft/jest-sarif@1.0.0-beta.0"
"""An npm package with the schema of SARIF 2.1.0 as OASIS published it; nothing of it is run."""


def sarif_schema() -> Any:
    """Return the schema, from the cache or fetched with npm; without npm this skips."""
    kept = environments.CACHE / "sarif-2.1.0-rtm.5.json"
    if not kept.exists():
        with make_staging(kept) as directory:
            subprocess.run(
                [tool("npm"), "pack", "--silent", SARIF_SCHEMA], cwd=directory, check=True, capture_output=True
            )
            (packed,) = directory.glob("*.tgz")
            with tarfile.open(packed) as archive:
                data = archive.extractfile(f"package/lib/schemas/{kept.name}")
                assert data
                (directory / "schema").write_bytes(data.read())
            (directory / "schema").replace(kept)
    return json.loads(kept.read_bytes())


@pytest.mark.slow
def test_sarif_is_what_its_schema_says() -> None:
    """Verdicts of every rule, with evidence, warnings, notes, waivers, Rego and nothing at all."""
    schema = sarif_schema()
    assert schema["title"].startswith("Static Analysis Results Format (SARIF) Version 2.1.0")
    validator = jsonschema.Draft4Validator(schema)
    facts = {name: section for case in CASES for name, section in case.facts.items()}
    waived = waivers.Waiver("no-pickle", "*", "ada@example.org", "ticket 7", DAY)
    settings = {"a.rego": RuleSettings(program='package main\nimport rego.v1\ndeny contains "x" if input.contents')}
    chosen = Profile("p", (*RULES, "a.rego"), (waived,), settings)
    for verdict_ in (
        verdict(),
        engine.judge(chosen, facts, DAY),
        engine.judge(chosen, {}, DAY),
        engine.judge(Profile("p", ("budget",)), facts, DAY),
    ):
        log = json.loads(report.render_sarif(verdict_, "tiny:1.0.0"))
        assert [error.message for error in validator.iter_errors(log)] == []
    assert any(
        "suppressions" in row
        for row in json.loads(report.render_sarif(engine.judge(chosen, facts, DAY), "t"))["runs"][0]["results"]
    )
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**log, "runs": [{**log["runs"][0], "results": [{"level": "fatal"}]}]})


def _parity(output: dict[str, Any], kind: dict[str, Any] | None = None, precision: str = "fp32") -> list[Any]:
    target = {
        "precision": precision,
        "unmeasured": None,
        "tolerance": {"y": {"atol": 1e-5, "rtol": 1e-4}},
        "cases": [{"name": "batch=1", "outputs": {"y": output}}],
        "kinds": {"y": kind} if kind else {},
    }
    return list(parity.check({"targets": {"cpu": target}}))


def _off(difference: float) -> dict[str, Any]:
    point = {"difference": difference, "magnitude": 1.0, "index": [0], "expected": 1.0, "got": 1.0 + difference}
    return {"dtype": "float32", "shape": [1], "not_finite": 0, "frontier": [point]}


def test_tolerance_is_proposed_only_for_rounding() -> None:
    words = {"words": "drops the fractions of numbers", "case": "batch=1"}
    unknown = {"words": None, "case": "batch=1"}
    (small,), (large,), (other,) = _parity(_off(3e-4)), _parity(_off(0.3), words), _parity(_off(0.3), unknown)
    (half,) = _parity(_off(0.03), unknown, "fp16")
    (shape,) = _parity({"dtype": "float32", "shape": [4, 1], "got": {"dtype": "float32", "shape": [1, 4]}})
    assert "wider `tolerance`" in small.hint and "wider `tolerance`" in half.hint
    assert "drops the fractions" in large.message
    assert all("a wider tolerance does not help" in found.hint for found in (large, other, shape))


def test_proposed_tolerance_for_amplified_rounding_can_be_pasted() -> None:
    (found,) = _parity(_off(3e-4), {"words": None, "case": "batch=1", "rounding": 5e-5})
    assert "float32 arithmetic alone changes this row by 5e-05" in found.hint
    assert "`tolerance: {y: {atol: 0.0006, rtol: 0.0001}}`" in found.hint


def test_a_label_between_two_equal_scores_is_a_tie() -> None:
    label = {"dtype": "int64", "shape": [1], "unequal": 1, "first_unequal": {"index": [0], "expected": 1, "got": 2}}
    assert not _parity({**label, "largest_gap": 1e-6})
    assert _parity({**label, "largest_gap": 1e-2}) and _parity(label)


def test_low_coverage_is_a_finding() -> None:
    target = {"shortened": {}, "coverage": {"leaves": {"reached": 4, "of": 10}, "columns": {"reached": 3, "of": 3}}}
    (found,) = coverage.check({"targets": {"cpu": target}}, least={"leaves": 0.5, "columns": 0.5})
    assert "4 of 10 leaves" in found.message and found.subject == "cpu/leaves"
    assert not list(coverage.check({"targets": {"cpu": target}}, least={"leaves": 0.4}))
