# SPDX-License-Identifier: Apache-2.0
"""Convert the SBOM of a bundle from CycloneDX to SPDX 2.3 JSON; `spdx-tools` judges the result in the tests.

Source: SPDX 2.3 specification. Every component is a package without analysed files, because SPDX 2.3 requires SHA-1 of
files and a bundle has SHA-256. SPDX has no member for a model card, datasets' classification or the toolchain: they
are in CycloneDX only. The mandatory creation time is a constant, so equal bundles have equal documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from packager import canonical
from packager.canonical import JSON

_CREATED = "1980-01-01T00:00:00Z"  # as in the bundle's manifest: no time is known
_PURPOSE = {"file": "FILE", "library": "LIBRARY", "data": "OTHER", "machine-learning-model": "OTHER"}


def convert(bom: Mapping[str, JSON]) -> bytes:
    """Return the SPDX 2.3 document with the same components, licences, hashes and edges."""
    main = bom["metadata"]["component"]
    components = {str(item["bom-ref"]): item for item in (main, *_all(bom["components"]))}
    creators = [f"Person: {author['name']}" for author in bom["metadata"].get("authors", [])]
    value = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{main['name']}-{main['version']}",
        "documentNamespace": "https://spdx.org/spdxdocs/" + bom["serialNumber"].removeprefix("urn:uuid:"),
        "creationInfo": {"created": _CREATED, "creators": [*creators, "Tool: packager"]},
        "packages": [_package(component) for component in components.values()],
        "relationships": list(_relationships(bom, str(main["bom-ref"]))),
        "hasExtractedLicensingInfos": _own_licences(components.values().__iter__()),
    }
    return canonical.dump({key: member for key, member in value.items() if member != []})


def _all(components: list[JSON]) -> Iterator[JSON]:
    for component in components:
        yield component
        yield from _all(component.get("components", []))


def _id(reference: str) -> str:
    """Return an identifier that SPDX allows; a digest distinguishes references that differ only in removed signs."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", reference)[:80].strip("-")
    return f"SPDXRef-{plain}-{canonical.sha256(reference.encode())[7:15]}"


def _package(component: JSON) -> JSON:
    licence = _licence(component)
    value: dict[str, JSON] = {
        "SPDXID": _id(component["bom-ref"]),
        "name": component["name"],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": _PURPOSE[component["type"]],
    }
    if "version" in component:
        value["versionInfo"] = component["version"]
    if "supplier" in component:
        value["supplier"] = f"Organization: {component['supplier']['name']}"
    if "description" in component:
        value["summary"] = component["description"]
    if hashes := component.get("hashes"):
        value["checksums"] = [{"algorithm": "SHA256", "checksumValue": item["content"]} for item in hashes]
    if "purl" in component:
        value["externalRefs"] = [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": component["purl"]}
        ]
    return value


def _licence(component: JSON) -> str | None:
    for item in component.get("licenses", []):
        if "expression" in item:
            return str(item["expression"])
        return _own_name(item["license"]["name"])
    return None


def _own_name(words: str) -> str:
    return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", words).strip("-")[:60] or "unnamed")


def _own_licences(components: Iterator[JSON]) -> list[JSON]:
    """Declare every licence without an SPDX identifier, as the format requires."""
    words: dict[str, str] = {}
    for component in components:
        for item in component.get("licenses", []):
            if "license" in item:
                words[_own_name(item["license"]["name"])] = item["license"]["name"]
            for name in re.findall(r"LicenseRef-[A-Za-z0-9.-]+", item.get("expression", "")):
                words[name] = name
    return [{"licenseId": name, "extractedText": text, "name": text} for name, text in sorted(words.items())]


def _relationships(bom: Mapping[str, JSON], main: str) -> Iterator[JSON]:
    yield _relationship("SPDXRef-DOCUMENT", "DESCRIBES", _id(main))
    for component in bom["components"]:
        for part in component.get("components", []):
            yield _relationship(_id(component["bom-ref"]), "CONTAINS", _id(part["bom-ref"]))
    kinds = {component["bom-ref"]: component["type"] for component in bom["components"]}
    for edge in bom["dependencies"]:
        for to in edge.get("dependsOn", []):
            kind = "CONTAINS" if edge["ref"] == main and kinds[to] == "file" else "DEPENDS_ON"
            yield _relationship(_id(edge["ref"]), kind, _id(to))


def _relationship(one: str, kind: str, other: str) -> JSON:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
