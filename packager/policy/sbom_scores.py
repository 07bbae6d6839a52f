# SPDX-License-Identifier: Apache-2.0
"""Hold an SBOM against CISA's minimum elements of 2026, and give it the completeness score for AI SBOMs of OWASP.

Facts only, as in `completeness`. Sources: CISA and others, 2026 Minimum Elements for a Software Bill of Materials
(July 2026), 17 data fields, nine of the SBOM and eight of each component; OWASP GenAI Security Project,
aibom-generator (April 2026), its list of fields, their tiers and the weights of five categories. That generator looks
for the model in the first component; here it is where CycloneDX has the subject of an SBOM. Its fields of GGUF files
count where they are there, and so nowhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from packager.canonical import JSON
from packager.policy.elements import Element

_ON_PURPOSE = "absent on purpose: equal bundles are equal bytes; "
CRITICAL, IMPORTANT, SUPPLEMENTARY = "critical", "important", "supplementary"


def cisa_elements(bom: Mapping[str, JSON], everything: Sequence[JSON], *, signed: bool) -> tuple[Element, ...]:
    """Return the 17 data fields; `everything` are all components, the model first."""
    about = bom["metadata"]
    owned = [item for item in everything if item["type"] in ("library", "machine-learning-model")]
    files = [item for item in everything if item["type"] == "file"]
    anonymous = [item["name"] for item in owned if "supplier" not in item]
    unlicensed = [item["name"] for item in owned if not item.get("licenses")]
    hashed = bool(files) and all("hashes" in item for item in files)
    tools = about.get("tools", {}).get("components", [])
    return (
        Element("SBOM author", "authors" in about, "`authors` in the recipe"),
        Element("SBOM author signature", signed, "`packager sign`"),
        Element("SBOM data format name", "bomFormat" in bom, ""),
        Element("SBOM data format version", "specVersion" in bom, ""),
        Element("SBOM generation context", "lifecycles" in about, ""),
        Element("SBOM timestamp", "timestamp" in about, f"{_ON_PURPOSE}signatures carry times"),
        Element("SBOM tool name", bool(tools), ""),
        Element(
            "SBOM tool version",
            bool(tools) and all("version" in item for item in tools),
            f"{_ON_PURPOSE}the signed provenance names the version",
        ),
        Element("SBOM version", {"version", "serialNumber"} <= set(bom), ""),
        Element("component producer", not anonymous, f"missing in the metadata of {', '.join(anonymous)}"),
        Element("component name", all(item.get("name") for item in everything), ""),
        Element("component version", all(item.get("version") for item in owned), ""),
        Element("component identifiers", all("purl" in item for item in owned), ""),
        Element("component hash algorithm", hashed, ""),
        Element("component hash value", hashed, ""),
        Element("component licence", not unlicensed, f"missing in the metadata of {', '.join(unlicensed)}"),
        Element("component dependency relationship", bool(bom["dependencies"]), ""),
    )


# OWASP's score


@dataclass(frozen=True, slots=True)
class Category:
    """One category of the score: its fields, and how many `points` it has at most."""

    points: int
    fields: tuple[Element, ...]

    @property
    def reached(self) -> float:
        """The points for the fields that are filled, to a tenth."""
        return round(self.points * sum(item.filled for item in self.fields) / len(self.fields), 1)


@dataclass(frozen=True, slots=True)
class Score:
    """The completeness of an SBOM, 0 to 100, and what it is made of; `factor` is below 1 where much is missing."""

    total: float
    factor: float
    categories: Mapping[str, Category]

    def to_json(self) -> JSON:
        return {
            "score": self.total,
            "factor": self.factor,
            "categories": {
                name: {
                    "points": item.reached,
                    "of": item.points,
                    "fields": [field.to_json() for field in item.fields],
                }
                for name, item in self.categories.items()
            },
        }


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of an SBOM where fields are looked for; `terms` are those of SPDX's AI profile."""

    bom: Mapping[str, JSON]
    model: Mapping[str, JSON]
    parameters: Mapping[str, JSON]
    considerations: Mapping[str, JSON]
    terms: frozenset[str]
    links: frozenset[str]

    @staticmethod
    def of(bom: Mapping[str, JSON]) -> _Parts:
        model = bom["metadata"]["component"]
        card = model["modelCard"]
        rows = bom["metadata"].get("properties", [])
        return _Parts(
            bom,
            model,
            card["modelParameters"],
            card.get("considerations", {}),
            frozenset(row["name"].removeprefix("spdx:") for row in rows if row["name"].startswith("spdx:")),
            frozenset(row["type"] for row in model.get("externalReferences", [])),
        )


_Test = Callable[[_Parts], bool]
_CARD = "a section of the model card: "
_FRONT = "in the front matter of the model card: "


def _of_bom(name: str) -> _Test:
    return lambda parts: name in parts.bom


def _of_model(name: str) -> _Test:
    return lambda parts: bool(parts.model.get(name))


def _parameter(name: str) -> _Test:
    return lambda parts: bool(parts.parameters.get(name))


def _considered(name: str) -> _Test:
    return lambda parts: bool(parts.considerations.get(name))


def _term(name: str) -> _Test:
    return lambda parts: name in parts.terms


def _link(*kinds: str) -> _Test:
    return lambda parts: not parts.links.isdisjoint(kinds)


_FIELDS: Mapping[tuple[str, int], tuple[tuple[str, str, _Test, str], ...]] = {
    ("required fields", 20): (
        ("bomFormat", CRITICAL, _of_bom("bomFormat"), ""),
        ("specVersion", CRITICAL, _of_bom("specVersion"), ""),
        ("serialNumber", CRITICAL, _of_bom("serialNumber"), ""),
        ("version", CRITICAL, _of_bom("version"), ""),
    ),
    ("metadata", 20): (
        ("primaryPurpose", CRITICAL, _parameter("task"), f"{_FRONT}`pipeline_tag`"),
        ("suppliedBy", CRITICAL, _of_model("supplier"), "`authors` in the recipe"),
        ("standardCompliance", SUPPLEMENTARY, _term("standardCompliance"), f"{_FRONT}`standard_compliance`"),
        ("domain", SUPPLEMENTARY, _term("domain"), f"{_FRONT}`domain`"),
        ("autonomyType", SUPPLEMENTARY, _term("autonomyType"), f"{_FRONT}`autonomy_type`"),
    ),
    ("component", 20): (
        ("external_references", SUPPLEMENTARY, _of_model("externalReferences"), "`card` in the recipe"),
        ("name", CRITICAL, _of_model("name"), ""),
        ("type", CRITICAL, _of_model("type"), ""),
        ("component_version", CRITICAL, _of_model("version"), ""),
        ("purl", IMPORTANT, _of_model("purl"), ""),
        ("description", IMPORTANT, _of_model("description"), "`description` in the recipe"),
        ("licenses", IMPORTANT, _of_model("licenses"), "`license` in the recipe"),
    ),
    ("model card", 30): (
        ("datasets", IMPORTANT, _parameter("datasets"), "`datasets` in the recipe"),
        ("ethicalConsiderations", IMPORTANT, _considered("ethicalConsiderations"), f"{_CARD}risks"),
        ("energyConsumption", IMPORTANT, _term("energyConsumption"), f"{_CARD}environmental impact"),
        ("hyperparameter", IMPORTANT, _term("hyperparameter"), f"{_CARD}hyperparameters"),
        ("technicalLimitations", IMPORTANT, _considered("technicalLimitations"), f"{_CARD}limitations"),
        (
            "safetyRiskAssessment",
            IMPORTANT,
            lambda parts: (
                "safetyRiskAssessment" in parts.terms or bool(parts.considerations.get("ethicalConsiderations"))
            ),
            f"{_FRONT}`safety_risk_assessment`",
        ),
        ("intendedUse", IMPORTANT, _considered("useCases"), f"{_CARD}uses"),
        ("typeOfModel", IMPORTANT, _parameter("modelArchitecture"), f"{_CARD}architecture"),
        ("modelExplainability", SUPPLEMENTARY, _term("modelExplainability"), f"{_CARD}model examination"),
        ("energyQuantity", SUPPLEMENTARY, _term("energyQuantity"), f"{_CARD}environmental impact, with `N kWh`"),
        ("energyUnit", SUPPLEMENTARY, _term("energyUnit"), f"{_CARD}environmental impact, with `N kWh`"),
        ("informationAboutTraining", SUPPLEMENTARY, _term("informationAboutTraining"), f"{_CARD}training procedure"),
        ("informationAboutApplication", SUPPLEMENTARY, _term("informationAboutApplication"), f"{_CARD}downstream use"),
        ("metric", SUPPLEMENTARY, _term("metric"), f"{_FRONT}`model-index`"),
        ("metricDecisionThreshold", SUPPLEMENTARY, _term("metricDecisionThreshold"), f"{_CARD}decision threshold"),
        ("modelDataPreprocessing", SUPPLEMENTARY, _term("modelDataPreprocessing"), f"{_CARD}preprocessing"),
        (
            "useSensitivePersonalInformation",
            SUPPLEMENTARY,
            _term("useSensitivePersonalInformation"),
            f"{_FRONT}`use_sensitive_personal_information`",
        ),
    ),
    ("external references", 10): (
        ("paper", SUPPLEMENTARY, _link("documentation"), "`card` in the recipe"),
        ("vcs", SUPPLEMENTARY, _link("vcs"), "a line of the model card: `- **Repository:** URL`"),
        ("website", SUPPLEMENTARY, _link("website"), "a line of the model card: `- **Website:** URL`"),
        ("downloadLocation", IMPORTANT, _link("distribution", "website"), "a source with an address, or a website"),
    ),
}


def aibom_score(bom: Mapping[str, JSON]) -> Score:
    """Return the completeness score of one of our SBOMs."""
    parts, missing, categories = _Parts.of(bom), [], {}
    for (category, points), rows in _FIELDS.items():
        fields = tuple(Element(name, test(parts), remedy) for name, _, test, remedy in rows)
        missing += [tier for (_, tier, _, _), field in zip(rows, fields, strict=True) if not field.filled]
        categories[category] = Category(points, fields)
    critical, important = missing.count(CRITICAL), missing.count(IMPORTANT)
    factor = 0.8 if critical > 3 else 0.9 if critical >= 2 else 1.0
    factor *= 0.95 if important >= 5 else 1.0
    total = sum(item.reached for item in categories.values()) * factor
    return Score(round(total, 1), round(factor, 3), categories)
