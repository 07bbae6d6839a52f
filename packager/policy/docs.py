# SPDX-License-Identifier: Apache-2.0
"""What a rule is, for people: derived from its docstring, its defaults and the profiles, so that it cannot be stale."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from packager import plugins
from packager.canonical import JSON
from packager.policy import engine, schema
from packager.policy.engine import Profile


def about(rule: str) -> dict[str, JSON]:
    """Return everything there is to know about a rule. Raises UsageError for one that does not exist."""
    module = plugins.load("policies", rule)
    return {
        "rule": rule,
        "documentation": (module.__doc__ or "").strip(),
        "parameters": {name.replace("_", "-"): value for name, value in engine.defaults(rule).items()},
        "facts": {section: schema.sections().get(section, "") for section in engine.needs(rule)},
        "profiles": {
            name: profile.terms_of(rule).to_json() for name, profile in _profiles().items() if rule in profile.rules
        },
    }


@functools.cache
def _profiles() -> dict[str, Profile]:
    return {name: engine.profile(name, Path()) for name in engine.profiles()}


def text(rule: str) -> str:
    """Return the same as Markdown: the entry of `docs/reference/policies.md`, which `policy explain` prints."""
    known = about(rule)
    rows = [f"## {rule}", "", known["documentation"], ""]
    if known["parameters"]:
        rows += ["| parameter | default |", "| --- | --- |"]
        rows += [f"| `{name}` | `{json.dumps(value)}` |" for name, value in known["parameters"].items()] + [""]
    rows += ["Facts: " + "; ".join(f"`{name}` ({what})" for name, what in known["facts"].items()) + "."]
    asked = [f"`{name}`{_terms(terms)}" for name, terms in known["profiles"].items()]
    return "\n".join([*rows, "", "Profiles: " + (", ".join(asked) or "none of ours") + "."])


def _terms(terms: JSON) -> str:
    """Return how a profile differs from the rule's defaults."""
    words = [f"{name.replace('_', '-')}: {json.dumps(value)}" for name, value in terms["params"].items()]
    words += [terms["level"]] if terms["level"] != "error" else []
    words += [f"from {terms['effectiveOn']} on"] if terms["effectiveOn"] else []
    return f" ({', '.join(words)})" if words else ""


def chapter() -> str:
    """Return the entries of all rules of ours, for `docs/reference/policies.md`."""
    return "\n\n".join(text(rule) for rule in plugins.names("policies")) + "\n"
