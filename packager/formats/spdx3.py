# SPDX-License-Identifier: Apache-2.0
"""Convert the SBOM of a bundle from CycloneDX to SPDX 3.0.1 JSON-LD, the model as an AI package.

Source: SPDX 3.0.1 model and serialisation (spdx.github.io/spdx-spec/v3.0.1); the SPDX project's own classes judge the
result in the tests. What a card declares (limitations, use, metrics, risks) is in the members of the AI profile.

`profileConformance` names `ai` only where its mandatory members are known: the supplier, and the time and place of the
release, which no bundle holds and the caller states. The dataset profile asks for who made data and when; it is never
claimed. Without a time of release that of creation is a constant, so equal bundles give equal documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packager import canonical
from packager.canonical import JSON
from packager.errors import UsageError

VERSION = "3.0.1"
_CONTEXT = f"https://spdx.org/rdf/{VERSION}/spdx-context.jsonld"
_CREATED = "1980-01-01T00:00:00Z"  # as in the bundle's manifest: no time is known
_INFO = "_:creationinfo"
_PURPOSE = {"file": "file", "library": "library", "data": "data", "machine-learning-model": "model"}


_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,1000}")


@dataclass(frozen=True, slots=True)
class Publication:
    """When (RFC 3339, UTC) and where (a URI) a bundle was released, as far as the caller knows."""

    time: str | None = None
    place: str | None = None

    def check(self) -> None:
        """Raise UsageError for a time or a place of another form."""
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(f"`{self.time:.80}` is no time of release", hint="write for example 2027-01-31T00:00:00Z")
        if self.place is not None and not _URI.fullmatch(self.place):
            raise UsageError(f"`{self.place:.80}` is no URI", hint="write for example oci://registry.example/digits")


UNKNOWN = Publication()


def convert(bom: Mapping[str, JSON], published: Publication = UNKNOWN) -> bytes:
    """Return the SPDX 3.0.1 document with the same components, licences, hashes and edges. Raises UsageError."""
    published.check()
    made = _Document(bom, published)
    return canonical.dump({"@context": _CONTEXT, "@graph": made.graph()})


class _Document:
    """The elements of one document, each once."""

    def __init__(self, bom: Mapping[str, JSON], published: Publication) -> None:
        self.bom, self.published = bom, published
        self.main = bom["metadata"]["component"]
        self.space = "https://spdx.org/spdxdocs/" + bom["serialNumber"].removeprefix("urn:uuid:")
        self.elements: dict[str, JSON] = {}

    def graph(self) -> list[JSON]:
        authors = [self._agent("Person", str(row["name"])) for row in self.bom["metadata"].get("authors", [])]
        writer = self._agent("SoftwareAgent", "packager")
        main = self._component(self.main)
        for component in self.bom["components"]:
            whole = self._component(component)
            parts = [self._component(part) for part in component.get("components", [])]
            self._relate(whole, "contains", parts)
        self._edges(main)
        self._ancestors(main)
        named = sorted(self.elements)
        profiles = ["core", "software", "simpleLicensing"]
        if self.published.time and self.published.place and "supplier" in self.main:
            profiles.append("ai")
        sbom = {"rootElement": [main], "element": named, "software_sbomType": ["build"]}
        self._add("sbom", "software_Sbom", **sbom, profileConformance=profiles)
        document = {"name": f"{self.main['name']}-{self.main['version']}", "rootElement": [self._id("sbom")]}
        self._add("document", "SpdxDocument", **document, element=sorted(self.elements), profileConformance=profiles)
        info = {
            "type": "CreationInfo",
            "@id": _INFO,
            "specVersion": VERSION,
            "created": self.published.time or _CREATED,
            "createdBy": sorted({*authors, writer}),
        }
        return [info, *(self.elements[key] for key in sorted(self.elements))]

    def _id(self, reference: str) -> str:
        """Return an identifier; a digest distinguishes references that differ only in removed signs."""
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", reference)[:80].strip("-")
        return f"{self.space}#{plain}-{canonical.sha256(reference.encode())[7:15]}"

    def _add(self, reference: str, kind: str, **members: JSON) -> str:
        key = self._id(reference)
        known = {name: value for name, value in members.items() if value not in (None, [], "")}
        self.elements[key] = {"type": kind, "spdxId": key, "creationInfo": _INFO, **known}
        return key

    def _agent(self, kind: str, name: str) -> str:
        return self._add(f"{kind} {name}", kind, name=name)

    def _relate(self, one: str, kind: str, others: list[str]) -> None:
        if others:
            members = {"from": one, "relationshipType": kind, "to": sorted(set(others))}
            self._add(f"{kind} {one}", "Relationship", **members)

    def _component(self, component: JSON) -> str:
        supplier = component.get("supplier")
        members: dict[str, JSON] = {
            "name": component["name"],
            "description": component.get("description"),
            "software_primaryPurpose": _PURPOSE[component["type"]],
            "suppliedBy": self._agent("Organization", str(supplier["name"])) if supplier else None,
            "verifiedUsing": [
                {"type": "Hash", "algorithm": "sha256", "hashValue": item["content"]}
                for item in component.get("hashes", [])
            ],
        }
        if component["type"] == "file":
            key = self._add(component["bom-ref"], "software_File", **members, software_fileKind="file")
        else:
            members |= {
                "software_packageVersion": component.get("version"),
                "software_packageUrl": component.get("purl"),
                "software_downloadLocation": _location(component),
            }
            kind, more = "software_Package", {}
            if component is self.main:
                kind, more = "ai_AIPackage", _card(component["modelCard"])
                more |= {"releaseTime": self.published.time, "software_downloadLocation": self.published.place}
            elif component["type"] == "data":
                kind, more = "dataset_DatasetPackage", {"dataset_datasetType": ["noAssertion"]}
            key = self._add(component["bom-ref"], kind, **members | more)
        self._relate(key, "hasDeclaredLicense", [one for one in (self._licence(component),) if one])
        return key

    def _licence(self, component: JSON) -> str | None:
        for item in component.get("licenses", []):
            text = item["expression"] if "expression" in item else _own_name(item["license"]["name"])
            uris = []
            for name in sorted(set(re.findall(r"LicenseRef-[A-Za-z0-9.-]+", text))):
                words = item["license"]["name"] if "license" in item else name
                own = self._add(name, "simplelicensing_SimpleLicensingText", simplelicensing_licenseText=words)
                uris.append({"type": "DictionaryEntry", "key": name, "value": own})
            return self._add(
                f"licence {text}",
                "simplelicensing_LicenseExpression",
                simplelicensing_licenseExpression=text,
                simplelicensing_customIdToUri=uris,
            )
        return None

    def _edges(self, main: str) -> None:
        kinds = {component["bom-ref"]: component["type"] for component in self.bom["components"]}
        for edge in self.bom["dependencies"]:
            found: dict[str, list[str]] = {}
            for to in edge.get("dependsOn", []):
                kind = "dependsOn"
                if self._id(edge["ref"]) == main:
                    kind = {"file": "contains", "data": "trainedOn"}.get(kinds[to], kind)
                found.setdefault(kind, []).append(self._id(to))
            for kind, others in found.items():
                self._relate(self._id(edge["ref"]), kind, others)

    def _ancestors(self, main: str) -> None:
        """Add the source, with who signed it, and the base models that the card names."""
        found = []
        for item in self.main["pedigree"]["ancestors"]:
            said = {row["name"]: row["value"] for row in item.get("properties", [])}
            signer = said.get("packager:signed-by")
            key = self._add(
                item["bom-ref"],
                "ai_AIPackage",
                name=item["name"],
                description=item.get("description"),
                comment=f"signed by {signer}, checked when the source was pinned" if signer else None,
                software_primaryPurpose="model",
            )
            found.append(key)
        self._relate(main, "descendantOf", found)


def _location(component: JSON) -> str | None:
    """Return where data is, by the recipe."""
    urls = [str(item.get("contents", {}).get("url", "")) for item in component.get("data", [])]
    return next((url for url in urls if _URI.fullmatch(url)), None)


def _own_name(words: str) -> str:
    return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", words).strip("-")[:60] or "unnamed")


def _card(card: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what a model card declares in the members of the AI profile."""
    parameters = card.get("modelParameters", {})
    said = card.get("considerations", {})
    risks = [str(row["name"]) for row in said.get("ethicalConsiderations", [])]
    limits = [*map(str, said.get("technicalLimitations", [])), *risks]
    tensors = [f"{side[:-1]} {row['format']}" for side in ("inputs", "outputs") for row in parameters.get(side, [])]
    return {
        "ai_typeOfModel": [parameters["task"]] if "task" in parameters else [],
        "ai_informationAboutApplication": "\n".join([*map(str, said.get("useCases", [])), *tensors]),
        "ai_limitation": "\n".join(limits),
        "ai_metric": list(_metrics(card)),
    }


def _metrics(card: Mapping[str, JSON]) -> Iterator[JSON]:
    for row in card.get("quantitativeAnalysis", {}).get("performanceMetrics", []):
        name = f"{row['type']} ({row['slice']})" if "slice" in row else str(row["type"])
        yield {"type": "DictionaryEntry", "key": name, "value": str(row["value"])}
