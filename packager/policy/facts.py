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
from packager.errors import MalformedError, PackagerError, StepError, UsageError
from packager.formats import cyclonedx_libraries, model_cards, secrets
from packager.graph import check
from packager.policy import advisories, completeness, stated_facts, vex
from packager.trust.evidence import Evidence
from packager.types import Blob, Tree

FORMAT = 1
MAX_GRAPH = 256 << 20  # bytes of an ONNX file that is read whole; weights beyond are external data
_ENGINES = (".engine",)
_YANKED = "packager:yanked"
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
    stated = {} if evidence is None else stated_facts.list_sections(accepted)
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


# advisories about the locked packages


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
    ids, purl = frozenset({hit.id, *hit.aliases}), cyclonedx_libraries.write_purl(hit.package, hit.version)
    matching = [(signer, claim) for signer, claim in claims if claim.covers(ids, purl)]
    if not matching or not all(claim.harmless for _, claim in matching):
        return None
    signer, claim = matching[0]
    return {"signer": signer, "status": claim.status, "reason": claim.reason}
