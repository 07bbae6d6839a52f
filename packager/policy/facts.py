# SPDX-License-Identifier: Apache-2.0
"""Gather the facts that policies judge: one plain JSON document about a build or a bundle, without any judgement.

Facts come from the bundle's files, from statements of trusted signers about it, and, during a build, from its
measurements. What a bundle is comes from its files; how it was built and where it ran come from statements only. A
section that cannot be established is left out, so that a rule which needs it fails. `policies/facts.schema.json`
describes the document.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from packager import canonical
from packager.bundle.bundle import CARD, CONTRACT, MAX_RECORD, SBOM, Bundle
from packager.canonical import JSON
from packager.contract import contract
from packager.errors import MalformedError, NegativeAnswerError, PackagerError, StepError, UsageError
from packager.formats import cyclonedx, model_cards, secrets, slsa
from packager.graph import check
from packager.policy import advisories, completeness, vex
from packager.sandbox.sandbox import LEVELS, LIMITS, USERS
from packager.trust.evidence import Evidence
from packager.types import Blob, Tree

FORMAT = 1
MEASUREMENTS = "urn:packager:facts:v1"
"""Predicate type of the facts of a build, as `packager build --facts` writes them."""
PROVENANCE = slsa.PREDICATE
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
CONFORMANCE = "urn:packager:conformance:v1"
SCAN = "urn:packager:scan:v1"
"""Predicate type of the scan results of a bundle's source."""
MEASURED = ("nondeterministic", "targets")

_OURS = slsa.BUILD_TYPE
MAX_GRAPH = 256 << 20  # bytes of an ONNX file that is read whole; weights beyond are external data
_ENGINES = (".engine",)
_YANKED = "packager:yanked"
_OBJECTIVES = {
    "p50_ms": "p50_ms",
    "p99_ms": "p99_ms",
    "at_rps": "throughput_rps",
    "cold_start_s": "cold_start_seconds",
    "memory": "resident_bytes",
}
"""Names of objectives in a contract, and of what the conformance suite measures for them."""
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, IndexError)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?:\s|$)")
_PICKLE = re.compile(rb"\x80[\x02\x03][}\]c(XKMq]|\x80[\x04\x05]\x95")
_LOOKS = ((b"PK\x03\x04", "zip"), (b"\x7fELF", "elf"), (b"MZ\x90", "exe"), (b"#!", "script"), (b"\x1f\x8b", "gzip"))

Open: TypeAlias = Callable[[str, Blob], BinaryIO]


@dataclass(frozen=True, slots=True)
class Content:
    """The files that facts are read from, of a bundle or of a build."""

    name: str
    version: str
    tree: Tree
    open: Open

    def read(self, path: str, limit: int = MAX_RECORD) -> bytes:
        """Return a whole file, checked against its digest. Raises PackagerError or KeyError."""
        blob = dict(self.tree)[path]
        with self.open(path, blob) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"`{path}` is larger than {limit} bytes")
        if canonical.sha256(data) != blob.digest:
            raise ValueError(f"`{path}` is damaged")
        return data

    def json(self, path: str) -> JSON:
        return canonical.load(self.read(path), limit=MAX_RECORD)


def of_build(
    content: Content, measured: Mapping[str, JSON], wanted: Collection[str], today: datetime.date | None
) -> dict[str, JSON]:
    """Return the facts of a build: its measurements, and the sections of `wanted` that its files give."""
    return {**_head(content, "build", today), **measured, **_file_sections(content, wanted)}


def of_bundle(
    bundle: Bundle,
    evidence: Iterable[Evidence] | None,
    wanted: Collection[str],
    today: datetime.date | None,
    known: Path | None = None,
) -> dict[str, JSON]:
    """Return the facts of a bundle. `evidence` are the statements that verification accepted; None without a trust.

    `known` is the folder of imported advisories; without any, there is no section about vulnerabilities.

    Raises NegativeAnswerError when trusted statements contradict each other.
    """
    content = Content(bundle.name, bundle.version, bundle.tree, bundle.medium.open_file)
    accepted = () if evidence is None else tuple(evidence)
    stated = {} if evidence is None else _statement_sections(accepted)
    found = _vulnerabilities(content, accepted, known) if known and "vulnerabilities" in wanted else {}
    return {**_head(content, "bundle", today), **_file_sections(content, wanted), **stated, **found}


def _head(content: Content, stage: str, today: datetime.date | None) -> dict[str, JSON]:
    day = {"today": today.isoformat()} if today else {}
    return {"format": FORMAT, "stage": stage, "name": content.name, "version": content.version, **day}


def _file_sections(content: Content, wanted: Collection[str]) -> dict[str, JSON]:
    """Return the sections that come from files; one whose file is absent or malformed is left out."""
    found: dict[str, JSON] = {}
    for section, gather in _SECTIONS.items():
        if section in wanted:
            try:
                found[section] = gather(content)
            except (*_MALFORMED, PackagerError):
                continue  # not established: a rule that needs it fails
    return found


def _contents(content: Content) -> JSON:
    files = [
        {"path": path, "size": blob.size, "sha256": blob.digest, "looks": _looks(content, path, blob)}
        for path, blob in content.tree
    ]
    return {"bytes": sum(blob.size for blob in {blob for _, blob in content.tree}), "files": files}


def _looks(content: Content, path: str, blob: Blob) -> str | None:
    with content.open(path, blob) as file:
        head = file.read(8)
    if _PICKLE.match(head):
        return "pickle"
    return next((kind for magic, kind in _LOOKS if head.startswith(magic)), None)


def _model(content: Content) -> JSON:
    component, bom = _main(content), content.json(SBOM)
    return {
        "licence": _expression(component),
        "description": component.get("description"),
        "authors": [author["name"] for author in component.get("authors", [])],
        "datasets": [item["name"] for item in bom["components"] if item["type"] == "data"],
    }


def _main(content: Content) -> Mapping[str, JSON]:
    component: Mapping[str, JSON] = content.json(SBOM)["metadata"]["component"]
    return component


def _expression(component: Mapping[str, JSON]) -> JSON:
    return next((item["expression"] for item in component.get("licenses", []) if "expression" in item), None)


def _card(content: Content) -> JSON:
    path = next((path for path, _ in content.tree if path.rpartition(".")[0] == CARD or path == CARD), None)
    if path is None:
        return None
    try:
        card = model_cards.read_card(content.read(path), path)
    except UsageError as error:
        raise MalformedError(error.message, subject=path) from None
    headings = [title.lower() for title in card.headings]
    return {"path": path, "words": card.words, "headings": headings, "declared": card.to_json()}


def _components(content: Content) -> JSON:
    return [
        {
            "name": item["name"],
            "version": item["version"],
            "licence": _expression(item),
            "words": next((row["license"]["name"] for row in item.get("licenses", []) if "license" in row), None),
            "yanked": next((row["value"] for row in item.get("properties", []) if row["name"] == _YANKED), None),
        }
        for item in content.json(SBOM)["components"]
        if item["type"] == "library"
    ]


def _sbom(content: Content) -> JSON:
    report = completeness.assess_sbom(content.json(SBOM), signed=True)
    return {
        "clusters": {name: [item.name for item in items if not item.filled] for name, items in report.clusters.items()},
        "ntia": [item.name for item in report.ntia if not item.filled],
        "licensed": report.licensed_share,
        "unlicensed": list(report.unlicensed),
    }


def _locks(content: Content) -> JSON:
    """Read pip's requirement files; a pin is a logical line, hashed if it carries `--hash=sha256:`."""
    found: dict[str, dict[str, JSON]] = {}
    for path, _ in content.tree:
        if match := re.fullmatch(r"deps/([^/]+)/(requirements[^/]*\.txt)", path):
            text = content.read(path).decode().replace("\\\n", " ")
            lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
            loose = [line.strip()[:120] for line in lines if "==" not in line or not _HASH.search(line)]
            found.setdefault(match[1], {})[match[2]] = {"pins": len(lines), "unhashed": loose}
    return found


def _graphs(content: Content) -> JSON:
    """Return what each graph needs by the contract, and the first fault in its structure."""
    promised = content.json(CONTRACT)
    main = promised["graph"]
    facts = {target["path"]: target.get("graph", main) for target in promised["targets"].values()}
    return [
        {
            "path": path,
            "opset": facts.get(path, main)["opset"].get("ai.onnx", 0),
            "ir": facts.get(path, main)["ir"],
            "domains": sorted(facts.get(path, main)["opset"]),
            "problem": _structure(content, path, facts.get(path, main)["opset"]),
        }
        for path, _ in content.tree
        if path.endswith(".onnx")
    ]


def _structure(content: Content, path: str, domains: Collection[str]) -> str | None:
    folder, files = path.rpartition("/")[0], dict(content.tree)

    def size_of(name: str) -> int | None:
        blob = files.get(f"{folder}/{name}" if folder else name)
        return blob.size if blob else None

    try:
        with memoryview(content.read(path, MAX_GRAPH)) as view:
            check.check_bytes(view, size_of, domains)
    except (StepError, ValueError) as error:
        return str(error)
    return None


def _artefacts(content: Content) -> JSON:
    found = {}
    for name, target in content.json(CONTRACT)["targets"].items():
        about = target.get("artefact", {})
        found[name] = {
            **{key: target[key] for key in ("runtime", "device", "precision", "path", "stability")},
            "engine": target["path"].endswith(_ENGINES),
            "toolchain": dict(about.get("toolchain", {})),
            # An engine that runs on other versions contains a copy of its runtime, for the host's CPU.
            "host_code": bool(about.get("header", {}).get("version_compatible", False)),
        }
    return found


def _promises(content: Content) -> JSON:
    parsed = contract.parse(content.read(CONTRACT))
    return {name: promise.versions for name, promise in parsed.runs_on.items()}


def _slo(content: Content) -> JSON:
    return dict(contract.parse(content.read(CONTRACT)).slo)


def _secrets(content: Content) -> JSON:
    found, unread = [], []
    for path, blob in content.tree:
        if not secrets.is_read(path, blob.size):
            unread.append(path)
            continue
        found += [{"path": path, **item.to_json()} for item in secrets.scan(content.read(path, blob.size))]
    return {"found": found, "unread": unread}


_SECTIONS: Mapping[str, Callable[[Content], JSON]] = {
    "contents": _contents,
    "model": _model,
    "card": _card,
    "components": _components,
    "sbom": _sbom,
    "locks": _locks,
    "graphs": _graphs,
    "artefacts": _artefacts,
    "promises": _promises,
    "slo": _slo,
    "secrets": _secrets,
}


# sections from statements


def _statement_sections(evidence: Sequence[Evidence]) -> dict[str, JSON]:
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


def _vulnerabilities(content: Content, evidence: Sequence[Evidence], folder: Path) -> dict[str, JSON]:
    """Return the advisories about the locked packages, with the VEX claims of trusted signers."""
    database = advisories.read_database(folder)
    if database is None:
        return {}
    try:
        pins = [(item["name"], item["version"]) for item in _components(content)]
    except (*_MALFORMED, PackagerError):
        return {}
    claims = [
        (item.attested.signer, claim)
        for item in evidence
        for claim in vex.parse_claims(item.statement.predicate_type, item.statement.predicate)
    ]
    found = [{**hit.to_json(), "vex": _vex_claim(hit, claims)} for hit in advisories.match(folder, pins)]
    return {"vulnerabilities": {"database": database.to_json(), "packages": len(pins), "found": found}}


def _vex_claim(hit: advisories.Hit, claims: Sequence[tuple[str, vex.Claim]]) -> JSON:
    """Return the claim that a hit does not apply; None without one, or where another claim contradicts it."""
    ids, purl = frozenset({hit.id, *hit.aliases}), cyclonedx.write_purl(hit.package, hit.version)
    matching = [(signer, claim) for signer, claim in claims if claim.covers(ids, purl)]
    if not matching or not all(claim.harmless for _, claim in matching):
        return None
    signer, claim = matching[0]
    return {"signer": signer, "status": claim.status, "reason": claim.reason}


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


def measurement_predicate(facts: Mapping[str, JSON]) -> JSON:
    """Return the facts of a build that must be attested, because the bundle's files do not show them."""
    return {"format": FORMAT, **_kept(dict(facts))}
