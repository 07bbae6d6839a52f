# SPDX-License-Identifier: Apache-2.0
"""Judge facts by the rules of a profile.

A profile names the rules, their parameters and the waivers; a rule is a file in `policies/`, or a `.rego` file beside
the profile. Rules run only here, so a rule that is missing, raises, or lacks a fact can never count as passed. During a
build, rules about statements on finished bundles (signatures, conformance, …) cannot run yet: the verdict lists them as
`deferred`, and `packager policy check` runs them.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from packager import canonical, plugins, strictyaml
from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.policy import rego, schema, waivers
from packager.policy.waivers import Waiver
from packager.strictyaml import Node, Scalar
from packager.types import Finding, Level, Verdict

MAX_PROFILE = 1 << 20
LATER = frozenset({"statements", "provenance", "conformance", "vulnerabilities"})
"""Facts that exist only once statements about a finished bundle exist."""
_LEVELS = ("error", "warning", "note")
_SETTINGS = ("level", "effective-on")
_FLAGS = ("opa", "clock")


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """The settings of a rule in a profile: parameters, the highest level of its findings, and its first day (UTC).

    `program` is the text of a rule in Rego, `opa` whether Open Policy Agent evaluates it, `clock` whether it may read
    the time: the beginning of the day on which facts are judged.
    """

    params: Mapping[str, JSON] = field(default_factory=dict)
    level: Level = "error"
    effective_on: datetime.date | None = None
    program: str = ""
    opa: bool = False
    clock: bool = False

    def to_json(self) -> JSON:
        day = self.effective_on.isoformat() if self.effective_on else None
        program = {"program": canonical.sha256(self.program.encode())} if self.program else {}
        flags = {name: True for name, value in (("opa", self.opa), ("clock", self.clock)) if value}
        return {"params": dict(self.params), "level": self.level, "effectiveOn": day, **program, **flags}


@dataclass(frozen=True, slots=True)
class Profile:
    """A named list of rules, and their waivers. A rule without settings has its defaults."""

    name: str
    rules: tuple[str, ...]
    waivers: tuple[Waiver, ...] = ()
    settings: Mapping[str, RuleSettings] = field(default_factory=dict)

    def settings_of(self, rule: str) -> RuleSettings:
        """Return the settings of a rule; the defaults where the profile sets none."""
        return self.settings.get(rule, RuleSettings())

    def only(self, *rules: str) -> Profile:
        """Return the profile with only these rules; waivers and settings stay."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule in rules))

    @property
    def facts(self) -> frozenset[str]:
        """Return the sections of facts that the rules read."""
        return frozenset(section for rule in self.rules for section in self.needs(rule))

    def needs(self, rule: str) -> tuple[str, ...]:
        """Return the sections of facts that a rule reads."""
        return rego.list_sections(self.settings_of(rule).program, rule) if rego.is_rego(rule) else list_needs(rule)

    @property
    def digest(self) -> str:
        """The identity of the policy: name, version and parameters of each rule, waivers, and the form of facts."""
        value = {
            "rules": [[rule, self._identity(rule)] for rule in self.rules],
            "waivers": [waiver.to_json() for waiver in self.waivers],
            "schema": schema.digest_form(),
        }
        return canonical.sha256(canonical.dump(value))

    def _identity(self, rule: str) -> JSON:
        settings = self.settings_of(rule)
        return {**settings.to_json(), "params": {**read_defaults(rule), **settings.params}, **_version(rule)}


def list_needs(rule: str) -> tuple[str, ...]:
    """Return the sections of facts that a rule reads."""
    return tuple(getattr(_module(rule), "FACTS", ()))


def read_defaults(rule: str) -> Mapping[str, JSON]:
    """Return the parameters of a rule with their defaults; a rule in Rego has none."""
    if rego.is_rego(rule):
        return {}
    return dict(getattr(_module(rule), "DEFAULTS", {}))


@functools.cache
def _module(rule: str) -> ModuleType:
    return plugins.load("policies", rule)


@functools.cache
def _version(rule: str) -> Mapping[str, JSON]:
    """Return the version of a rule, or the digest of the source of a plug-in's rule that states no `VERSION`.

    Raises UsageError for a rule with neither. A rule in Rego is identified by its text, which is among its settings.
    """
    if rego.is_rego(rule):
        return {}
    module = _module(rule)
    if (version := getattr(module, "VERSION", None)) is not None:
        return {"version": version}
    try:
        return {"source": canonical.sha256(Path(str(module.__file__)).read_bytes())}
    except OSError as error:
        message = f"rule `{rule}` states no `VERSION`, and its source cannot be read: {error.strerror}"
        raise UsageError(message, hint="add `VERSION = 1` to the rule's module") from None


def list_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that ship with this program."""
    folder = importlib.resources.files("packager.policies") / "profiles"
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_profile(name: str, base: Path) -> Profile:
    """Load a profile: one of ours by name, or a `.yaml` file relative to `base`. Raises UsageError."""
    if name.endswith((".yaml", ".yml")):
        path = base / name
        folder, data, label = path.parent, _file(path), str(path)
    else:
        if name not in list_profiles():
            raise UsageError(f"policy profile `{name}` is unknown", hint=did_you_mean(name, list_profiles()))
        shipped = importlib.resources.files("packager.policies") / "profiles"
        folder, data, label = base, (shipped / f"{name}.yaml").read_bytes(), f"{name}.yaml"
    return _parse(data, label, name, folder)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()[: MAX_PROFILE + 1]
    except OSError as error:
        raise UsageError(f"cannot read policy `{path}`: {error.strerror}") from None


def read_program(path: Path, settings: RuleSettings | None = None) -> str:
    """Read a rule in Rego. Raises UsageError, also where its facts cannot be determined or it cannot be evaluated."""
    data = _file(path)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"`{path}` is not text in UTF-8") from None
    if len(data) > MAX_PROFILE:
        raise UsageError(f"`{path}` is larger than {MAX_PROFILE} bytes")
    settings = settings or RuleSettings()
    rego.check_program(text, path.name, by_opa=settings.opa, clock=settings.clock)
    return text


def _parse(data: bytes, label: str, name: str, folder: Path) -> Profile:
    node = strictyaml.parse(data, label)
    members = strictyaml.read_fields(node, "policy", ("extends", "rules", "waivers"))
    if not {"extends", "rules"} & set(members):
        raise node.where.error("`policy` has no `rules`", hint="add a line `rules: …`, or `extends: release`")
    base = _base(members["extends"]) if "extends" in members else None
    own: dict[str, RuleSettings] = {}
    known = plugins.list_names("policies")
    for item in strictyaml.read_items(members["rules"], "rules", least=1) if "rules" in members else ():
        rule, settings = _parse_rule(item, known)
        if rego.is_rego(rule):
            settings = replace(settings, program=read_program(folder / rule, settings))
        if rule in own:
            raise item.where.error(f"rule `{rule}` is listed twice", hint="remove one of the two")
        own[rule] = settings
    rules = {rule: base.settings_of(rule) for rule in base.rules} | own if base else own
    waived = waivers.parse(members["waivers"], tuple(rules)) if "waivers" in members else ()
    waived = (*(base.waivers if base else ()), *waived)
    return Profile(
        name, tuple(rules), waived, {rule: settings for rule, settings in rules.items() if settings != RuleSettings()}
    )


def _base(node: Node) -> Profile:
    """Return the shipped profile that another extends: its rules come first, its settings are the defaults."""
    return load_profile(strictyaml.read_choice(node, "extends", list_profiles()), Path())


def _parse_rule(item: Node, known: Sequence[str]) -> tuple[str, RuleSettings]:
    """Read one item of `rules`: a name, or a name with settings and parameters."""
    if isinstance(item, Scalar):
        return _known(strictyaml.read_text(item, "rules"), item, known), RuleSettings()
    entries = strictyaml.read_table(item, "rules", least=1).entries
    if len(entries) != 1:
        raise item.where.error("expected one rule per item", hint="write `- name: {parameter: value}`")
    key, node = entries[0]
    rule = _known(key.text, item, known)
    flags = _FLAGS if rego.is_rego(rule) else ()
    members = strictyaml.read_fields(node, rule, (*_written(rule), *_SETTINGS, *flags))
    params = _params(rule, members)
    level: Level = strictyaml.read_choice(members["level"], "level", _LEVELS) if "level" in members else "error"  # type: ignore[assignment]
    day = waivers.parse_day(members["effective-on"], "effective-on") if "effective-on" in members else None
    stated = {flag: strictyaml.read_boolean(members[flag], flag) for flag in flags if flag in members}
    return rule, RuleSettings(params, level, day, opa=stated.get("opa", False), clock=stated.get("clock", False))


def parse_parameters(rule: str, node: Node) -> dict[str, JSON]:
    """Read the parameters of a rule. Raises UsageError with the line."""
    return _params(rule, strictyaml.read_fields(node, rule, _written(rule)))


def _written(rule: str) -> dict[str, str]:
    """Return the parameters of a rule: names as written in profiles, with hyphens, to names in its code."""
    return {name.replace("_", "-"): name for name in read_defaults(rule)}


def _params(rule: str, members: Mapping[str, Node]) -> dict[str, JSON]:
    known = read_defaults(rule)
    return {
        name: _param(rule, key, members[key], known[name]) for key, name in _written(rule).items() if key in members
    }


def _known(rule: str, item: Node, known: Sequence[str]) -> str:
    if rule not in known and not rego.is_rego(rule):
        raise item.where.error(f"rule `{rule:.60}` is unknown", hint=did_you_mean(rule, known))
    return rule


def _param(rule: str, name: str, node: Node, default: JSON) -> JSON:
    """Return a parameter, which has the type of its default; a list contains texts."""
    value, kinds = node.value(), {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    same = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        same = False
    if not same:
        raise node.where.error(
            f"`{rule}.{name}`: expected {kinds[type(default)]}, got {strictyaml.describe(node)}",
            hint=f"for example `{name}: {default}`",
        )
    return value


def judge(chosen: Profile, facts: Mapping[str, JSON], today: datetime.date | None = None) -> Verdict:
    """Run every rule of the profile; a fact that a rule needs and that is missing is a finding of the rule's level.

    `today` (UTC) decides which waivers are still valid and which rules are already in force; without it no waiver is,
    and every rule is. Sections of `facts` that the schema refuses count as missing.
    """
    wrong = schema.find_problems({name: section for name, section in facts.items() if name in chosen.facts})
    sound = {name: section for name, section in facts.items() if name not in wrong}
    deferred = tuple(rule for rule in chosen.rules if facts.get("stage") == "build" and LATER & {*chosen.needs(rule)})
    findings: list[Finding] = []
    for rule in chosen.rules:
        if rule not in deferred:
            found = _run_rule(chosen, rule, sound, wrong, today)
            findings += _cap_levels(rule, chosen.settings_of(rule), found, today)
    kept = tuple(waivers.apply(chosen.waivers, findings, today))
    return Verdict(chosen.rules, kept, deferred, chosen.name, chosen.digest)


def day_of(facts: Mapping[str, JSON]) -> datetime.date | None:
    """Return the day for which facts are judged, if they state one."""
    return datetime.date.fromisoformat(facts["today"]) if "today" in facts else None


def _run_rule(
    chosen: Profile, rule: str, facts: Mapping[str, JSON], wrong: Mapping[str, str], today: datetime.date | None
) -> Iterator[Finding]:
    settings = chosen.settings_of(rule)
    missing = [section for section in chosen.needs(rule) if section not in facts]
    for section in missing:
        reason = f" ({wrong[section]})" if section in wrong else ""
        yield _missing_fact(rule, f"`{section}`{reason}", schema.REMEDIES.get(section))
    if missing:
        return
    if rego.is_rego(rule):
        read = {section: facts[section] for section in chosen.needs(rule)}
        now = _now(rule, today) if settings.clock else None
        yield from rego.check(settings.program, rule, read, by_opa=settings.opa, now=now)
        return
    try:
        yield from list(_module(rule).check(facts, **{**read_defaults(rule), **settings.params}))
    except KeyError as member:
        yield _missing_fact(rule, str(member), None)


def _now(rule: str, today: datetime.date | None) -> int:
    """Return the beginning of the day on which facts are judged, in nanoseconds. Raises UsageError without one."""
    if today is None:
        raise UsageError(f"`{rule}` reads the time, but the facts state no day")
    return (today - datetime.date(1970, 1, 1)).days * 86_400 * 10**9


def _missing_fact(rule: str, what: str, remedy: str | None) -> Finding:
    return Finding(rule, "error", waivers.FACTS, f"fact {what} is missing, so the rule cannot pass", remedy)


def _cap_levels(
    rule: str, settings: RuleSettings, findings: Iterator[Finding], today: datetime.date | None
) -> Iterator[Finding]:
    """Yield findings with levels no higher than the profile's; before a rule's first day errors are warnings."""
    starts = settings.effective_on
    early = starts is not None and today is not None and today < starts
    for finding in findings:
        level = max(settings.level, finding.level, key=_LEVELS.index)
        if early and level == "error":
            message = f"{finding.message} (an error from {starts} on)"
            yield replace(finding, rule=rule, level="warning", message=message)
        else:
            yield replace(finding, rule=rule, level=level)
