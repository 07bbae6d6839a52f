# SPDX-License-Identifier: Apache-2.0
"""Apply waivers: exceptions in a policy profile, each with an owner, a reason and an end.

A waived finding stays in the verdict as a note that names the waiver; an expired waiver has no effect, and the finding
states that. A missing fact cannot be waived: it is unknown what would be waived.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from packager import edits, strictyaml
from packager.canonical import JSON
from packager.errors import did_you_mean
from packager.strictyaml import Node
from packager.types import Finding

FACTS = "facts"
"""The subject of findings about facts that are missing."""
_LINE = r"\S(.*\S)?"
_KEYS = ("rule", "subject", "owner", "reason", "expires")


@dataclass(frozen=True, slots=True)
class Waiver:
    """One exception. `subject` is a pattern with `*` and `?`; it is valid up to and on the day `expires`, in UTC."""

    rule: str
    subject: str
    owner: str
    reason: str
    expires: datetime.date

    def covers(self, finding: Finding) -> bool:
        """Say whether it is for a finding, whatever the day."""
        return finding.rule == self.rule and fnmatch.fnmatchcase(finding.subject, self.subject)

    def to_json(self) -> JSON:
        return {
            "rule": self.rule,
            "subject": self.subject,
            "owner": self.owner,
            "reason": self.reason,
            "expires": self.expires.isoformat(),
        }


def parse(node: Node, rules: Collection[str]) -> tuple[Waiver, ...]:
    """Read the `waivers` of a profile with these `rules`. Raises UsageError with the line."""
    return tuple(_waiver(item, rules) for item in strictyaml.read_items(node, "waivers", most=1000))


def _waiver(node: Node, rules: Collection[str]) -> Waiver:
    members = strictyaml.read_fields(node, "waivers", _KEYS, required=_KEYS)
    rule, subject, owner, reason = (
        strictyaml.read_text(members[key], f"waivers.{key}", pattern=_LINE, expect="one line of text")
        for key in _KEYS[:4]
    )
    if rule not in rules:
        raise members["rule"].where.error(
            f"the profile has no rule `{rule:.60}`, so it cannot waive it", hint=did_you_mean(rule, rules)
        )
    return Waiver(rule, subject, owner, reason, parse_day(members["expires"], "waivers.expires", "every waiver ends"))


def parse_day(node: Node, what: str, hint: str | None = None) -> datetime.date:
    """Read a day such as `2026-12-31`. Raises UsageError with the line."""
    text = strictyaml.read_text(node, what, pattern=_LINE, expect="a day such as `2026-12-31`", hint=hint)
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        problem = f"`{what}`: expected a day such as `2026-12-31`, got `{text:.40}`"
        raise node.where.error(problem, hint=hint) from None


def apply(waivers: Sequence[Waiver], findings: Sequence[Finding], today: datetime.date | None) -> Iterator[Finding]:
    """Yield the findings, the waived ones as notes, and a note for each waiver that matches no finding.

    Without `today` it is unknown what has expired, so no waiver is valid.
    """
    for finding in findings:
        found = [waiver for waiver in waivers if waiver.covers(finding) and finding.subject != FACTS]
        valid = [waiver for waiver in found if today is not None and today <= waiver.expires]
        if finding.level != "error" or not found:
            yield finding
        elif valid:
            until = f"waived until {valid[0].expires} by {valid[0].owner}: {valid[0].reason}"
            yield replace(finding, level="note", message=f"{finding.message} ({until})", waiver=valid[0].to_json())
        else:
            ended = f"{finding.message} (the waiver of {found[0].owner} ended on {found[0].expires})"
            yield replace(finding, message=ended, hint=f"{finding.hint or 'fix it'}; or renew the waiver")
    for waiver in waivers:
        if not any(waiver.covers(finding) for finding in findings):
            yield Finding(
                waiver.rule, "note", waiver.subject, f"the waiver of {waiver.owner} matches no finding", "remove it"
            )


def draft_waivers(findings: Sequence[Finding], expires: datetime.date) -> list[str]:
    """Return one line of YAML for each error that can be waived, to be completed with its owner and reason."""
    rows = [
        {
            "rule": finding.rule,
            "subject": finding.subject.replace("[", "[[]"),
            "owner": "you@example.org",
            "reason": "say why",
            "expires": expires.isoformat(),
        }
        for finding in findings
        if finding.level == "error" and finding.subject != FACTS
    ]
    return [*dict.fromkeys(map(edits.write_flow, rows))]
