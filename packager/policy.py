# SPDX-License-Identifier: Apache-2.0
"""Judge facts by rules. A profile names the rules and the waivers; a rule is a file in `policies/`.

Rules are asked here and nowhere else, so a rule that is missing or raises can never count as passed.
"""

from __future__ import annotations

import datetime
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import plugins, waivers, yamltext
from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.types import Finding, Verdict
from packager.waivers import Waiver

MAX_PROFILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of rules, and what is excused from them for a while."""

    name: str
    rules: tuple[str, ...]
    waivers: tuple[Waiver, ...] = ()


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
    members = yamltext.fields(yamltext.parse(data, label), "policy", ("rules", "waivers"), required=("rules",))
    rules = []
    for item in yamltext.items(members["rules"], "rules", least=1):
        rule = yamltext.text(item, "rules")
        if rule not in plugins.names("policies"):
            raise item.where.error(f"rule `{rule}` is unknown", hint=did_you_mean(rule, plugins.names("policies")))
        rules.append(rule)
    excused = waivers.parse(members["waivers"], rules) if "waivers" in members else ()
    return Profile(name, tuple(rules), excused)


def judge(chosen: Profile, facts: Mapping[str, JSON], today: datetime.date | None = None) -> Verdict:
    """Ask every rule of the profile; a fact that a rule needs and does not get is an error finding.

    `today` (UTC) decides which waivers still hold; without it none does.
    """
    findings: list[Finding] = []
    for rule in chosen.rules:
        try:
            findings += plugins.load("policies", rule).check(facts)
        except KeyError as missing:
            findings.append(
                Finding(rule, "error", waivers.FACTS, f"fact {missing} is missing, so the rule cannot say yes")
            )
    return Verdict(chosen.rules, tuple(waivers.apply(chosen.waivers, findings, today)))
