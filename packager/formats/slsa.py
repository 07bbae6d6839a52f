# SPDX-License-Identifier: Apache-2.0
"""Read and write SLSA provenance v1: how a bundle was made, completely enough to rebuild it.

`buildDefinition` is a function of recipe, lock and the files beside the recipe: equal inputs give equal bytes of it on
every host at any time. `runDetails` is what was observed: builder, time, confinement, results and measurements of the
steps. A rebuild needs nothing of the latter.

Source: slsa.dev/spec/v1.0/provenance; in-toto resource descriptors v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON
from packager.formats.dsse import decode, read_items, read_members

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:packager:build:v1"
RENDER_TYPE = "urn:packager:render:v1"
"""Files of a bundle and settings become deployment files, here those of an image; `parse` reads builds alone."""
MAX_DEPENDENCIES = 100_000
CONFINEMENT = "confinement.json"  # byproduct: the weakest confinement of all workers
FACTS = "facts.json"  # byproduct: the measurements of the steps, as policy rules read them


@dataclass(frozen=True, slots=True)
class Run:
    """The observations of one build: builder, invocation, and times (RFC 3339, UTC)."""

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
    """A parsed predicate: the requested parameters, what they resolved to, and the observations.

    `recipe` and `lock` are the whole documents; `files` are the digests of the files beside the recipe, by their names
    in the recipe; `facts` are the measurements and `confinement` that of the workers, or None if the builder states
    none.
    """

    recipe: Mapping[str, JSON]
    lock: Mapping[str, JSON]
    files: Mapping[str, str]
    builder: str
    invocation: str
    finished: str
    facts: Mapping[str, JSON] | None
    confinement: Mapping[str, JSON] | None = None


def write_predicate(
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
    """Read a predicate of our build type strictly: an unknown parameter could change the result.

    Raises ValueError with a reason for a message.
    """
    top = read_members(value, "provenance", "buildDefinition runDetails")
    definition = read_members(
        top["buildDefinition"], "build definition", "buildType externalParameters resolvedDependencies"
    )
    if definition["buildType"] != BUILD_TYPE:
        raise ValueError(f"expected build type {BUILD_TYPE}, got {definition['buildType']!s:.100}")
    read_items(definition["resolvedDependencies"], "resolved dependencies", 0, MAX_DEPENDENCIES)
    chosen = read_members(definition["externalParameters"], "external parameters", "recipe lock files")
    run = read_members(top["runDetails"], "run details", "builder metadata byproducts")
    builder = read_members(run["builder"], "builder", "id version")
    byproducts = read_items(run["byproducts"], "byproducts", 0, MAX_DEPENDENCIES)
    times = read_members(run["metadata"], "metadata", "invocationId startedOn finishedOn")
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
