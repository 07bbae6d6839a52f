# SPDX-License-Identifier: Apache-2.0
"""A profile judges a build, and later the bundle with what trusted signers say about it, through the command line."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import jsonschema

from packager import canonical
from tests.e2e.conftest import CNN_RECIPE, Project

PROVENANCE = "https://slsa.dev/provenance/v1"
SLSA = {
    "buildDefinition": {"buildType": "urn:test", "resolvedDependencies": [{"uri": "file:model"}]},
    "runDetails": {"builder": {"id": "https://ci.example/builder"}},
}
TOKEN = "ghp_" + "a1B2" * 9


def copy_of(built: Project, tmp_path: Path) -> Project:
    shutil.copytree(built.folder, tmp_path / "project")
    shutil.copytree(built.store, tmp_path / "store", symlinks=True)
    made = Project(tmp_path / "project", tmp_path / "store")
    made.run("sign", "cnn:1.2.3", "--key", "release.pem")  # a test before may have built other bytes of this version
    return made


def test_the_release_profile_is_met_once_everything_is_attested(built: Project, tmp_path: Path) -> None:
    made = copy_of(built, tmp_path)
    verdict = made.run("build", "--locked", "--facts", "facts.json", "--json")["verdict"]
    assert verdict["deferred"] == ["signature", "provenance", "conformance", "vulnerabilities"]
    check = ("policy", "check", "cnn:1.2.3", "--profile", "release", "--json")
    untrusted = {finding["rule"] for finding in made.run(*check, code=1)["findings"]}
    assert {"parity", "signature", "provenance"} <= untrusted
    (made.folder / "slsa.json").write_text(json.dumps(SLSA))
    for kind, file in (("urn:packager:facts:v1", "facts.json"), (PROVENANCE, "slsa.json")):
        made.run("attest", "cnn:1.2.3", "--predicate", file, "--type", kind, "--key", "release.pem")
    answer = made.run(*check, "--key", "release.pub", "--facts", "judged.json")
    assert answer["ok"]
    warned = {finding["rule"]: finding["level"] for finding in answer["findings"]}
    assert warned == {"conformance": "warning", "vulnerabilities": "warning"}
    schema = made.run("schema", "facts", "--json")
    judged = json.loads((made.folder / "judged.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(judged)
    for form, first in (("table", "ok "), ("sarif", "{"), ("junit", "<?xml"), ("json", "{")):
        assert made.run(*check[:-1], "--key", "release.pub", "--format", form).stdout.startswith(first)
    made.run("keygen", "stranger")
    assert made.run(*check, "--key", "stranger.pub", code=1)["error"]["code"] == 1


def test_statements_of_strangers_are_no_facts(built: Project, tmp_path: Path) -> None:
    made = copy_of(built, tmp_path)
    made.run("keygen", "stranger")
    (made.folder / "tests.json").write_text(json.dumps({"result": "PASSED"}))
    kind = "https://in-toto.io/attestation/test-result/v0.1"
    made.run("attest", "cnn:1.2.3", "--predicate", "tests.json", "--type", kind, "--key", "stranger.pem")
    (made.folder / "p.yaml").write_text("rules: [signature, conformance]\n")
    check = ("policy", "check", "cnn:1.2.3", "--profile", "p.yaml", "--json", "--key", "release.pub")
    assert [finding["rule"] for finding in made.run(*check, code=1)["findings"]] == ["conformance"]


def test_a_credential_in_the_model_card_ends_the_build(built: Project, tmp_path: Path) -> None:
    made = copy_of(built, tmp_path)
    made.write(CNN_RECIPE.replace("name: cnn", "name: leaky") + "card: card.md\n")
    (made.folder / "card.md").write_text(f"# Card\n\nfetch it with {TOKEN}\n")
    refused = made.run("build", "--json", code=1)
    (finding,) = refused["findings"]
    assert (finding["rule"], finding["subject"]) == ("secrets", "MODEL_CARD.md:3")
    assert TOKEN not in canonical.dump(refused).decode()
    assert made.run("inspect", "leaky:1.2.3", code=None).returncode != 0


def test_rules_are_listed_explained_and_tested(built: Project) -> None:
    assert len(built.run("policy", "list", "--json")["rules"]) >= 20
    assert "newest signature" in built.run("policy", "explain", "expiry").stdout
    assert "did you mean" in built.run("policy", "explain", "expirey", code=2).stderr
    fixtures = Path(__file__).parents[1] / "policies"
    assert built.run("policy", "test", fixtures, "--json")["ok"]
    (built.folder / "t.yaml").write_text(
        "rule: deterministic\ncases:\n  - {name: n, facts: {nondeterministic: []}, finds: [x]}\n"
    )
    assert "0 passed, 1 failed" in built.run("policy", "test", "t.yaml", code=1).stdout


def test_a_vulnerable_package_is_found_and_explained_by_a_signer(built: Project, tmp_path: Path) -> None:
    made = copy_of(built, tmp_path)
    made.extra["PACKAGER_ADVISORIES"] = str(tmp_path / "advisories")
    made.run("vulndb", "show", code=2)
    today = datetime.datetime.now(datetime.UTC)
    affected = {
        "package": {"ecosystem": "PyPI", "name": "onnxruntime"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
    }
    advisory = {"id": "TEST-1", "modified": f"{today:%Y-%m-%dT%H:%M:%SZ}", "affected": [affected]}
    (made.folder / "one.json").write_text(json.dumps(advisory))
    assert made.run("vulndb", "import", "one.json", "--json")["advisories"] == 1
    (hit,) = made.run("vulndb", "check", "cnn:1.2.3", "-o", "vulnerabilities.json", "--json")["found"]
    assert hit["id"] == "TEST-1"
    (made.folder / "p.yaml").write_text("rules: [vulnerabilities]\n")
    check = ("policy", "check", "cnn:1.2.3", "--profile", "p.yaml", "--json", "--key", "release.pub")
    (finding,) = made.run(*check, code=1)["findings"]
    assert finding["subject"] == f"onnxruntime=={hit['version']}/TEST-1"
    product = {"@id": f"pkg:pypi/onnxruntime@{hit['version']}"}
    claim = {
        "vulnerability": {"name": "TEST-1"},
        "products": [product],
        "status": "not_affected",
        "justification": "component_not_present",
    }
    (made.folder / "vex.json").write_text(json.dumps({"statements": [claim]}))
    vex = ("attest", "cnn:1.2.3", "--predicate", "vex.json", "--type", "https://openvex.dev/ns/v0.2.0")
    made.run("keygen", "stranger")
    made.run(*vex, "--key", "stranger.pem")
    assert not made.run(*check, code=1)["ok"]
    made.run(*vex, "--key", "release.pem")
    assert made.run(*check)["ok"]
