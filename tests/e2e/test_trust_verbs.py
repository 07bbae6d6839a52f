# SPDX-License-Identifier: Apache-2.0
"""Every verb that lets a bundle in takes a trust file, and remembers what it saw."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import edit, file, keys
from tests.conftest import Run
from tests.support import bundles

SCAN = "https://scans.example/v1"


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """Two signed versions, an unsigned one, and a trust file that wants them signed by the release key."""
    root, release = keys.generate_key("p256"), keys.generate_key("p256")
    for name, key in (("root", root), ("release", release)):
        keys.save(key, tmp_path / f"{name}.pem", tmp_path / f"{name}.pub", None)
    made = Store(tmp_path / "made")
    for version, name in (("1.0.0", "one.tar"), ("1.1.0", "two.tar"), ("1.2.0", "unsigned.tar")):
        bundle = bundles.make(made, version=version)
        save(bundle if name == "unsigned.tar" else sign(bundle, release), tmp_path / name)
    content = edit.new_content("acme", [root.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    content = edit.with_signer(content, "release", {"key": release.public.pem.decode()})
    (tmp_path / "acme.trust").write_bytes(file.write(content, [root]).to_bytes())
    return tmp_path


TRUST = ("--trust", "acme.trust")


def test_unsigned_bundles_are_not_let_in(acme: Path, packager: Run) -> None:
    for verb in (("import", "unsigned.tar"), ("unpack", "unsigned.tar", "tree"), ("verify", "unsigned.tar")):
        assert "not signed" in packager(*verb, *TRUST, code=1).stderr
    assert not (acme / "tree").exists()
    packager("import", "one.tar", *TRUST)
    packager("unpack", "tiny:1.0.0", "tree", *TRUST)
    packager("verify", "tree", *TRUST)


def test_going_back_is_refused_by_every_verb(acme: Path, packager: Run) -> None:
    packager("import", "two.tar", *TRUST)
    for verb in (
        ("import", "one.tar"),
        ("unpack", "one.tar", "tree"),
        ("verify", "one.tar"),
        ("install", "one.tar", "site"),
    ):
        assert "older than what was seen" in packager(*verb, *TRUST, code=1).stderr
    packager("verify", "one.tar", *TRUST, "--state", "none")
    packager("verify", "one.tar", *TRUST, "--state", "another.json")
    packager("verify", "one.tar", "--key", "release.pub")
    verdict = json.loads(packager("verify", "one.tar", *TRUST, "--json", code=1).stdout)
    assert (verdict["ok"], verdict["refusal"]) == (False, "RolledBackError")


def test_an_old_trust_file_is_refused_once_a_newer_one_was_seen(acme: Path, packager: Run) -> None:
    (acme / "old.trust").write_bytes((acme / "acme.trust").read_bytes())
    packager("trust", "revoke", "acme.trust", "--key", "release.pub", "--root-key", "root.pem")
    packager("verify", "one.tar", "--trust", "old.trust")
    assert "was revoked" in packager("verify", "one.tar", *TRUST, code=1).stderr
    assert "not newer than the one seen" in packager("verify", "one.tar", "--trust", "old.trust", code=1).stderr


def test_required_statements_are_asked_for(acme: Path, packager: Run) -> None:
    packager("trust", "add", "acme.trust", "--require", SCAN, "--by", "release", "--root-key", "root.pem")
    assert SCAN in packager("verify", "one.tar", *TRUST, code=1).stderr
    (acme / "scan.json").write_text('{"findings": 0}')
    packager("attest", "one.tar", "--predicate", "scan.json", "--type", SCAN, "--key", "release.pem")
    packager("verify", "one.tar", *TRUST)
    (acme / "broken.json").write_text('{"a": 1, "a": 2}')
    packager("attest", "one.tar", "--predicate", "broken.json", "--type", SCAN, "--key", "release.pem", code=2)
    packager("attest", "one.tar", "--predicate", "scan.json", "--type", "no uri", "--key", "release.pem", code=2)
    packager(
        "attest",
        "one.tar",
        "--predicate",
        "scan.json",
        "--type",
        "urn:packager:bundle:v1",
        "--key",
        "release.pem",
        code=2,
    )


def test_the_same_key_twice_is_one_key(acme: Path, packager: Run) -> None:
    packager("verify", "one.tar", "--key", "release.pub", "--key", "release.pub")


def test_serving_verifies_first(acme: Path, packager: Run) -> None:
    """An installed release, as far as verifying goes; a change is detected before anything of it runs."""
    release = acme / "site/releases/1"
    packager("unpack", "one.tar", release / "bundle")
    (release / "serve.json").write_text("{}")
    (acme / "site/current").symlink_to("releases/1")
    packager("serve", "site", "--key", "root.pub", code=1)
    graph = release / "bundle/model/model.onnx"
    graph.write_bytes(b"grapH")
    assert "model.onnx" in packager("serve", "site", *TRUST, code=5).stderr
    graph.write_bytes(b"graph")
    done = packager("serve", "site", *TRUST, code=None)
    assert str(release / "env/bin/python") in done.stderr, "nothing is wrong with it but that nothing was installed"


def test_two_readings_give_one_verdict(acme: Path, packager: Run) -> None:
    assert (
        packager("verify", "one.tar", *TRUST, "--json").stdout == packager("verify", "one.tar", *TRUST, "--json").stdout
    )


HALVES = (
    ("--key", "release.pub", "--tsa-ca", "release.pub"),
    (),
    ("--trust", "acme.trust", "--key", "release.pub"),
    ("--ca", "release.pub"),
    ("--identity", "x"),
    ("--issuer", "https://x"),
    ("--ca", "x", "--issuer", "y", "--identity", "z"),
    ("--trust", "missing"),
    ("--ca", "release.pub", "--identity", "x"),
    ("--identity", "x", "--issuer", "y", "--trust-config", "release.pub"),
)


def test_half_a_trust_is_a_mistake_in_the_call(acme: Path, packager: Run) -> None:
    for options in HALVES:
        done = packager("verify", "one.tar", *options, code=2)
        assert "error:" in done.stderr
        assert "Traceback" not in done.stderr


def test_verify_asks_a_policy_last_and_remembers_only_what_it_allows(acme: Path, packager: Run) -> None:
    """What policy refused must not become the version below which everything is a rollback."""
    (acme / "small.yaml").write_text("rules:\n  - signature\n  - budget: {files: 100}\n")
    (acme / "strict.yaml").write_text("rules:\n  - budget: {files: 1}\n")
    refused = packager("verify", "two.tar", *TRUST, "--policy", "strict.yaml", "--json", code=1)
    said = json.loads(refused.stdout)
    assert (said["ok"], said["refusal"], said["policy"]["findings"][0]["rule"]) == (False, None, "budget")
    allowed = packager("verify", "one.tar", *TRUST, "--policy", "small.yaml")
    assert "verified tiny:1.0.0" in allowed.stdout
    assert (
        "refused by the policy: tiny:1.1.0"
        in packager("verify", "two.tar", *TRUST, "--policy", "strict.yaml", code=1).stdout
    )
    assert "signed" in packager("verify", "unsigned.tar", *TRUST, "--policy", "small.yaml", code=1).stderr
    assert "unknown" in packager("verify", "one.tar", *TRUST, "--policy", "smal", code=2).stderr
    packager("verify", "two.tar", *TRUST, "--policy", "small.yaml")
    assert "older" in packager("verify", "one.tar", *TRUST, "--policy", "small.yaml", code=1).stderr
