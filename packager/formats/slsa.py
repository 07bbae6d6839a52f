# SPDX-License-Identifier: Apache-2.0
"""SLSA provenance v1: how a bundle was made, completely enough to make it again.

`buildDefinition` is a function of recipe, lock and the files beside the recipe: two builds of the same give the same
bytes of it, whoever builds, wherever and whenever. `runDetails` is what was observed: who built, when, in which
confinement, what the steps gave and measured. Nothing of the second may be needed to repeat the first.

Source: slsa.dev/spec/v1.0/provenance; in-toto resource descriptors v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON
from packager.formats.dsse import decode, items, members

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:packager:build:v1"
MAX_DEPENDENCIES = 100_000
CONFINEMENT = "confinement.json"  # byproduct: how the workers were confined, the weakest way of all of them
FACTS = "facts.json"  # byproduct: what the steps measured, as the rules of a policy read it


@dataclass(frozen=True, slots=True)
class Run:
    """What was observed of one build: who, which call, and when (RFC 3339, UTC)."""

    builder: str
    version: str
    invocation: str
    started: str
    finished: str

    def to_json(self, byproducts: list[JSON]) -> JSON:
        return {
            "builder": {"id": self.builder, "version": {"packager": self.version}},
            "metadata": {
                "invocationId": self.invocation,
                "startedOn": self.started,
                "finishedOn": self.finished,
            },
            "byproducts": byproducts,
        }


@dataclass(frozen=True, slots=True)
class Provenance:
    """A parsed predicate: what the requester chose, what it resolved to, and what was observed.

    `recipe` and `lock` are the whole documents; `files` are the digests of the files beside the recipe, by the name
    the recipe gives them; `facts` is what was measured and `confinement` how its workers were confined, or None if the
    builder does not say.
    """

    recipe: Mapping[str, JSON]
    lock: Mapping[str, JSON]
    files: Mapping[str, str]
    builder: str
    invocation: str
    finished: str
    facts: Mapping[str, JSON] | None
    confinement: Mapping[str, JSON] | None = None


def predicate(
    recipe: JSON, lock: JSON, files: Mapping[str, str], dependencies: list[JSON], run: JSON
) -> dict[str, JSON]:
    """Return the predicate; `files` maps names beside the recipe to their digests."""
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": recipe, "lock": lock, "files": dict(files)},
            "resolvedDependencies": dependencies,
        },
        "runDetails": run,
    }


def parse(value: JSON) -> Provenance:
    """Read a predicate of our build type strictly: a parameter that nobody knows could change what is built.

    Raises ValueError with a reason fit for a message.
    """
    top = members(value, "provenance", "buildDefinition runDetails")
    definition = members(
        top["buildDefinition"], "build definition", "buildType externalParameters resolvedDependencies"
    )
    if definition["buildType"] != BUILD_TYPE:
        raise ValueError(f"expected build type {BUILD_TYPE}, got {definition['buildType']!s:.100}")
    items(definition["resolvedDependencies"], "resolved dependencies", 0, MAX_DEPENDENCIES)
    chosen = members(definition["externalParameters"], "external parameters", "recipe lock files")
    run = members(top["runDetails"], "run details", "builder metadata byproducts")
    builder = members(run["builder"], "builder", "id version")
    byproducts = items(run["byproducts"], "byproducts", 0, MAX_DEPENDENCIES)
    times = members(run["metadata"], "metadata", "invocationId startedOn finishedOn")
    return Provenance(
        _object(chosen["recipe"], "recipe"),
        _object(chosen["lock"], "lock"),
        {name: _text(digest, "digest") for name, digest in _object(chosen["files"], "files").items()},
        _text(builder["id"], "builder"),
        _text(times["invocationId"], "invocation"),
        _text(times["finishedOn"], "time"),
        _embedded(byproducts, FACTS),
        _embedded(byproducts, CONFINEMENT),
    )


def _embedded(byproducts: list[JSON], name: str) -> Mapping[str, JSON] | None:
    found = [item for item in byproducts if isinstance(item, dict) and item.get("name") == name]
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(f"`{name}` is there twice")
    data = decode(found[0].get("content"))
    return _object(canonical.load(data, limit=len(data)), name)


def _object(value: JSON, what: str) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise ValueError(f"the {what} must be an object")
    return value


def _text(value: JSON, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 2048:
        raise ValueError(f"the {what} must be text")
    return value
