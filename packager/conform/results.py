# SPDX-License-Identifier: Apache-2.0
"""The result of conformance runs: read, merged, judged, and stated so that it can be signed and sent back.

A result is plain JSON about one bundle digest. Merging keeps, of cells that are the same (target, runtime, version,
device, host), the last one given; results about different bundles do not merge. A skipped cell never counts as
passed: a result is `ok` when nothing failed and something passed, and `unproven` lists what was skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from packager import canonical, escape
from packager.bundle.bundle import CONTRACT, Bundle
from packager.canonical import JSON
from packager.conform import operators
from packager.errors import IntegrityError, UsageError
from packager.formats import dsse
from packager.formats.intoto import Statement
from packager.trust import evidence
from packager.trust.evidence import Evidence
from packager.trust.keys import PublicKey
from packager.trust.model import as_trust
from packager.types import check_digest

FORMAT = 1
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
Outcome: TypeAlias = Literal["pass", "fail", "skip"]  # of a cell
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
DETAILS = "urn:packager:conformance:v1"
MAX_RESULT = dsse.MAX_BUNDLE
_FIELDS = {"format", "bundle", "level", "reference", "host", "seconds", "cells"}


def summarise_cells(result: JSON) -> JSON:
    """Return `ok`, the counts, and the names of the cells that failed or were skipped."""
    by = _by_outcome(result)
    return {
        "ok": bool(by["pass"]) and not by["fail"],
        "passed": len(by["pass"]),
        "failed": by["fail"],
        "unproven": by["skip"],
        "known": [
            f"{cell['cell']}: {check['name']}"
            for cell in result["cells"]
            for check in cell["checks"]
            if check["outcome"] == "known"
        ],
    }


def _by_outcome(result: JSON) -> dict[Outcome, list[str]]:
    """Return the names of the cells by their outcome."""
    return {name: [cell["cell"] for cell in result["cells"] if cell["outcome"] == name] for name in OUTCOMES}


def check(value: JSON, subject: str) -> JSON:
    """Return `value` if it is a result as this version writes it. Raises IntegrityError."""
    known = isinstance(value, dict) and value.get("format") == FORMAT and set(value) >= _FIELDS
    cells = value.get("cells") if known else None
    if not isinstance(cells, list) or not all(_is_cell(cell) for cell in cells):
        raise IntegrityError(f"`{subject}` holds no conformance result of format {FORMAT}", subject=subject)
    bundle = value["bundle"]
    if not isinstance(bundle, dict) or set(bundle) != {"name", "version", "digest"}:
        raise IntegrityError(f"`{subject}` does not say which bundle it is about", subject=subject)
    check_digest(bundle["digest"], subject=subject)
    return value


def _is_cell(cell: JSON) -> bool:
    words = ("cell", "target", "runtime", "version", "device", "outcome", "reason")
    if not isinstance(cell, dict) or not all(isinstance(cell.get(word), str) for word in words):
        return False
    tables = all(isinstance(cell.get(key), dict) for key in ("levels", "identity", "measures"))
    covered = "operators" not in cell or operators.is_report(cell["operators"])
    return cell["outcome"] in OUTCOMES and tables and covered and isinstance(cell.get("checks"), list)


def read(path: Path, trusted: Sequence[PublicKey] = ()) -> JSON:
    """Read a result, or the result inside an attestation that one of `trusted` signed.

    Raises UsageError, IntegrityError, and NegativeAnswer for an attestation that no trusted key signed.
    """
    data = read_content(path)
    return (
        _attested(data, str(path), trusted)
        if is_attestation(data, str(path))
        else check(_json(data, str(path)), str(path))
    )


def read_content(path: Path) -> bytes:
    """Return the bytes of a result or attestation, which are not too many. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_RESULT + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None


def is_attestation(data: bytes, subject: str) -> bool:
    """Return whether bytes are a signed form of a result. Raises IntegrityError for malformed JSON."""
    value = _json(data, subject)
    return isinstance(value, dict) and "dsseEnvelope" in value


def _json(data: bytes, subject: str) -> JSON:
    try:
        return canonical.load(data, limit=MAX_RESULT)
    except ValueError as error:
        raise IntegrityError(f"`{subject}` is not acceptable JSON: {error}", subject=subject) from None


def attach(paths: Sequence[Path], bundle: Bundle, trusted: Sequence[PublicKey]) -> Bundle:
    """Return `bundle` with the attestations among `paths`, which other people sent back, attached to it.

    Raises UsageError where none of them is one, or one is about another bundle, and what `read` raises.
    """
    signed = [path for path in paths if is_attestation(read_content(path), str(path))]
    if not signed:
        raise UsageError(
            "none of the results is signed", hint="attach what `conform --sign` wrote: attestation.sigstore.json"
        )
    for path in signed:
        about = read(path, trusted)["bundle"]
        if about["digest"] != bundle.digest:
            raise UsageError(f"`{path}` is about {about['name']}:{about['version']} {about['digest']}, not this bundle")
        bundle = bundle.with_statement(read_content(path), PREDICATE)
    return bundle


def _attested(data: bytes, subject: str, trusted: Sequence[PublicKey]) -> JSON:
    """Return the result in an attestation that a trusted key has signed."""
    (found,) = evidence.authenticate(evidence.parse_statements({subject: data}), as_trust(trusted), None)
    return read_details(found.statement, subject)


def read_details(statement: Statement, subject: str) -> JSON:
    """Return the result inside a statement. Raises IntegrityError if its subject is another bundle."""
    predicate = statement.predicate
    if statement.predicate_type != PREDICATE or not isinstance(predicate, dict) or DETAILS not in predicate:
        raise IntegrityError(f"`{subject}` is not a conformance result", subject=subject)
    result = check(predicate[DETAILS], subject)
    if result["bundle"]["digest"] != f"sha256:{statement.subject_sha256}":
        raise IntegrityError(f"`{subject}` is about another bundle than its statement says", subject=subject)
    if predicate.get("result") != _word(result):
        raise IntegrityError(
            f"`{subject}` claims `{predicate.get('result')!s:.20}`, its cells say otherwise", subject=subject
        )
    return result


def merge(results: Sequence[JSON]) -> JSON:
    """Return one result over all cells. Raises UsageError when they are about different bundles."""
    digests = {result["bundle"]["digest"] for result in results}
    if len(digests) != 1:
        raise UsageError(f"expected results about one bundle, got {len(digests)}", hint="merge those of one digest")
    rows: dict[tuple[str, ...], JSON] = {}
    for result in results:
        for cell in result["cells"]:
            host_digest = canonical.sha256(canonical.dump(cell.get("host", result["host"])))
            rows[(cell["cell"], cell["device"], host_digest)] = {**cell, "host": cell.get("host", result["host"])}
    cells = sorted(rows.values(), key=lambda cell: (cell["target"], cell["runtime"], _order(cell["version"])))
    level = min(result["level"] for result in results)
    return {**results[-1], "level": level, "seconds": sum(item["seconds"] for item in results), "cells": cells}


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in version.split("."))


def _word(result: JSON) -> str:
    return "PASSED" if summarise_cells(result)["ok"] else "FAILED"


def build_statement(result: JSON, bundle: Bundle) -> Statement:
    """State the result about `bundle` as an in-toto test result, with every cell in our own member of the predicate."""
    names = _by_outcome(result)
    contract = dict(bundle.tree)[CONTRACT]
    predicate = {
        "result": _word(result),
        "configuration": [{"name": CONTRACT, "digest": {"sha256": contract.digest.removeprefix("sha256:")}}],
        "passedTests": names["pass"],
        "warnedTests": names["skip"],
        "failedTests": names["fail"],
        DETAILS: result,
    }
    subject = f"{bundle.name}:{bundle.version}"
    return Statement(PREDICATE, subject, bundle.digest.removeprefix("sha256:"), predicate)


def list_attested(found: Iterable[Evidence]) -> Iterator[JSON]:
    """Yield the conformance results among statements that were found trusted (`Verification.evidence`)."""
    for item in found:
        if item.statement.predicate_type == PREDICATE:
            yield read_details(item.statement, item.digest)


def render_table(result: JSON) -> str:
    """Return the matrix as text: one row per cell, one column per level, then reasons and figures."""
    levels = [f"L{number}" for number in range(result["level"] + 1)]
    width = max((len(cell["cell"]) for cell in result["cells"]), default=4)
    rows = [
        f"{'cell':{width}}  {' '.join(f'{level:4}' for level in levels)}  {'p50 ms':>8} {'start s':>7} {'suite s':>7}"
    ]
    for cell in result["cells"]:
        words = " ".join(f"{cell['levels'].get(level, '-'):4}" for level in levels)
        rows.append(f"{cell['cell']:{width}}  {words}  {_figures(cell)}".rstrip())
        if isinstance(reached := cell["measures"].get("accuracy"), dict) and reached.get("here") is not None:
            value = f"{reached['metric']} {reached['here']:.4g} on {reached['rows']} rows, bound {reached['bound']:g}"
            rows.append(f"{'':{width}}  {value}")
        if cell["reason"]:
            rows.append(f"{'':{width}}  {cell['outcome']}: {cell['reason']}")
        if "operators" in cell:
            rows += [f"{'':{width}}  {line}" for line in operators.render_lines(cell["operators"])]
    return "\n".join(map(escape.line, [*rows, *_known_rows(result)]))


def _known_rows(result: JSON) -> list[str]:
    """Return, once for each runtime, the checks that it is known to fail whatever the model."""
    found: dict[str, dict[str, None]] = {}
    for cell in result["cells"]:
        known = [check["name"] for check in cell["checks"] if check["outcome"] == "known"]
        if known:
            found.setdefault(f"{cell['runtime']} {cell['version']}", {}).update(dict.fromkeys(known))
    rows = []
    for runtime, names in found.items():
        rows += [f"known of {runtime}, whatever the model:", *(f"  {name}" for name in names)]
    return rows


def _figures(cell: Mapping[str, JSON]) -> str:
    measures = cell["measures"]
    p50 = (measures.get("latency_ms") or {}).get("p50")
    figures = ((p50, 8, 3), (measures.get("cold_start_seconds"), 7, 1), (measures.get("overhead_seconds"), 7, 1))
    return " ".join(" " * width if value is None else f"{value:{width}.{digits}f}" for value, width, digits in figures)


def render_summary(result: JSON) -> str:
    """Return the last line: how many cells passed, failed, were skipped, and against which reference."""
    found, reference = summarise_cells(result), result["reference"]
    overhead = [
        cell["measures"]["overhead_seconds"] for cell in result["cells"] if "overhead_seconds" in cell["measures"]
    ]
    each = f"; {sum(overhead) / len(overhead):.1f} s of overhead per cell" if overhead else ""
    return (
        f"{found['passed']} passed, {len(found['failed'])} failed, {len(found['unproven'])} skipped in "
        f"{result['seconds']:.0f} s{each}; reference: {describe_origin(reference)}"
    )


def describe_origin(reference: Mapping[str, JSON]) -> str:
    """Return the origin of the reference outputs."""
    stated = reference.get("stated")
    source = f"; {stated} of {reference['cases']} cases as the build stated them" if stated else ""
    return f"{reference['runtime']} {reference['version']} ({reference['source']}{source})"
