# SPDX-License-Identifier: Apache-2.0
"""Locked distributions as components of a CycloneDX SBOM, and the members that all its components share.

Source: CycloneDX 1.6 and 1.7 JSON schemas, the package URL specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel


def write_purl(name: str, version: str, file: str | None = None) -> str:
    """Return the package URL of a distribution, or of one file of it."""
    plain = f"pkg:pypi/{name}@{quote(version, safe='')}"
    return f"{plain}?file_name={quote(file, safe='')}" if file else plain


def describe_libraries(locked: Dependencies, vendored: Mapping[str, str]) -> list[JSON]:
    """Return one component per distribution, its wheels inside; sorted by package URL."""
    wheels: dict[str, dict[str, tuple[Wheel, list[str]]]] = {}
    for sets in locked.wheels.values():
        for platform, listed in sets.items():
            for wheel in listed:
                rows = wheels.setdefault(wheel.pin, {})
                rows.setdefault(wheel.file, (wheel, []))[1].append(platform)
    found = [_library(rows, locked.about[pin], vendored, locked.yanked.get(pin)) for pin, rows in wheels.items()]
    return sorted(found, key=lambda component: str(component["purl"]))


def _library(
    rows: Mapping[str, tuple[Wheel, list[str]]],
    about: DistributionMetadata,
    vendored: Mapping[str, str],
    yanked: str | None,
) -> JSON:
    first = next(iter(rows.values()))[0]
    reference = write_purl(first.name, first.version)
    component: dict[str, JSON] = {
        "type": "library",
        "bom-ref": reference,
        "purl": reference,
        "name": first.name,
        "version": first.version,
        "components": [_wheel(wheel, names, about, vendored) for _, (wheel, names) in sorted(rows.items())],
        **write_licence(about.license, about.license_text),
    }
    if about.summary:
        component["description"] = about.summary
    if about.author:
        component["authors"] = [{"name": about.author}]
        component["supplier"] = {"name": about.author}
    if about.homepage:
        component["externalReferences"] = [{"type": "website", "url": about.homepage}]
    if yanked is not None:
        component["properties"] = [write_property("yanked", yanked or "no reason given")]
    return component


def _wheel(wheel: Wheel, names: Iterable[str], about: DistributionMetadata, vendored: Mapping[str, str]) -> JSON:
    reference = write_purl(wheel.name, wheel.version, wheel.file)
    properties = [write_property("platform", name) for name in sorted(set(names))]
    if wheel.file in vendored:
        properties.append(write_property("path", vendored[wheel.file]))
    component: dict[str, JSON] = {
        "type": "file",
        "bom-ref": reference,
        "name": wheel.file,
        "hashes": [write_hash(wheel.sha256)],
        "properties": properties,
        **write_licence(about.license, about.license_text),
    }
    if wheel.url:
        component["externalReferences"] = [{"type": "distribution", "url": wheel.url, "hashes": component["hashes"]}]
    return component


def list_needed(lines: Iterable[str], here: Mapping[str, str], environment: Mapping[str, str]) -> set[str]:
    """Return the distributions that these requirements need on a platform; unlocked ones are unused extras."""
    found = set()
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # metadata from before PEP 508; its requirement is locked nevertheless
        if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
            found |= {here[name] for name in [canonicalize_name(requirement.name)] if name in here}
    return found


def write_hash(digest: str) -> JSON:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}


def write_property(name: str, value: str) -> JSON:
    return {"name": f"packager:{name}", "value": value}


def write_licence(expression: str | None, words: str | None) -> dict[str, JSON]:
    if expression:
        return {"licenses": [{"expression": expression, "acknowledgement": "declared"}]}
    return {"licenses": [{"license": {"name": words, "acknowledgement": "declared"}}]} if words else {}
