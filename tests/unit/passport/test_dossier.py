# SPDX-License-Identifier: Apache-2.0
"""A dossier says only what evidence says: marks and digests are right, gaps are gaps, equal bundles give equal bytes."""

from __future__ import annotations

import html.parser
from pathlib import Path
from typing import Any

import pytest

from packager import canonical
from packager.bundle.bundle import CONTRACT
from packager.conform import results
from packager.formats import slsa
from packager.passport.contents import Judgement, describe_bundle
from packager.passport.dossier import FORMS, Gap, Sentence, write_dossier
from packager.passport.page import write_page
from packager.release import proofs
from packager.release.sign import attest, sign
from packager.store.store import Store
from packager.transport.copy import attach
from packager.trust.attach import with_signed
from packager.trust.keys import generate_key
from packager.trust.model import as_trust
from packager.trust.verify import verify
from tests.support import bundles, deployments


@pytest.fixture
def facts(store: Store) -> Any:
    key = generate_key("p256")
    bundle = attach(sign(deployments.carrier(store), key), None)
    verification = verify(bundle, as_trust([key.public]))
    assert verification.ok
    return describe_bundle(bundle, Judgement(verification, keys=[key.public]))


def test_annex_iv_has_nine_sections_and_each_says_something_or_names_its_gap(facts: Any) -> None:
    made = write_dossier(facts, "annex-iv")
    assert [section.number for section in made.sections] == list("123456789")
    assert all(section.entries for section in made.sections)


@pytest.mark.parametrize("form", FORMS)
def test_every_digest_is_of_something_that_is_there(facts: Any, form: Any) -> None:
    bundle = facts["bundle"]
    known = {bundle["digest"], *(row["digest"] for row in facts["verification"]["statements"])}
    known |= {blob["digest"] for blob in bundle["files"].values()}
    for section in write_dossier(facts, form).sections:
        for entry in section.entries:
            if isinstance(entry, Sentence):
                assert entry.evidence is None or entry.evidence in known, entry
            else:
                assert entry.text and entry.remedy


def test_a_card_fills_gaps_as_declared(facts: Any) -> None:
    before = write_dossier(facts, "annex-iv")
    facts["about"] |= {"intended_use": ["Sort post."], "limitations": ["No letters."], "datasets": ["digits"]}
    facts["about"]["metrics"] = [{"type": "accuracy", "value": "0.98", "slice": "test"}]
    after = write_dossier(facts, "annex-iv")
    assert after.counts["gaps"] == before.counts["gaps"] - 4
    declared = {e.text: e.mark for s in after.sections for e in s.entries if isinstance(e, Sentence)}
    for text in ("Intended purpose: Sort post.", "Limitation: No letters.", "accuracy on test: 0.98"):
        assert declared[text] == "declared"


def test_who_signed_the_source_is_shown(store: Store, tmp_path: Path) -> None:
    """The passport and the dossier name the publisher that locking demanded, by the signed provenance alone."""
    key = generate_key("p256")
    lock: dict[str, Any] = {
        "source": {"uri": "models:/digits/3", "signed": {"signer": "ci@publisher.example<b>", "form": "cosign"}},
        "export": {"kind": "onnx"},
        "toolchain": {},
    }
    run = {
        "builder": {"id": "urn:builder", "version": {}},
        "metadata": {"invocationId": "1", "startedOn": "", "finishedOn": "2026-11-30T00:00:00Z"},
        "byproducts": [],
    }
    predicate = slsa.write_predicate({"source": "models:/digits@champion"}, lock, {}, [], run)

    def shown(place: Store) -> Any:
        bundle = sign(deployments.carrier(place), key)  # in a store that has no other provenance of it
        signed = attach(attest(bundle, slsa.PREDICATE, predicate, key), None)
        return describe_bundle(signed, Judgement(verify(signed, as_trust([key.public])), keys=[key.public]))

    facts = shown(store)
    assert facts["provenance"]["publisher"] == {"signer": "ci@publisher.example<b>", "form": "cosign"}
    assert "ci@publisher.example&lt;b&gt; (cosign)" in write_page(facts)
    (row,) = [e for s in write_dossier(facts, "annex-iv").sections for e in s.entries if "signed by its" in e.text]
    assert isinstance(row, Sentence) and row.mark == "measured" and row.evidence
    lock["source"]["signed"] = "malformed"
    assert shown(Store(tmp_path / "another"))["provenance"]["publisher"] is None


def test_a_stranger_names_no_publisher(store: Store) -> None:
    """Provenance that no trusted signer signed is not believed."""
    key, stranger = generate_key("p256"), generate_key("p256")
    lock = {"source": {"uri": "m", "signed": {"signer": "x", "form": "cosign"}}, "export": {"kind": "onnx"}}
    run = {
        "builder": {"id": "urn:builder", "version": {}},
        "metadata": {"invocationId": "1", "startedOn": "", "finishedOn": ""},
        "byproducts": [],
    }
    predicate = slsa.write_predicate({"source": "m"}, {**lock, "toolchain": {}}, {}, [], run)
    bundle = attach(attest(sign(deployments.carrier(store), key), slsa.PREDICATE, predicate, stranger), None)
    facts = describe_bundle(bundle, Judgement(verify(bundle, as_trust([key.public])), keys=[key.public]))
    assert facts["provenance"]["publisher"] is None


def test_what_is_not_verified_has_no_dossier(store: Store, facts: Any) -> None:
    with pytest.raises(ValueError, match="not verified"):
        write_dossier(describe_bundle(deployments.carrier(store), Judgement()), "annex-iv")
    facts["verification"]["ok"] = False
    with pytest.raises(ValueError, match="not verified"):
        write_dossier(facts, "annex-iv")


def test_equal_facts_give_equal_bytes_and_no_date(facts: Any) -> None:
    one = write_dossier(facts, "annex-iv").to_markdown()
    facts["verification"]["day"] = "2031-01-01"
    assert write_dossier(facts, "annex-iv").to_markdown() == one


def test_foreign_text_stays_text(facts: Any) -> None:
    hostile = "x | y\n# heading <script>alert(1)</script> [a](http://b) `c` \x1b[31m\u202e"
    facts["about"] |= {"intended_use": [hostile], "authors": [hostile]}
    made = write_dossier(facts, "annex-iv")
    text = made.to_markdown()
    row = next(line for line in text.split("\n") if "Intended purpose" in line)
    assert row.replace("\\|", "").count("|") == 4
    assert "\n# heading" not in text and "<script" not in text and "[a](" not in text and "\x1b" not in text
    tags: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            tags.append(tag)

    Reader().feed(made.to_html())
    assert "script" not in tags and "a" not in tags


def test_gaps_are_counted(facts: Any) -> None:
    made = write_dossier(facts, "gpai")
    assert made.counts["gaps"] == sum(isinstance(e, Gap) for s in made.sections for e in s.entries) > 3


def test_statements_of_strangers_are_in_no_answer(store: Store) -> None:
    """Anyone may attach a statement: what it says of runs and of the model's name is no fact of a verified bundle."""
    ours, theirs = generate_key("p256"), generate_key("p256")
    graph = {**bundles.CONTRACT_OF_TINY["graph"], "operators": {"ai.onnx": {"Add": {"14": ["?"]}}}}
    contract = {**bundles.CONTRACT_OF_TINY, "graph": graph}
    unknown = bundles.make(store, {CONTRACT: canonical.dump(contract)})
    bundle = attach(sign(unknown, ours), None)
    run = {"target": "onnxruntime-cpu-fp32", "runtime": "onnxruntime", "version": "1.20.0", "outcome": "pass"}
    cell = {
        **run,
        "cell": "c",
        "device": "cpu",
        "reason": "",
        "levels": {},
        "checks": [],
        "measures": {},
        "identity": {},
    }
    about = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest}
    result = {
        "format": results.FORMAT,
        "bundle": about,
        "level": 1,
        "reference": {},
        "host": {},
        "seconds": 1,
        "cells": [cell],
    }
    forged = theirs.sign(results.build_statement(result, bundle).to_bytes())
    bundle = attach(with_signed(bundle, forged, results.PREDICATE), None)
    assert proofs.list_proofs(bundle), "read without a check, it would be believed"
    verification = verify(bundle, as_trust([ours.public]))
    assert verification.ok
    facts = describe_bundle(bundle, Judgement(verification, keys=[ours.public]))
    assert not facts["conformance"]
    unchecked = describe_bundle(bundle, Judgement())["compatibility"]
    assert [row for row in unchecked if row["source"] in proofs.SOURCES]
    assert not [row for row in facts["compatibility"] if row["source"] in proofs.SOURCES]
