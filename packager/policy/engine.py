# SPDX-License-Identifier: Apache-2.0
"""Judge facts by rules. A profile names the rules, their parameters and the waivers; a rule is a file in `policies/`,
or a `.rego` file beside the profile.

Rules are asked here and nowhere else, so a rule that is missing, raises, or lacks a fact can never count as passed.
While a bundle is being built, rules about what is said of finished bundles (signatures, conformance, …) cannot be
asked yet: the verdict lists them as `deferred`, and `packager policy check` asks them.
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
"""Facts that exist only once a bundle is finished and something was said about it."""
_LEVELS = ("error", "warning", "note")
_TERMS = ("level", "effective-on")
_WAYS = ("opa", "clock")


@dataclass(frozen=True, slots=True)
class Terms:
    """How a profile asks a rule: with which parameters, how grave a no is, and from which day on (UTC).

    `program` is the text of a rule in Rego, `opa` whether Open Policy Agent judges it, `clock` whether it may ask for
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
        how = {name: True for name, said in (("opa", self.opa), ("clock", self.clock)) if said}
        return {"params": dict(self.params), "level": self.level, "effectiveOn": day, **program, **how}


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of rules, and what is excused from them for a while. A rule without terms has its defaults."""

    name: str
    rules: tuple[str, ...]
    waivers: tuple[Waiver, ...] = ()
    terms: Mapping[str, Terms] = field(default_factory=dict)

    def terms_of(self, rule: str) -> Terms:
        return self.terms.get(rule, Terms())

    def only(self, *rules: str) -> Profile:
        """Return the profile with no other rules than these; waivers and terms stay."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule in rules))

    @property
    def facts(self) -> frozenset[str]:
        """Return the sections of facts that the rules read."""
        return frozenset(section for rule in self.rules for section in self.needs(rule))

    def needs(self, rule: str) -> tuple[str, ...]:
        """Return the sections of facts that one of the rules reads."""
        return rego.sections(self.terms_of(rule).program, rule) if rego.is_rego(rule) else needs(rule)

    @property
    def digest(self) -> str:
        """The identity of the policy: name, version and parameters of each rule, waivers, and the form of facts."""
        value = {
            "rules": [[rule, self._identity(rule)] for rule in self.rules],
            "waivers": [waiver.to_json() for waiver in self.waivers],
            "schema": schema.digest(),
        }
        return canonical.sha256(canonical.dump(value))

    def _identity(self, rule: str) -> JSON:
        terms = self.terms_of(rule)
        return {**terms.to_json(), "params": {**defaults(rule), **terms.params}, **_version(rule)}


def needs(rule: str) -> tuple[str, ...]:
    """Return the sections of facts that a rule reads."""
    return tuple(getattr(_module(rule), "FACTS", ()))


def defaults(rule: str) -> Mapping[str, JSON]:
    """Return the parameters of a rule with their defaults; one in Rego has none."""
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


def profiles() -> tuple[str, ...]:
    """Return the names of the profiles that ship with this program."""
    folder = importlib.resources.files("packager.policies") / "profiles"
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def profile(name: str, base: Path) -> Profile:
    """Load a profile: one of ours by name, or a `.yaml` file relative to `base`. Raises UsageError."""
    if name.endswith((".yaml", ".yml")):
        path = base / name
        folder, data, label = path.parent, _file(path), str(path)
    else:
        if name not in profiles():
            raise UsageError(f"policy profile `{name}` is unknown", hint=did_you_mean(name, profiles()))
        shipped = importlib.resources.files("packager.policies") / "profiles"
        folder, data, label = base, (shipped / f"{name}.yaml").read_bytes(), f"{name}.yaml"
    return _parse(data, label, name, folder)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()[: MAX_PROFILE + 1]
    except OSError as error:
        raise UsageError(f"cannot read policy `{path}`: {error.strerror}") from None


def program(path: Path, terms: Terms | None = None) -> str:
    """Read a rule in Rego. Raises UsageError, also for one whose facts cannot be told or that cannot be evaluated."""
    data = _file(path)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"`{path}` is not text in UTF-8") from None
    if len(data) > MAX_PROFILE:
        raise UsageError(f"`{path}` is larger than {MAX_PROFILE} bytes")
    terms = terms or Terms()
    rego.load(text, path.name, by_opa=terms.opa, clock=terms.clock)
    return text


def _parse(data: bytes, label: str, name: str, folder: Path) -> Profile:
    node = strictyaml.parse(data, label)
    members = strictyaml.fields(node, "policy", ("extends", "rules", "waivers"))
    if not {"extends", "rules"} & set(members):
        raise node.where.error("`policy` has no `rules`", hint="add a line `rules: …`, or `extends: release`")
    base = _base(members["extends"]) if "extends" in members else None
    own: dict[str, Terms] = {}
    known = plugins.names("policies")
    for item in strictyaml.items(members["rules"], "rules", least=1) if "rules" in members else ():
        rule, terms = _asked(item, known)
        if rego.is_rego(rule):
            terms = replace(terms, program=program(folder / rule, terms))
        if rule in own:
            raise item.where.error(f"rule `{rule}` is asked twice", hint="remove one of the two")
        own[rule] = terms
    asked = {rule: base.terms_of(rule) for rule in base.rules} | own if base else own
    excused = waivers.parse(members["waivers"], tuple(asked)) if "waivers" in members else ()
    excused = (*(base.waivers if base else ()), *excused)
    return Profile(name, tuple(asked), excused, {rule: terms for rule, terms in asked.items() if terms != Terms()})


def _base(node: Node) -> Profile:
    """Return the profile of ours that one extends: its rules come first, and its terms give way to those stated."""
    return profile(strictyaml.choice(node, "extends", profiles()), Path())


def _asked(item: Node, known: Sequence[str]) -> tuple[str, Terms]:
    """Read one item of `rules`: a name, or a name with terms and parameters."""
    if isinstance(item, Scalar):
        return _known(strictyaml.text(item, "rules"), item, known), Terms()
    entries = strictyaml.table(item, "rules", least=1).entries
    if len(entries) != 1:
        raise item.where.error("expected one rule per item", hint="write `- name: {parameter: value}`")
    key, node = entries[0]
    rule = _known(key.text, item, known)
    ways = _WAYS if rego.is_rego(rule) else ()
    members = strictyaml.fields(node, rule, (*_written(rule), *_TERMS, *ways))
    params = _params(rule, members)
    level: Level = strictyaml.choice(members["level"], "level", _LEVELS) if "level" in members else "error"  # type: ignore[assignment]
    day = waivers.day(members["effective-on"], "effective-on") if "effective-on" in members else None
    said = {way: strictyaml.boolean(members[way], way) for way in ways if way in members}
    return rule, Terms(params, level, day, opa=said.get("opa", False), clock=said.get("clock", False))


def parameters(rule: str, node: Node) -> dict[str, JSON]:
    """Read the parameters of a rule. Raises UsageError with the line."""
    return _params(rule, strictyaml.fields(node, rule, _written(rule)))


def _written(rule: str) -> dict[str, str]:
    """Return the parameters of a rule as profiles write them, with hyphens, and as the rule calls them."""
    return {name.replace("_", "-"): name for name in defaults(rule)}


def _params(rule: str, members: Mapping[str, Node]) -> dict[str, JSON]:
    known = defaults(rule)
    return {
        name: _param(rule, key, members[key], known[name]) for key, name in _written(rule).items() if key in members
    }


def _known(rule: str, item: Node, known: Sequence[str]) -> str:
    if rule not in known and not rego.is_rego(rule):
        raise item.where.error(f"rule `{rule:.60}` is unknown", hint=did_you_mean(rule, known))
    return rule


def _param(rule: str, name: str, node: Node, default: JSON) -> JSON:
    """Return a parameter, which is of the type of its default; a list holds texts."""
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
    """Ask every rule of the profile; a fact that a rule needs and does not get is a finding of the rule's level.

    `today` (UTC) decides which waivers still hold and which rules hold already; without it no waiver and every rule
    does. Sections of `facts` that the schema refuses count as missing.
    """
    wrong = schema.problems({name: section for name, section in facts.items() if name in chosen.facts})
    sound = {name: section for name, section in facts.items() if name not in wrong}
    deferred = tuple(rule for rule in chosen.rules if facts.get("stage") == "build" and LATER & {*chosen.needs(rule)})
    findings: list[Finding] = []
    for rule in chosen.rules:
        if rule not in deferred:
            findings += _graded(rule, chosen.terms_of(rule), _ask(chosen, rule, sound, wrong, today), today)
    kept = tuple(waivers.apply(chosen.waivers, findings, today))
    return Verdict(chosen.rules, kept, deferred, chosen.name, chosen.digest)


def day(facts: Mapping[str, JSON]) -> datetime.date | None:
    """Return the day on which facts are judged, if they say one."""
    return datetime.date.fromisoformat(facts["today"]) if "today" in facts else None


def _ask(
    chosen: Profile, rule: str, facts: Mapping[str, JSON], wrong: Mapping[str, str], today: datetime.date | None
) -> Iterator[Finding]:
    terms = chosen.terms_of(rule)
    missing = [section for section in chosen.needs(rule) if section not in facts]
    for section in missing:
        reason = f" ({wrong[section]})" if section in wrong else ""
        yield _silent(rule, f"`{section}`{reason}", schema.REMEDIES.get(section))
    if missing:
        return
    if rego.is_rego(rule):
        asked = {section: facts[section] for section in chosen.needs(rule)}
        now = _now(rule, today) if terms.clock else None
        yield from rego.check(terms.program, rule, asked, by_opa=terms.opa, now=now)
        return
    try:
        yield from list(_module(rule).check(facts, **{**defaults(rule), **terms.params}))
    except KeyError as member:
        yield _silent(rule, str(member), None)


def _now(rule: str, today: datetime.date | None) -> int:
    """Return the beginning of the day on which facts are judged, in nanoseconds. Raises UsageError without one."""
    if today is None:
        raise UsageError(f"`{rule}` asks for the time, and nobody says which day it is")
    return (today - datetime.date(1970, 1, 1)).days * 86_400 * 10**9


def _silent(rule: str, what: str, remedy: str | None) -> Finding:
    return Finding(rule, "error", waivers.FACTS, f"fact {what} is missing, so the rule cannot say yes", remedy)


def _graded(rule: str, terms: Terms, findings: Iterator[Finding], today: datetime.date | None) -> Iterator[Finding]:
    """Yield findings no graver than the profile wants them; before a rule's day they are warnings."""
    starts = terms.effective_on
    early = starts is not None and today is not None and today < starts
    for finding in findings:
        level = max(terms.level, finding.level, key=_LEVELS.index)
        if early and level == "error":
            message = f"{finding.message} (an error from {starts} on)"
            yield replace(finding, rule=rule, level="warning", message=message)
        else:
            yield replace(finding, rule=rule, level=level)
