# SPDX-License-Identifier: Apache-2.0
"""Read VEX statements, OpenVEX and CycloneDX, into one record: claims about a vulnerability in this bundle.

A claim that a vulnerability does not apply must give a reason; a claim that it does apply overrides all others.
Sources: OpenVEX 0.2.0, CycloneDX 1.6 (`vulnerabilities[].analysis`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packager.canonical import JSON

OPENVEX = "https://openvex.dev/ns/v0.2.0"
CYCLONEDX = ("https://cyclonedx.org/vex", "https://cyclonedx.org/bom")
_HARMLESS = {"not_affected", "fixed", "false_positive", "resolved", "resolved_with_pedigree"}


@dataclass(frozen=True, slots=True)
class Claim:
    """The stated status of a vulnerability, by its identifiers, in some packages (package URLs), with the reason."""

    ids: frozenset[str]
    products: frozenset[str]
    status: str
    reason: str

    @property
    def harmless(self) -> bool:
        return self.status in _HARMLESS and bool(self.reason)

    def covers(self, ids: frozenset[str], purl: str) -> bool:
        return bool(self.ids & ids) and purl in self.products


def parse_claims(predicate_type: str, predicate: JSON) -> tuple[Claim, ...]:
    """Return the claims of a statement; one that is malformed anywhere has none."""
    try:
        if predicate_type == OPENVEX:
            return tuple(_openvex(predicate))
        if predicate_type in CYCLONEDX:
            return tuple(_cyclonedx(predicate))
    except (KeyError, TypeError, AttributeError):
        return ()
    return ()


def _openvex(document: Mapping[str, JSON]) -> Iterator[Claim]:
    for row in document["statements"]:
        vulnerability = row["vulnerability"]
        ids = {vulnerability["name"], *vulnerability.get("aliases", [])}
        products = {
            name
            for item in row["products"]
            for part in [item, *item.get("subcomponents", [])]
            for name in [part.get("@id"), part.get("identifiers", {}).get("purl")]
            if name
        }
        reason = row.get("justification") or row.get("impact_statement") or ""
        yield Claim(frozenset(ids), frozenset(products), str(row["status"]), str(reason))


def _cyclonedx(document: Mapping[str, JSON]) -> Iterator[Claim]:
    for row in document.get("vulnerabilities", []):
        analysis = row.get("analysis", {})
        ids = {row["id"], *(item["id"] for item in row.get("references", []))}
        reason = analysis.get("justification") or analysis.get("detail") or ""
        products = frozenset(item["ref"] for item in row["affects"])
        yield Claim(frozenset(ids), products, str(analysis.get("state")), str(reason))
