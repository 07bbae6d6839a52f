# SPDX-License-Identifier: Apache-2.0
"""A whole run of the suite: the bundle is checked first, the cells are planned, and the result says both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.conform import cells, results, run
from packager.conform.settings import Endpoint, Settings
from packager.contract.runtime_tables import Tables
from packager.errors import UsageError
from packager.events import OnEvent, Warned, ignore
from packager.formats import reference_outputs
from packager.transport import copy
from packager.trust.attach import with_signed
from packager.trust.keys import PublicKey
from packager.trust.signers import Signer
from packager.trust.verifier import Verifier
from packager.trust.verify import check_files


def run_conformance(
    bundle: Bundle,
    settings: Settings,
    verifier: Verifier | None,
    runtimes: Sequence[str] = (),
    adapter: Sequence[str] = (),
    endpoint: Endpoint | None = None,
    on_event: OnEvent = ignore,
) -> dict[str, JSON]:
    """Check `bundle`, run the suite on it, and return the result with its verdict."""
    checks, stated = _check(bundle, verifier, on_event)
    settings = replace(settings, stated=stated)
    if endpoint is not None:
        result = run.run_suite_on_endpoint(bundle, endpoint, settings, on_event)
    else:
        result = run.run_suite(bundle, _plan(bundle, runtimes, adapter, settings.tables), settings, on_event)
    found: dict[str, JSON] = {**result, "integrity": checks}
    found["verdict"] = results.summarise_cells(found)
    return found


def _plan(bundle: Bundle, runtimes: Sequence[str], adapter: Sequence[str], tables: Tables) -> list[cells.PlannedCell]:
    contract = bundle.contract.document
    found = cells.plan_adapter(contract, adapter) if adapter else []
    selections = [cells.parse_selection(text) for text in runtimes]
    return [*found, *([] if found and not selections else cells.plan_cells(contract, selections, tables))]


def _check(bundle: Bundle, verifier: Verifier | None, on_event: OnEvent) -> tuple[JSON, dict[str, bytes]]:
    """L0 of every cell: the bundle is whole, and signed by a trusted signer where trust is given.

    Also returns the reference outputs that a trusted signer stated, none without trust.
    """
    if verifier is None:
        on_event(Warned("no --key or --trust was given: the bundle's files are checked, who made them is not"))
        return {"signature": "not checked", "files": check_files(bundle, on_event)}, {}
    found = verifier.verify(bundle, on_event)
    found.raise_for_failure()
    stated = [
        reference_outputs.read(item.statement.predicate, bundle.tree, item.digest, bundle.evidence)
        for item in found.evidence
        if item.statement.predicate_type == reference_outputs.PREDICATE
    ]
    checks = {"signature": "verified", "signers": list(found.signers), "files": found.checks[-2].detail}
    return checks, stated[-1] if stated else {}


def sign_result(result: JSON, bundle: Bundle, signer: Signer, on_event: OnEvent = ignore) -> bytes:
    """Sign a result, attach it to `bundle` where it is, and return the attestation."""
    stated = results.build_statement(result, bundle)
    signed = signer.sign(stated.to_bytes())
    copy.attach(with_signed(bundle, signed, stated.predicate_type), on_event=on_event)
    return signed.to_bytes()


def merge_results(paths: Sequence[Path], keys: Sequence[PublicKey]) -> dict[str, JSON]:
    """Return one result over the cells of several, with its verdict."""
    if not paths:
        raise UsageError("`merge` needs results", hint="packager conform merge a/result.json b/result.json")
    found: dict[str, JSON] = dict(results.merge([results.read(path, keys) for path in paths]))
    found["verdict"] = results.summarise_cells(found)
    return found


def attach_results(
    paths: Sequence[Path], bundle: Bundle, keys: Sequence[PublicKey], on_event: OnEvent = ignore
) -> Bundle:
    """Attach the attestations among `paths` to `bundle` where it is; return it, opened again."""
    return copy.attach(results.attach(paths, bundle, keys), on_event=on_event)
