# SPDX-License-Identifier: Apache-2.0
"""Render verdicts: a table for people, SARIF 2.1.0 for code scanners, JUnit XML for CI.

Sources: OASIS SARIF 2.1.0; the JUnit form that Jenkins and GitLab read. None of them contains the host or the time.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

from packager import __version__, escape, plugins
from packager.canonical import JSON
from packager.policy import rego
from packager.types import Finding, Verdict

SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def find_title(rule: str) -> str:
    """Return the first sentence of a rule's documentation."""
    return _documentation(rule).partition("\n")[0]


def _documentation(rule: str) -> str:
    if rego.is_rego(rule):
        return "The organisation's policy, in Rego."
    return (plugins.load("policies", rule).__doc__ or "").strip()


def render_table(verdict: Verdict, subject: str) -> str:
    """Return the rules with their results, each finding below its rule."""
    rows = []
    for rule in verdict.rules:
        own = [finding for finding in verdict.findings if finding.rule == rule]
        rows.append(f"{_word(rule, own, verdict):8} {rule:18} {find_title(rule)}")
        rows += [line for finding in own for line in _lines(finding)]
    errors = sum(finding.level == "error" for finding in verdict.findings)
    warnings = sum(finding.level == "warning" for finding in verdict.findings)
    answer = "allowed" if verdict.ok else "refused"
    counts = f"{errors} errors, {warnings} warnings"
    return "\n".join([*rows, f"{subject}: {answer} by `{verdict.profile}` ({verdict.policy}), {counts}"])


def _word(rule: str, own: Sequence[Finding], verdict: Verdict) -> str:
    levels = {finding.level for finding in own}
    if rule in verdict.deferred:
        return "deferred"
    return "FAIL" if "error" in levels else "warning" if "warning" in levels else "ok"


def _lines(finding: Finding) -> list[str]:
    hint = [f"           hint: {escape.line(finding.hint)}"] if finding.hint else []
    return [f"         {finding.level}: {escape.line(finding.message)}", *hint]


def render_sarif(verdict: Verdict, subject: str) -> str:
    """Return the verdict as a SARIF log; a subject in the bundle is a logical location of it."""
    driver = {
        "name": "packager",
        "semanticVersion": __version__,
        "rules": [_sarif_rule(rule) for rule in verdict.rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(finding, verdict, subject) for finding in verdict.findings],
        "properties": {
            "subject": subject,
            "profile": verdict.profile,
            "policy": verdict.policy,
            "ok": verdict.ok,
            "deferred": list(verdict.deferred),
        },
    }
    return escape.json_text({"$schema": SARIF, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_rule(rule: str) -> JSON:
    text = _documentation(rule)
    return {
        "id": rule,
        "shortDescription": {"text": find_title(rule)},
        "fullDescription": {"text": text},
        "help": {"text": f"{text}\n\nSee docs/reference/policies.md#{rule}."},
    }


def _sarif_result(finding: Finding, verdict: Verdict, subject: str) -> JSON:
    message = f"{finding.message}. {finding.hint}." if finding.hint else f"{finding.message}."
    value: dict[str, JSON] = {
        "ruleId": finding.rule,
        "ruleIndex": verdict.rules.index(finding.rule),
        "level": finding.level,
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": "bundle.json"}},
                "logicalLocations": [{"fullyQualifiedName": f"{subject}/{finding.subject}", "name": finding.subject}],
            }
        ],
        "properties": {"documentation": finding.documentation, "evidence": finding.evidence},
    }
    if finding.waiver is not None:
        value["level"] = "error"
        value["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": finding.waiver["reason"],
                "properties": finding.waiver,
            }
        ]
    return value


def render_junit(verdict: Verdict, subject: str) -> str:
    """Return one test case per rule; a deferred one is skipped, one with an error has failed."""
    failing = {finding.rule for finding in verdict.findings if finding.level == "error"}
    attributes = {
        "name": f"policy {verdict.profile}",
        "tests": str(len(verdict.rules)),
        "failures": str(len(failing)),
        "errors": "0",
        "skipped": str(len(verdict.deferred)),
    }
    suite = ElementTree.Element("testsuite", attributes)
    for rule in verdict.rules:
        _junit_case(suite, rule, [item for item in verdict.findings if item.rule == rule], verdict, subject)
    suites = ElementTree.Element("testsuites", {key: attributes[key] for key in ("tests", "failures", "errors")})
    suites.append(suite)
    ElementTree.indent(suites)
    data: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return data.decode()


def _junit_case(suite: ElementTree.Element, rule: str, own: Sequence[Finding], verdict: Verdict, subject: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"name": rule, "classname": subject})
    errors = [finding for finding in own if finding.level == "error"]
    if rule in verdict.deferred:
        ElementTree.SubElement(case, "skipped", {"message": "it can only be judged on a finished bundle"})
    elif errors:
        failure = ElementTree.SubElement(case, "failure", {"message": escape.line(errors[0].message), "type": rule})
        failure.text = "\n".join(line for finding in errors for line in _lines(finding))
    if others := [line for finding in own if finding.level != "error" for line in _lines(finding)]:
        ElementTree.SubElement(case, "system-out").text = "\n".join(others)


def build_document(verdict: Verdict, subject: Mapping[str, JSON]) -> JSON:
    """Return the verdict as plain JSON, with its subject."""
    return {"subject": dict(subject), **verdict.to_json()}
