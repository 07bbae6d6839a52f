# SPDX-License-Identifier: Apache-2.0
"""The facts about a bundle that come from statements of trusted signers: how it was built, and where it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packager import canonical
from packager.canonical import JSON
from packager.errors import NegativeAnswerError
from packager.formats import slsa
from packager.sandbox.sandbox import LEVELS, LIMITS, USERS
from packager.trust.evidence import Evidence

MEASUREMENTS = "urn:packager:facts:v1"
"""Predicate type of the facts of a build, as `packager build --facts` writes them."""
PROVENANCE = slsa.PREDICATE
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
CONFORMANCE = "urn:packager:conformance:v1"
SCAN = "urn:packager:scan:v1"
"""Predicate type of the scan results of a bundle's source."""
MEASURED = ("nondeterministic", "targets")

_FORMAT = 1  # of stated measurements
_OURS = slsa.BUILD_TYPE
_OBJECTIVES = {
    "p50_ms": "p50_ms",
    "p99_ms": "p99_ms",
    "at_rps": "throughput_rps",
    "cold_start_s": "cold_start_seconds",
    "memory": "resident_bytes",
}
"""Names of objectives in a contract, and of what the conformance suite measures for them."""


def list_sections(evidence: Sequence[Evidence]) -> dict[str, JSON]:
    """Return the sections that the statements of trusted signers give. Raises NegativeAnswerError where two differ."""
    return {
        "statements": [_statement(item) for item in evidence],
        "provenance": [_provenance(item) for item in evidence if item.statement.predicate_type == PROVENANCE],
        "conformance": [
            {"signer": item.attested.signer, "cells": [_cell(cell) for cell in cells]}
            for item in evidence
            if (cells := _cells(item)) is not None
        ],
        "confinement": [row for item in evidence if (row := _confinement(item)) is not None],
        "scans": [_scan(item) for item in evidence if item.statement.predicate_type == SCAN],
        **_measured(evidence),
    }


def _statement(item: Evidence) -> JSON:
    time = item.attested.time
    return {
        "type": item.statement.predicate_type,
        "signer": item.attested.signer,
        "identity": item.attested.identity,
        "time": f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None,
        "digest": item.digest,
    }


def _provenance(item: Evidence) -> JSON:
    """Read SLSA v1 provenance; a member that is not where the format has it counts as absent."""
    predicate = item.statement.predicate
    definition, details = _member(predicate, "buildDefinition"), _member(predicate, "runDetails")
    listed = _rows(definition.get("resolvedDependencies"))
    return {
        "signer": item.attested.signer,
        "builder": _text(_member(details, "builder").get("id")),
        "type": _text(definition.get("buildType")),
        "sources": [uri for row in listed if (uri := _text(row.get("uri")))],
        "publishers": list_publishers(item),
    }


def list_publishers(item: Evidence) -> list[JSON]:
    """Return the sources that provenance names, each with its verified signer, None where none was demanded."""
    listed = _rows(_member(item.statement.predicate, "buildDefinition").get("resolvedDependencies"))
    return [_publisher(row) for row in listed if row.get("name") == "source" and _text(row.get("uri"))]


def _publisher(row: Mapping[str, JSON]) -> JSON:
    """Return a source with its verified signer, None where none was demanded."""
    signed = _member(_member(row, "annotations"), "signed")
    return {"source": row["uri"], "signer": _text(signed.get("signer")), "form": _text(signed.get("form"))}


def _confinement(item: Evidence) -> JSON:
    """Return how the workers of one of our builds were confined, by its provenance; None for any other statement."""
    predicate = item.statement.predicate
    if item.statement.predicate_type != PROVENANCE or _member(predicate, "buildDefinition").get("buildType") != _OURS:
        return None
    try:
        stated = slsa.parse(predicate).confinement or {}
    except ValueError:
        stated = {}
    level, user, limits = stated.get("level"), stated.get("user"), stated.get("limits")
    return {
        "signer": item.attested.signer,
        "level": level if level in LEVELS else "unknown",
        "seccomp": stated.get("seccomp") is True,
        "landlock": stated.get("landlock") is True,
        "user": user if user in USERS else "root",
        "limits": limits if limits in LIMITS else "process",
    }


def _scan(item: Evidence) -> JSON:
    """Return the scan results of the source. The schema refuses a predicate of another form."""
    predicate = item.statement.predicate if isinstance(item.statement.predicate, dict) else {}
    return {**predicate, "signer": item.attested.signer}


def _member(value: JSON, name: str) -> Mapping[str, JSON]:
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, dict) else {}


def _rows(value: JSON) -> list[Mapping[str, JSON]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def _cells(item: Evidence) -> list[Mapping[str, JSON]] | None:
    """Return the cells of a conformance result about this bundle, or None for any other statement."""
    result = _member(item.statement.predicate, CONFORMANCE)
    digest = _member(result, "bundle").get("digest")
    if item.statement.predicate_type != TEST_RESULT or digest != f"sha256:{item.statement.subject_sha256}":
        return None
    return _rows(result.get("cells"))


def _cell(cell: Mapping[str, JSON]) -> JSON:
    measures = _member(cell, "measures")
    seen = {**measures, **{f"{name}_ms": value for name, value in _member(measures, "latency_ms").items()}}
    words = {key: str(cell.get(key)) for key in ("target", "runtime", "version", "device", "outcome")}
    got = {name: seen.get(measure) for name, measure in _OBJECTIVES.items()}
    return {**words, "measures": {name: value for name, value in got.items() if isinstance(value, int | float)}}


def _measured(evidence: Sequence[Evidence]) -> dict[str, JSON]:
    """Return the build's measurements as trusted signers state them. Raises NegativeAnswerError where two differ."""
    found = [item.statement.predicate for item in evidence if item.statement.predicate_type == MEASUREMENTS]
    found += [facts for item in evidence if (facts := _embedded(item)) is not None]
    distinct = {canonical.dump(_kept(value)): _kept(value) for value in found}
    if len(distinct) > 1:
        raise NegativeAnswerError(
            f"trusted signers contradict each other about what the build measured, in {len(distinct)} ways",
            hint="`packager inspect` lists the statements; revoke the key that made the wrong one",
        )
    return next(iter(distinct.values()), {})


def _embedded(item: Evidence) -> JSON:
    """Return the measurements inside provenance; None for another statement or without any."""
    if item.statement.predicate_type != PROVENANCE:
        return None
    try:
        return slsa.parse(item.statement.predicate).facts
    except ValueError:
        return None  # by another builder, whose provenance has no measurements


def _kept(value: JSON) -> dict[str, JSON]:
    return {name: value[name] for name in MEASURED if isinstance(value, dict) and name in value}


def write_measurements(facts: Mapping[str, JSON]) -> JSON:
    """Return the facts of a build that must be attested, because the bundle's files do not show them."""
    return {"format": _FORMAT, **_kept(dict(facts))}
