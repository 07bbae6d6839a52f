# SPDX-License-Identifier: Apache-2.0
"""Policies: profiles and rules, the facts they judge, forms of a verdict, and advisories.

For example:

    facts = policies.gather_facts(bundle, "release", verification)
    verdict = policies.judge_facts("release", facts)
    print(policies.format_verdict(verdict, "digits:1.4.0"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packager.api._lazy import lazily

if TYPE_CHECKING:
    import datetime

    from packager.bundle.bundle import Bundle
    from packager.canonical import JSON
    from packager.policy.advisories import Database as AdvisoryDatabase
    from packager.policy.engine import Profile, RuleSettings
    from packager.policy.testing import Outcome as RuleTest
    from packager.policy.vulnerabilities import Vulnerabilities
    from packager.policy.waivers import Waiver
    from packager.trust.verify import Verification
    from packager.types import Finding, Verdict
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "AdvisoryDatabase": "packager.policy.advisories:Database",
            "Profile": "packager.policy.engine",
            "RuleSettings": "packager.policy.engine",
            "RuleTest": "packager.policy.testing:Outcome",
            "Vulnerabilities": "packager.policy.vulnerabilities",
            "Waiver": "packager.policy.waivers",
        },
    )

__all__ = [
    "AdvisoryDatabase",
    "Profile",
    "RuleSettings",
    "RuleTest",
    "Vulnerabilities",
    "Waiver",
    "describe_rule",
    "describe_verdict",
    "draft_waivers",
    "explain_rule",
    "find_vulnerabilities",
    "format_verdict",
    "gather_facts",
    "import_advisories",
    "judge_facts",
    "list_profiles",
    "list_rules",
    "read_advisories",
    "read_profile",
    "run_rule_tests",
]


# -- rules and profiles


def list_rules() -> dict[str, str]:
    """Return the first sentence about each rule by its name, sorted; those of third parties are among them.

    Raises UsageError for a rule of a third party that cannot be imported.
    """
    from packager import plugins
    from packager.policy import report

    return {name: report.find_title(name) for name in plugins.list_names("policies")}


def list_profiles() -> dict[str, list[str]]:
    """Return the rules of each profile that ships, by its name. Raises nothing."""
    from packager.policy import engine

    return {name: list(engine.load_profile(name, Path()).rules) for name in engine.list_profiles()}


def read_profile(profile: str | Path | Profile) -> Profile:
    """Return a profile: one that ships, by name, or a `.yaml` file. A parsed one is returned as it is.

    Raises UsageError with the line.
    """
    from packager.policy import engine

    return profile if isinstance(profile, engine.Profile) else engine.load_profile(str(profile), Path())


def describe_rule(rule: str) -> dict[str, JSON]:
    """Return what a rule requires, its parameters, facts and profiles as JSON. Raises UsageError if there is none."""
    from packager.policy import docs

    return docs.describe(rule)


def explain_rule(rule: str) -> str:
    """Return the same as `describe_rule` as Markdown. Raises UsageError for an unknown one."""
    from packager.policy import docs

    return docs.render_text(rule)


def run_rule_tests(path: Path) -> list[RuleTest]:
    """Run the unit tests of rules in a folder or `.yaml` file; a result's `problem` is None where it passed.

    Raises UsageError with the line.
    """
    from packager.policy import testing

    return [outcome for case in testing.load(path) for outcome in testing.run(case)]


# -- facts and verdicts


def gather_facts(
    bundle: Bundle,
    profile: str | Path | Profile,
    verification: Verification | None,
    *,
    today: datetime.date | None = None,
    advisories: Path | None = None,
) -> Mapping[str, JSON]:
    """Return the facts that a profile reads: from the bundle's files, and from statements that verification accepted.

    `today` is the day they are judged for (default: now, UTC), `advisories` the directory of imported ones
    (`Workspace.advisories_to_read`). Raises UsageError, and NegativeAnswerError for statements that contradict.
    """
    from packager.policy import facts
    from packager.workspace import utc_now

    wanted = read_profile(profile).facts
    evidence = None if verification is None else verification.evidence
    return facts.of_bundle(bundle, evidence, wanted, today or utc_now().date(), advisories)


def judge_facts(profile: str | Path | Profile, facts: Mapping[str, JSON]) -> Verdict:
    """Judge facts by a profile, for the day that they state. Raises UsageError for a profile that cannot be read."""
    from packager.policy import engine

    return engine.judge(read_profile(profile), facts, engine.day_of(facts))


def format_verdict(verdict: Verdict, subject: str, form: Literal["table", "sarif", "junit"] = "table") -> str:
    """Return a verdict about `subject` (`name:version`) as a table for people, a SARIF 2.1.0 log, or JUnit XML.

    Raises KeyError for another form.
    """
    from packager.policy import report

    return {"table": report.render_table, "sarif": report.render_sarif, "junit": report.render_junit}[form](
        verdict, subject
    )


def describe_verdict(verdict: Verdict, bundle: Bundle) -> dict[str, JSON]:
    """Return a verdict with its subject as JSON. Raises nothing."""
    from packager.policy import report

    about = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
    found: dict[str, JSON] = report.build_document(verdict, about)
    return found


def draft_waivers(findings: Sequence[Finding], expires: datetime.date) -> list[str]:
    """Return a line of YAML for each error that a waiver could cover, for `waivers` of a profile.

    Owner and reason are to be filled in. Raises nothing.
    """
    from packager.policy import waivers

    return waivers.draft_waivers(findings, expires)


# -- advisories


def import_advisories(path: Path, workspace: Workspace) -> AdvisoryDatabase:
    """Import advisories: `all.zip` of the PyPI ecosystem from osv.dev, JSON lines, or one advisory in the OSV form.

    The database that was there stays until the new one is complete. Raises UsageError, StorageError.
    """
    from packager.policy import advisories

    return advisories.import_file(path, workspace.advisories)


def read_advisories(workspace: Workspace) -> AdvisoryDatabase | None:
    """Return what is known of the imported advisories, None where there are none. Raises UsageError."""
    from packager.policy import advisories

    return advisories.read_database(workspace.advisories)


def find_vulnerabilities(bundle: Bundle, workspace: Workspace) -> Vulnerabilities:
    """Look the packages of a bundle up in the imported advisories, offline; nothing is judged.

    Sign the `predicate` as type `urn:packager:vulnerabilities:v1`. Raises UsageError where nothing can be looked up.
    """
    from packager.policy import vulnerabilities

    return vulnerabilities.find_vulnerabilities(bundle, workspace.advisories, workspace.clock().date())
