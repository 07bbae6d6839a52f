# SPDX-License-Identifier: Apache-2.0
"""Document rules: from their docstrings, defaults and the profiles, so that the documentation cannot be stale."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from packager import plugins
from packager.canonical import JSON
from packager.policy import engine, schema
from packager.policy.engine import Profile


def describe(rule: str) -> dict[str, JSON]:
    """Return the documentation of a rule as JSON. Raises UsageError for one that does not exist."""
    module = plugins.load("policies", rule)
    return {
        "rule": rule,
        "documentation": (module.__doc__ or "").strip(),
        "parameters": {name.replace("_", "-"): value for name, value in engine.read_defaults(rule).items()},
        "facts": {section: schema.list_sections().get(section, "") for section in engine.list_needs(rule)},
        "profiles": {
            name: profile.settings_of(rule).to_json() for name, profile in _profiles().items() if rule in profile.rules
        },
    }


@functools.cache
def _profiles() -> dict[str, Profile]:
    return {name: engine.load_profile(name, Path()) for name in engine.list_profiles()}


def render_text(rule: str) -> str:
    """Return the same as Markdown: the entry of `docs/reference/policies.md`, which `policy explain` prints."""
    known = describe(rule)
    rows = [f"## {rule}", "", known["documentation"], ""]
    if known["parameters"]:
        rows += ["| parameter | default |", "| --- | --- |"]
        rows += [f"| `{name}` | `{json.dumps(value)}` |" for name, value in known["parameters"].items()] + [""]
    rows += ["Facts: " + "; ".join(f"`{name}` ({what})" for name, what in known["facts"].items()) + "."]
    profiles = [f"`{name}`{_settings(settings)}" for name, settings in known["profiles"].items()]
    return "\n".join([*rows, "", "Profiles: " + (", ".join(profiles) or "none of ours") + "."])


def _settings(settings: JSON) -> str:
    """Return how a profile differs from the rule's defaults."""
    words = [f"{name.replace('_', '-')}: {json.dumps(value)}" for name, value in settings["params"].items()]
    words += [settings["level"]] if settings["level"] != "error" else []
    words += [f"from {settings['effectiveOn']} on"] if settings["effectiveOn"] else []
    return f" ({', '.join(words)})" if words else ""


def render_chapter() -> str:
    """Return the entries of all shipped rules, for `docs/reference/policies.md`."""
    return "\n\n".join(render_text(rule) for rule in plugins.list_names("policies")) + "\n"
