# SPDX-License-Identifier: Apache-2.0
"""Gather what a passport says, as plain JSON. Deterministic: the same bundle, trust, day and knowledge give the same.

Three kinds of facts stand side by side and are kept apart: what lies in the bundle's files, what signed statements say,
and what this program works out here (compatibility, advisories). Where a verification is given, only statements of
trusted signers are read; else every readable statement is, and the page says that nothing was checked.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from packager.bundle.bundle import SBOM, Bundle
from packager.bundle.diff import diff
from packager.bundle.knobs import knob_schema
from packager.bundle.single_file import write_header
from packager.canonical import JSON
from packager.conform import results
from packager.contract import preflight
from packager.contract.contract import render_lines
from packager.contract.quantised import describe_blocks
from packager.errors import PackagerError
from packager.formats import dsse, slsa
from packager.formats.intoto import Statement
from packager.knobs.knobs import to_schema
from packager.policy import advisories
from packager.recipe.evaluation import ERRORS
from packager.release import proofs
from packager.server.declaration import Knob
from packager.server.generation.settings import TEMPLATE
from packager.trust.keys import PublicKey
from packager.trust.verify import Verification, list_statements, read_statements
from packager.types import Verdict

FORMAT = 1
_MEASURES = ("latency_ms", "throughput_rps", "cold_start_seconds", "resident_bytes")
MAX_STATEMENT_SHOWN = 1 << 20  # bytes of a statement that the page carries to check it; larger ones are named only


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found out about a bundle before its passport is written; each may be absent.

    `keys` are the public keys that were trusted, `day` the day of the verification.
    """

    verification: Verification | None = None
    verdict: Verdict | None = None
    keys: Sequence[PublicKey] = ()
    day: date | None = None


def describe_bundle(
    bundle: Bundle, found: Judgement, *, previous: Bundle | None = None, advisory_folder: Path | None = None
) -> JSON:
    """Return the facts of a passport. Raises IntegrityError for a bundle whose records cannot be read."""
    statements = _statements(bundle, found.verification)
    made = _provenance(statements)
    sbom = bundle.load(SBOM) if bundle.tree.get(SBOM) is not None else {}
    contract = bundle.contract
    return {
        "format": FORMAT,
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "set_digest": bundle.set_digest,
            "size": bundle.size,
            "files": {path: {"digest": blob.digest, "size": blob.size} for path, blob in bundle.tree},
        },
        "about": _about(sbom),
        "source": proofs.find_origin(bundle, statements),
        "verification": _verification(bundle, found),
        "policy": found.verdict.to_json() if found.verdict else None,
        "interface": {
            "inputs": contract.document["interface"]["inputs"],
            "outputs": contract.document["interface"]["outputs"],
            "takes": render_lines(contract),
        },
        "generation": _generation(bundle),
        "pipeline": contract.document.get("pipeline"),
        "targets": _targets(contract.document),
        "compatibility": [_span(span) for span in _spans(bundle, statements)],
        "conformance": _conformance(statements),
        "parity": _parity(made),
        "accuracy": _accuracy(made),
        "provenance": _steps(bundle, statements, made),
        "components": list(_components(sbom)),
        "licences": dict(sorted(Counter(item["licence"] or "none named" for item in _components(sbom)).items())),
        "advisories": _advisories(sbom, advisory_folder),
        "knobs": [_knob(name, knob) for name, knob in sorted(knob_schema(bundle).items())],
        "difference": _difference(previous, bundle),
        "evidence": _evidence(bundle, found.keys),
    }


# what was checked


def _statements(bundle: Bundle, verification: Verification | None) -> list[Statement]:
    if verification is not None:
        return [item.statement for item in verification.evidence]
    subject = bundle.digest.removeprefix("sha256:")
    return [item for item in read_statements(bundle) if item.subject_sha256 == subject]


def _verification(bundle: Bundle, found: Judgement) -> JSON:
    claimed = [
        {"digest": digest, "claim": claim, "predicate_type": kind} for digest, claim, kind in list_statements(bundle)
    ]
    if found.verification is None:
        return {"checked": False, "claimed": claimed}
    return {
        "checked": True,
        "day": found.day.isoformat() if found.day else None,
        "claimed": claimed,
        **found.verification.to_json(),
        "failure": found.verification.failure.message if found.verification.failure else None,
    }


def _evidence(bundle: Bundle, keys: Sequence[PublicKey]) -> JSON:
    """Return the bytes with which a reader's browser repeats the checks: manifest, index, statements, keys."""
    carried, left = [], []
    for item in bundle.referrers:
        if item.artifact_type != dsse.BUNDLE:
            continue
        if item.content.size > MAX_STATEMENT_SHOWN:
            left.append(item.content.digest)
        else:
            carried.append({"digest": item.content.digest, "data": _text(bundle.record_bytes(item.content.digest))})
    return {
        "manifest": _text(bundle.manifest),
        "index": _text(bundle.index()),
        "header": _text(write_header("x", 0)),
        "statements": carried,
        "left_out": left,
        "members": sorted([blob.digest, blob.size] for blob in {*bundle.records.values(), *dict(bundle.tree).values()}),
        "keys": [{"fingerprint": key.fingerprint, "pem": key.pem.decode()} for key in keys],
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# what the bundle is


def _about(sbom: Mapping[str, JSON]) -> JSON:
    """Return what the model's component of the SBOM declares."""
    model = (sbom.get("metadata") or {}).get("component") or {}
    card = model.get("modelCard") or {}
    considered = card.get("considerations") or {}
    ancestors = (model.get("pedigree") or {}).get("ancestors", ())
    return {
        "description": model.get("description"),
        "licence": next(_licences(model), None),
        "authors": [item["name"] for item in model.get("authors", ()) if item.get("name")],
        "task": (card.get("modelParameters") or {}).get("task"),
        "intended_use": considered.get("useCases", []),
        "limitations": considered.get("technicalLimitations", []),
        "risks": [item["name"] for item in considered.get("ethicalConsiderations", ()) if item.get("name")],
        "metrics": (card.get("quantitativeAnalysis") or {}).get("performanceMetrics", []),
        "datasets": [item["name"] for item in sbom.get("components", ()) if item.get("type") == "data"],
        "base_models": [item["name"] for item in ancestors if str(item.get("bom-ref")).startswith("base:")],
    }


def _generation(bundle: Bundle) -> JSON:
    """Return what a language model's contract says, with its chat template as text; None for another model."""
    says = bundle.contract.document.get("generation")
    if says is None:
        return None
    template = bundle.read(TEMPLATE).decode(errors="replace") if bundle.tree.get(TEMPLATE) is not None else None
    return {**says, "chat_template": template}


def _targets(contract: Mapping[str, JSON]) -> JSON:
    return [
        {
            "name": name,
            "path": target["path"],
            "runtime": target["runtime"],
            "device": target["device"],
            "precision": target["precision"],
            "quantised": describe_blocks(target),
            "versions": contract["runs-on"].get(target["runtime"], {}).get("versions"),
            "reproducibility": target.get("artefact", {}).get("reproducibility"),
            "tolerance": target["tolerance"],
            "memory": target["needs"].get("memory"),
            "cpu": target["needs"].get("cpu"),
        }
        for name, target in contract["targets"].items()
    ]


def _knob(name: str, knob: Knob) -> JSON:
    form = to_schema(knob)
    shown = {key: form.get(key) for key in ("default", "description", "minimum", "maximum", "enum")}
    return {"name": name, **shown, "unit": form.get("x-unit")}


# where it runs


def _spans(bundle: Bundle, statements: Sequence[Statement]) -> list[preflight.Span]:
    return preflight.join_cells(
        preflight.judge_everywhere(bundle.contract, proofs=proofs.list_proofs(bundle, statements))
    )


def _span(span: preflight.Span) -> JSON:
    return {"versions": span.versions, **span.first.to_json()}


def _conformance(statements: Iterable[Statement]) -> JSON:
    cells = []
    for statement in statements:
        if statement.predicate_type != results.PREDICATE:
            continue
        try:
            result = results.read_details(statement, "statement")
        except PackagerError:
            continue  # of another suite
        for cell in result["cells"]:
            known = ("target", "runtime", "version", "device", "outcome", "reason", "levels")
            measures = {key: cell["measures"].get(key) for key in _MEASURES}
            cells.append({key: cell.get(key) for key in known} | {"measures": measures})
    return cells


# how it was made


def _provenance(statements: Iterable[Statement]) -> slsa.Provenance | None:
    for statement in statements:
        if statement.predicate_type == slsa.PREDICATE:
            try:
                return slsa.parse(statement.predicate)
            except (ValueError, KeyError, TypeError, AttributeError, PackagerError):
                continue  # of another builder
    return None


def _steps(bundle: Bundle, statements: Sequence[Statement], made: slsa.Provenance | None) -> JSON:
    """Return the way from the source to the bundle: nodes in order, each with what is known of it."""
    source = proofs.find_origin(bundle, statements)
    graph = bundle.contract.document["graph"]
    opset = ", ".join(f"{domain} {version}" for domain, version in graph["opset"].items())
    nodes: list[JSON] = [{"step": "source", "title": source["reference"] or source["uri"], "digest": source["tree"]}]
    if made:
        tools = {name: version for name, version in made.lock["toolchain"].items() if isinstance(version, str)}
        nodes.append({"step": "export", "title": f"by `{made.lock['export']['kind']}`", "tools": tools})
    nodes.append({"step": "graph", "title": f"opset {opset}, IR {graph['ir']}", "parameters": graph.get("parameters")})
    for target in _targets(bundle.contract.document):
        blob = bundle.tree.get(target["path"])
        nodes.append({"step": "target", "title": target["name"], "digest": blob.digest if blob else None})
    nodes.append({"step": "bundle", "title": f"{bundle.name} {bundle.version}", "digest": bundle.digest})
    return {
        "nodes": nodes,
        "publisher": _publisher(made) if made else None,
        "builder": made.builder if made else None,
        "invocation": made.invocation if made else None,
        "confinement": made.confinement if made else None,
    }


def _publisher(made: slsa.Provenance) -> JSON:
    """Return who signed the source, where locking demanded that."""
    source = made.lock.get("source")
    signed = source.get("signed") if isinstance(source, dict) else None
    if not isinstance(signed, dict) or not isinstance(signed.get("signer"), str):
        return None
    return {"signer": signed["signer"], "form": str(signed.get("form"))}


def _parity(made: slsa.Provenance | None) -> JSON:
    """Return one row per target and output: how many cases, the largest difference, how many elements are unequal."""
    rows = []
    for name, target in ((made.facts if made else None) or {"targets": {}})["targets"].items():
        worst: dict[str, dict[str, JSON]] = {}
        for case in target["cases"]:
            for output, measured in case["outputs"].items():
                row = worst.setdefault(output, {"dtype": measured["dtype"], "max_abs": 0, "unequal": 0, "case": None})
                size = measured.get("max_abs", measured.get("unequal", 0))
                if isinstance(size, int | float) and (
                    row["case"] is None or size > max(row["max_abs"], row["unequal"])
                ):
                    row["case"] = case["name"]
                row["max_abs"] = max(row["max_abs"], measured.get("max_abs") or 0)
                row["unequal"] += measured.get("unequal") or 0
        rows += [
            {"target": name, "output": output, "cases": len(target["cases"]), **row} for output, row in worst.items()
        ]
        if target["unmeasured"]:
            rows.append({"target": name, "output": None, "cases": 0, "unmeasured": target["unmeasured"]})
    return rows


def _accuracy(made: slsa.Provenance | None) -> JSON:
    """Return by target what it and the source reach on rows with labels, and its worst slice; None without any."""
    targets = ((made.facts if made else None) or {"targets": {}})["targets"]
    found = {name: target["evaluation"] for name, target in targets.items() if target.get("evaluation")}
    return {
        name: {**item, "slices": len(item["slices"]), "worst": _worst(item)} for name, item in found.items()
    } or None


def _worst(found: JSON) -> JSON:
    """Return the slice on which a target reaches least; of an error, most."""
    known = [item for item in found["slices"] if item["target"] is not None]
    chosen = max if found["metric"] in ERRORS else min
    return chosen(known, key=lambda item: item["target"]) if known else None


# what it consists of


def _components(sbom: Mapping[str, JSON]) -> Iterator[dict[str, JSON]]:
    for item in sbom.get("components", ()):
        digest = next((row["content"] for row in item.get("hashes", ()) if row.get("alg") == "SHA-256"), None)
        roles = [row["value"] for row in item.get("properties", ()) if row.get("name") == "packager:role"]
        yield {
            "name": str(item.get("name")),
            "version": item.get("version"),
            "kind": roles[0] if roles else item.get("type"),
            "licence": next(_licences(item), None),
            "supplier": (item.get("supplier") or {}).get("name"),
            "digest": digest,
        }


def _licences(component: Mapping[str, JSON]) -> Iterator[str]:
    for row in component.get("licenses", ()):
        stated = row.get("expression") or (row.get("license") or {}).get("id") or (row.get("license") or {}).get("name")
        if stated:
            yield str(stated)


def _advisories(sbom: Mapping[str, JSON], folder: Path | None) -> JSON:
    """Return the known advisories about the locked packages; None without a database (`packager vulndb import`)."""
    database = advisories.read_database(folder) if folder else None
    if folder is None or database is None:
        return None
    pins = [(item["name"], item["version"]) for item in _components(sbom) if item["version"]]
    return {
        "database": database.to_json(),
        "hits": [hit.to_json() for hit in advisories.match(folder, pins)],
    }


def _difference(previous: Bundle | None, bundle: Bundle) -> JSON:
    if previous is None:
        return None
    return {"before": {"version": previous.version, "digest": previous.digest}, **diff(previous, bundle).to_json()}
