# SPDX-License-Identifier: Apache-2.0
"""Judge facts by rules. A profile names the rules and their parameters; a rule is a file in `policies/`.

Rules are asked here and nowhere else, so a rule that is missing or raises can never count as passed.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import plugins, yamltext
from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.types import Finding, Verdict

MAX_PROFILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of rules."""

    name: str
    rules: tuple[str, ...]


def profile(name: str, base: Path) -> Profile:
    """Load a profile: one of ours by name, or a `.yaml` file relative to `base`. Raises UsageError."""
    if name.endswith((".yaml", ".yml")):
        path = base / name
        try:
            data, label = path.read_bytes()[: MAX_PROFILE + 1], str(path)
        except OSError as error:
            raise UsageError(f"cannot read policy `{path}`: {error.strerror}") from None
    else:
        folder = importlib.resources.files("packager.policies") / "profiles"
        known = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
        if name not in known:
            raise UsageError(f"policy profile `{name}` is unknown", hint=did_you_mean(name, known))
        data, label = (folder / f"{name}.yaml").read_bytes(), f"{name}.yaml"
    return _parse(data, label, name)


def _parse(data: bytes, label: str, name: str) -> Profile:
    members = yamltext.fields(yamltext.parse(data, label), "policy", ("rules",), required=("rules",))
    rules = []
    for item in yamltext.items(members["rules"], "rules", least=1):
        rule = yamltext.text(item, "rules")
        if rule not in plugins.names("policies"):
            raise item.where.error(f"rule `{rule}` is unknown", hint=did_you_mean(rule, plugins.names("policies")))
        rules.append(rule)
    return Profile(name, tuple(rules))


def judge(chosen: Profile, facts: Mapping[str, JSON]) -> Verdict:
    """Ask every rule of the profile; a fact that a rule needs and does not get is an error finding."""
    findings: list[Finding] = []
    for rule in chosen.rules:
        try:
            findings += plugins.load("policies", rule).check(facts)
        except KeyError as missing:
            findings.append(Finding(rule, "error", "facts", f"fact {missing} is missing, so the rule cannot say yes"))
    return Verdict(chosen.rules, tuple(findings))
