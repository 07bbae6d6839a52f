# SPDX-License-Identifier: Apache-2.0
"""The published schema of facts.

Facts are checked section by section: one that the schema refuses counts as missing, and a rule that needs it fails.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

from packager import canonical, json_schema
from packager.canonical import JSON

MEASURED = "attest what the build measured: `packager build --facts FILE`, then `packager attest --type {}`".format(
    "urn:packager:facts:v1"
)
STATED = "name trusted signers (--trust, --key, …): only their statements are facts"
REMEDIES = {
    "nondeterministic": MEASURED,
    "targets": MEASURED,
    "statements": STATED,
    "provenance": STATED,
    "conformance": STATED,
    "confinement": STATED,
    "scans": STATED,
    "vulnerabilities": "import advisories: `packager vulndb import all.zip` (the PyPI ecosystem of osv.dev)",
}
"""The hint for each section that may be missing."""


def build_schema() -> bytes:
    """Return the JSON Schema of facts."""
    return resources.files("packager.policies").joinpath("facts.schema.json").read_bytes()


@functools.cache
def _schema() -> Mapping[str, JSON]:
    value: Mapping[str, JSON] = canonical.load(build_schema(), limit=1 << 20)
    return value


@functools.cache
def digest_form() -> str:
    """Return the digest of the schema without its descriptions: of what the form of facts is, not of its words."""
    return canonical.sha256(canonical.dump(_without_descriptions(_schema())))


def _without_descriptions(value: JSON) -> JSON:
    """Drop each `description` that is a text: a property of that name is a schema, which stays."""
    if isinstance(value, list):
        return [_without_descriptions(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {name: item for name, item in value.items() if name != "description" or not isinstance(item, str)}
    return {name: _without_descriptions(item) for name, item in kept.items()}


def list_sections() -> Mapping[str, str]:
    """Return the sections of facts with their descriptions."""
    return {name: member.get("description", "") for name, member in _schema()["properties"].items()}


def find_problems(facts: Mapping[str, JSON]) -> dict[str, str]:
    """Return the first problem of each section that the schema refuses."""
    found = {}
    for name, value in facts.items():
        if name not in _schema()["properties"]:
            found[name] = "it is not a section of facts"
        elif problem := next(json_schema.check(value, _schema()["properties"][name], name), None):
            found[name] = problem
    return found
