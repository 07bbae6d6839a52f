# SPDX-License-Identifier: Apache-2.0
"""Where a bundle ran is told by statements about it: those that hold nothing of the kind, or of another, prove nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from packager.bundle.bundle import Bundle
from packager.conform import results
from packager.formats import intoto
from packager.formats.intoto import Statement
from packager.release import proofs
from packager.store.store import Store
from packager.trust.signers import Signer
from packager.trust.signers import key as signer_of_keys
from tests.conftest import Run
from tests.support import bundles


@pytest.fixture
def signer(packager: Run, tmp_path: Path) -> Signer:
    packager("keygen", "site")
    found: Signer = signer_of_keys.open_signer(str(tmp_path / "site.pem"), lambda: None)
    return found


def result(bundle: Bundle, **outcomes: str) -> Any:
    cells = [
        {
            "cell": f"onnxruntime {version}",
            "target": "onnxruntime-cpu-fp32",
            "runtime": "onnxruntime",
            "version": version,
            "device": "cpu",
            "outcome": outcome,
            "reason": "",
            "levels": {},
            "identity": {},
            "measures": {},
            "checks": [],
        }
        for version, outcome in outcomes.items()
    ]
    about = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
    return {
        "format": results.FORMAT,
        "bundle": about,
        "level": 5,
        "reference": {},
        "host": {},
        "seconds": 1,
        "cells": cells,
    }


def attached(bundle: Bundle, statement: Statement, signer: Signer) -> Bundle:
    return bundle.with_statement(signer.sign(statement.to_bytes()).to_bytes(), statement.predicate_type)


def test_what_passed_is_proven_and_nothing_else(store: Store, signer: Signer) -> None:
    bundle = bundles.make(store)
    assert proofs.list_proofs(bundle) == {}
    told = results.build_statement(result(bundle, **{"1.20.0": "pass", "1.21.0": "fail", "1.22.0": "skip"}), bundle)
    found = proofs.list_proofs(attached(bundle, told, signer))
    assert found == {("onnxruntime-cpu-fp32", "onnxruntime", "1.20.0"): "conformed"}


def test_a_result_about_another_bundle_proves_nothing(store: Store, signer: Signer) -> None:
    bundle, other = bundles.make(store), bundles.make(store, {"model/model.onnx": b"other"}, name="other")
    told = results.build_statement(result(other, **{"1.20.0": "pass"}), other)
    assert proofs.list_proofs(attached(bundle, told, signer)) == {}
    lie = result(other, **{"1.20.0": "pass"})
    forged = Statement(
        results.PREDICATE,
        "tiny:1.0.0",
        bundle.digest.removeprefix("sha256:"),
        {"result": "PASSED", results.DETAILS: lie},
    )
    assert proofs.list_proofs(attached(bundle, forged, signer)) == {}


@pytest.mark.parametrize(
    "predicate", [{}, {"result": "PASSED"}, {"buildDefinition": 1}, {results.DETAILS: []}], ids=str
)
@pytest.mark.parametrize("kind", [results.PREDICATE, "https://slsa.dev/provenance/v1", "urn:other:v1"])
def test_statements_of_another_shape_prove_nothing(
    store: Store, signer: Signer, kind: str, predicate: dict[str, Any]
) -> None:
    bundle = bundles.make(store)
    told = Statement(kind, "tiny:1.0.0", bundle.digest.removeprefix("sha256:"), predicate)
    assert intoto.parse(told.to_bytes(), limit=1 << 20) == told
    signed = attached(bundle, told, signer)
    assert proofs.list_proofs(signed) == {} and proofs.find_origin(signed)["reference"] is None
