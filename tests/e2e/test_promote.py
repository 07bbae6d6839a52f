# SPDX-License-Identifier: Apache-2.0
"""A gate judges what was signed and says so; a site asks for what the gate of its stage said."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from packager.bundle.bundle import Bundle, open_bundle
from packager.canonical import dump
from packager.formats import dsse, intoto, slsa, vsa
from packager.release.sign import read_drafts
from packager.store.store import Store
from packager.trust import edit, file, keys
from tests.e2e.conftest import Project
from tests.support import bundles, environments

PROMOTE = ("--profile", "release", "--trust", "gate.trust", "--key", "gate.pem")
CHECK = """
import json, sys
from google.protobuf import json_format
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
value = json.load(open(sys.argv[1]))
(level,) = value.pop("verifiedLevels")  # the specification has a list; this library's message has one text
said = json_format.ParseDict({**value, "verifiedLevels": level}, vsa_pb2.VerificationSummary())
print(said.verification_result, said.verified_levels)
"""


@pytest.fixture
def gate(built: Project, tmp_path: Path) -> Project:
    """A gate that was sent the published bundle, and trusts who built it; a site that trusts both."""
    made = Project(tmp_path / "gate", tmp_path / "gate" / "store")
    made.folder.mkdir()
    for name in ("cnn.bundle.tar", "release.pub", "release.pem"):
        shutil.copy(built.folder / name, made.folder / name)
    root, own = keys.generate_key("p256"), keys.generate_key("p256")
    for name, key in (("root", root), ("gate", own)):
        keys.save(key, made.folder / f"{name}.pem", made.folder / f"{name}.pub", None)
    content = edit.new_content("acme", [root.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    for name in ("release", "gate"):
        content = edit.with_signer(content, name, {"key": (made.folder / f"{name}.pub").read_text()})
    for name in ("gate", "site"):
        (made.folder / f"{name}.trust").write_bytes(file.write(content, [root]).to_bytes())
    return made


def opened(made: Project, name: str = "cnn.bundle.tar") -> Bundle:
    return open_bundle(str(made.folder / name), lambda: Store(made.store))


def summaries(made: Project, name: str = "cnn.bundle.tar") -> list[Any]:
    bundle = opened(made, name)
    read = (
        intoto.parse(dsse.parse(bundle.record_bytes(r.content.digest)).payload, limit=1 << 24)
        for r in bundle.referrers
        if r.artifact_type == dsse.BUNDLE
    )
    return [item.predicate for item in read if item.predicate_type == vsa.PREDICATE]


def test_what_a_gate_let_in_a_site_lets_in(gate: Project, tmp_path: Path) -> None:
    ask = ("trust", "add", "site.trust", "--require-stage", "production", "--root-key", "root.pem")
    assert "--by" in gate.run(*ask, code=2).stderr
    gate.run(*ask, "--by", "gate")
    site = ("verify", "cnn.bundle.tar", "--trust", "site.trust", "--state", "none")
    assert "missing" in gate.run(*site, code=1).stderr
    said = gate.run("promote", "cnn.bundle.tar", "--to", "staging", *PROMOTE, "--json")
    assert (said["promoted"], said["stage"], said["verdict"]["ok"]) == (True, "staging", True)
    assert "does not have the required members" in gate.run(*site, code=1).stderr
    gate.run(
        "promote", "cnn.bundle.tar", "--to", "production", *PROMOTE, "--verifier", "https://gate.example/production"
    )
    gate.run(*site)
    assert gate.run("verify", "cnn.bundle.tar", "--key", "release.pub", "--json")["digest"] == said["digest"]
    (summary,) = [item for item in summaries(gate) if item["verifier"]["id"].startswith("https:")]
    assert summary["verifiedLevels"] == ["PACKAGER_STAGE_PRODUCTION"]
    assert {row["uri"] for row in summary["inputAttestations"]} >= {slsa.PREDICATE, intoto.BUNDLE_PREDICATE}
    (tmp_path / "summary.json").write_bytes(dump(summary))
    python = environments.python_with("in-toto-attestation==0.9.3", "protobuf==6.33.0")
    assert environments.run(python, CHECK, tmp_path / "summary.json").split() == ["PASSED", "PACKAGER_STAGE_PRODUCTION"]


def test_nothing_that_is_unsigned_counts(gate: Project, built: Project) -> None:
    """The draft of the provenance lies in the builder's store; only what was signed and sent is seen."""
    bundles.make(Store(gate.store))
    gate.run("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "tiny.tar")
    refused = gate.run("promote", "tiny.tar", "--to", "staging", *PROMOTE, code=1)
    assert "fact `targets` is missing" in refused.stderr
    assert summaries(gate, "tiny.tar") == []
    assert "needs --trust" in gate.run("promote", "tiny.tar", "--to", "staging", "--key", "gate.pem", code=2).stderr
    assert "no name of a stage" in gate.run("promote", "tiny.tar", "--to", "Prod!", *PROMOTE, code=2).stderr


def test_a_good_statement_does_not_outvote_a_bad_one(gate: Project, built: Project) -> None:
    made = copy.deepcopy(read_drafts(open_bundle("cnn:1.2.3", lambda: Store(built.store)))[slsa.PREDICATE])
    (row,) = [item for item in made["runDetails"]["byproducts"] if item["name"] == slsa.FACTS]
    facts = json.loads(base64.b64decode(row["content"]))
    facts["nondeterministic"] = ["RandomNormalLike"]
    row.update(intoto.embed_resource(slsa.FACTS, dump(facts)))
    (gate.folder / "bad.json").write_bytes(dump(made))
    attest = ("attest", "cnn.bundle.tar", "--predicate", "bad.json", "--type", slsa.PREDICATE)
    gate.run(*attest, "--key", "release.pem")
    refused = gate.run("promote", "cnn.bundle.tar", "--to", "staging", *PROMOTE, code=1)
    assert "contradict each other" in refused.stderr
    assert summaries(gate) == []


def test_only_who_may_state_facts_states_them(gate: Project, built: Project) -> None:
    """Where the trust says who may make provenance, that of another trusted signer is no fact."""
    ask = ("trust", "add", "gate.trust", "--require", slsa.PREDICATE, "--by", "gate", "--root-key", "root.pem")
    gate.run(*ask)
    refused = gate.run("promote", "cnn.bundle.tar", "--to", "staging", *PROMOTE, "--state", "none", code=1)
    assert "not by an allowed signer" in refused.stderr
