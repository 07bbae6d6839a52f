# SPDX-License-Identifier: Apache-2.0
"""Trust files, their succession, and what a verifier remembers."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from packager import canonical, semver
from packager.errors import MalformedError, RolledBackError, TrustFileError, UsageError
from packager.trust import edit, keys, model, seen
from packager.trust import file as trustfile
from packager.trust.seen import NOTHING, Seen
from tests.conftest import Run
from tests.support import pki

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
ROOT, SECOND, RELEASE = (keys.generate_key(curve) for curve in ("p256", "p384", "p256"))
SCHEMA = json.loads(model.build_schema())


def full() -> dict[str, Any]:
    """A trust file with everything in it."""
    ca = pki.root()
    return {
        "format": 1,
        "name": "acme",
        "serial": 7,
        "expires": "2028-01-01T00:00:00Z",
        "roots": {"keys": [ROOT.public.pem.decode(), SECOND.public.pem.decode()], "threshold": 2},
        "signers": {
            "release": {
                "key": RELEASE.public.pem.decode(),
                "from": "2026-01-01T00:00:00Z",
                "until": "2027-06-01T00:00:00Z",
            },
            "corp": {"ca": [ca.pem.decode()], "identity": pki.EMAIL, "purpose": "1.3.6.1.5.5.7.3.3"},
            "ci": {"identity": "ci@local.test", "issuer": "https://issuer.example", "instance": "private"},
            "public": {"identity": "a@b.example", "issuer": "https://issuer.example"},
        },
        "timestamping": [ca.pem.decode()],
        "instances": {"private": {"mediaType": "x"}},
        "require": [
            {"predicateType": "https://slsa.dev/provenance/v1", "signers": ["ci"], "maximumAgeDays": 90},
            {
                "predicateType": "https://slsa.dev/verification_summary/v1",
                "predicate": {"verificationResult": "PASSED"},
            },
        ],
        "minimum": {"digits": "1.2.0"},
        "revoked": {
            "keys": ["0" * 64],
            "identities": ["old@corp.example"],
            "certificates": ["1f"],
            "bundles": ["sha256:" + "0" * 64],
            "versions": {"digits": ">=1.0.0,<1.2.3"},
        },
    }


def test_the_schema_and_the_parser_accept_the_same() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for content in (full(), edit.new_content("acme", [ROOT.public], 1, NOW)):
        jsonschema.validate(content, SCHEMA)
        assert model.parse(canonical.dump(content)).name == "acme"


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown field": lambda c: c.update(extra=1),
    "unknown format": lambda c: c.update(format=2),
    "serial zero": lambda c: c.update(serial=0),
    "serial that is text": lambda c: c.update(serial="7"),
    "no expiry": lambda c: c.pop("expires"),
    "expiry in local time": lambda c: c.update(expires="2028-01-01T00:00:00"),
    "no roots": lambda c: c.pop("roots"),
    "empty roots": lambda c: c["roots"].update(keys=[]),
    "threshold zero": lambda c: c["roots"].update(threshold=0),
    "signer of two kinds": lambda c: c["signers"]["release"].update(issuer="https://issuer.example"),
    "signer of no kind": lambda c: c["signers"].update(nobody={}),
    "identity without issuer": lambda c: c["signers"]["public"].pop("issuer"),
    "authority without identity": lambda c: c["signers"]["corp"].pop("identity"),
    "upper-case name": lambda c: c["signers"].update(Release=c["signers"]["release"]),
    "digest without algorithm": lambda c: c["revoked"].update(bundles=["0" * 64]),
    "serial number with a prefix": lambda c: c["revoked"].update(certificates=["0x1f"]),
    "unknown kind of revocation": lambda c: c["revoked"].update(people=["x"]),
    "age below a day": lambda c: c["require"][0].update(maximumAgeDays=0),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_the_parser_refuses_the_schema_refuses_too(name: str) -> None:
    content = full()
    SPOILT[name](content)
    with pytest.raises(ValueError):
        model.parse(canonical.dump(content))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)


BEYOND: dict[str, Callable[[dict[str, Any]], object]] = {
    "threshold above the keys": lambda c: c["roots"].update(threshold=3),
    "the same root twice": lambda c: c["roots"].update(keys=c["roots"]["keys"][:1] * 2),
    "not a key": lambda c: c["signers"]["release"].update(
        key="-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    ),
    "not a certificate": lambda c: c["signers"]["corp"].update(ca=["x"]),
    "unknown instance": lambda c: c["signers"]["ci"].update(instance="other"),
    "requirement by an unknown signer": lambda c: c["require"][0].update(signers=["nobody"]),
    "not a range": lambda c: c["revoked"].update(versions={"digits": "1.x"}),
    "not a version": lambda c: c.update(minimum={"digits": "1.2"}),
    "not a day": lambda c: c.update(expires="2028-02-30T00:00:00Z"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_only_the_parser_can_refuse(name: str) -> None:
    content = full()
    BEYOND[name](content)
    with pytest.raises(ValueError):
        model.parse(canonical.dump(content))


def test_a_bundle_statement_is_always_required() -> None:
    assert model.parse(canonical.dump(full())).required[0].predicate_type == "urn:packager:bundle:v1"


def test_an_independent_reader_of_envelopes_accepts_it() -> None:
    """securesystemslib checks the threshold over the same bytes; it takes P-256 keys under its own key ids."""
    content = edit.new_content("acme", [ROOT.public], 1, NOW + pki.DAY)
    file = trustfile.write(content, [ROOT])
    value = json.loads(file.to_bytes())
    fingerprint = ROOT.public.fingerprint
    theirs = SSlibKey(fingerprint, "ecdsa", "ecdsa-sha2-nistp256", {"public": ROOT.public.pem.decode()})
    envelope = Envelope.from_dict(value)
    assert list(envelope.verify([theirs], 1)) == [fingerprint]
    assert trustfile.parse(file.to_bytes(), "f") == file


def succession(
    serial: int, roots: list[keys.PrivateKey], threshold: int, signers: list[keys.PrivateKey]
) -> trustfile.TrustFile:
    content = edit.new_content("acme", [key.public for key in roots], threshold, NOW + pki.DAY)
    return trustfile.write({**content, "serial": serial}, signers)


def test_roots_rotate_with_the_signatures_of_both_sides() -> None:
    before = trustfile.remember(succession(1, [ROOT], 1, [ROOT]))
    for signers in ([ROOT], [SECOND]):
        with pytest.raises(TrustFileError):
            trustfile.accept(succession(2, [SECOND], 1, signers), before, NOW)
    half = succession(2, [SECOND], 1, [SECOND])
    trustfile.accept(trustfile.add_signatures(half, [ROOT]), before, NOW)
    after = trustfile.remember(half)
    with pytest.raises(TrustFileError):
        trustfile.accept(succession(3, [ROOT], 1, [ROOT]), after, NOW)
    trustfile.accept(succession(3, [SECOND], 1, [SECOND]), after, NOW)


def test_one_key_twice_does_not_reach_a_threshold_of_two() -> None:
    file = succession(1, [ROOT, SECOND], 2, [ROOT, ROOT])
    with pytest.raises(TrustFileError, match="expected 2, got 1"):
        trustfile.accept(file, None, NOW)
    trustfile.accept(trustfile.add_signatures(file, [SECOND]), None, NOW)


def test_the_same_file_again_is_fine() -> None:
    file = succession(1, [ROOT], 1, [ROOT])
    assert trustfile.accept(file, trustfile.remember(file), NOW) == file.trust


def test_editing_never_empties_a_requirement() -> None:
    content = edit.next_serial(full(), NOW, None)
    assert content["serial"] == 8
    with pytest.raises(UsageError, match="is the only allowed signer"):
        edit.without_signer(content, "ci")
    before = copy.deepcopy(content)
    left = edit.without_signer(content, "release")
    assert "release" not in left["signers"]
    assert content == before, "editing returns a new value"


# versions

ORDERED = [
    "0.0.1",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0",
]


def test_versions_sort_as_semver_says() -> None:
    assert sorted(sorted(ORDERED), key=semver.precedence_key) == ORDERED
    assert semver.precedence_key("1.0.0+a") == semver.precedence_key("1.0.0+b")


@pytest.mark.parametrize(
    ("version", "text", "inside"),
    [
        ("1.2.0", ">=1.0.0,<1.2.3", True),
        ("1.2.3", ">=1.0.0,<1.2.3", False),
        ("1.2.3-rc.1", "<1.2.3", True),
        ("1.0.0", "==1.0.0", True),
        ("1.0.0", ">1.0.0", False),
    ],
)
def test_ranges(version: str, text: str, inside: bool) -> None:
    assert semver.in_range(version, text) is inside


# memory

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@given(st.lists(st.sampled_from(ORDERED), min_size=1))
def test_memory_only_rises(versions: list[str]) -> None:
    memory = NOTHING
    for version in versions:
        memory = memory.with_bundle("b", version, D1)
    assert memory.bundles["b"][0] == max(versions, key=semver.precedence_key)


def test_memory_survives_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "seen.json"
    file = trustfile.remember(succession(3, [ROOT], 1, [ROOT]))
    seen.remember(path, "acme", Seen(file, {"b": ("1.1.0", D1)}))
    seen.remember(
        path,
        "acme",
        Seen(trustfile.remember(succession(2, [ROOT], 1, [ROOT])), {"b": ("1.0.0", D2), "c": ("1.0.0", D2)}),
    )
    seen.remember(path, "other", NOTHING.with_bundle("b", "0.1.0", D2))
    memory = seen.load(path, "acme")
    assert memory.bundles == {"b": ("1.1.0", D1), "c": ("1.0.0", D2)}
    assert memory.file is not None
    assert memory.file.serial == 3
    assert seen.load(path, "other").bundles == {"b": ("0.1.0", D2)}, (
        "one organisation's versions say nothing of another's"
    )
    with pytest.raises(RolledBackError):
        memory.check("b", "1.0.0", D2)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"{",
        b'{"format":2,"trusts":{}}',
        b'{"format":1,"trusts":{"a":1}}',
        b'{"format":1,"trusts":{"a":{"file":null,"bundles":{"b":["x","y"]}}}}',
    ],
)
def test_damaged_state_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "seen.json").write_bytes(damage)
    with pytest.raises(MalformedError, match="damaged"):
        seen.load(tmp_path / "seen.json", "acme")
    with pytest.raises(MalformedError):
        seen.remember(tmp_path / "seen.json", "acme", NOTHING.with_bundle("b", "1.0.0", D1))
    assert (tmp_path / "seen.json").read_bytes() == damage


WRITER = """
import sys
from pathlib import Path
from packager.trust import seen
for number in range(1, 100000):
    seen.remember(Path(sys.argv[1]), "acme", seen.NOTHING.with_bundle("b", f"1.{number}.0", "sha256:" + "1" * 64))
    print(number, flush=True)
"""


def test_memory_survives_a_kill_at_any_time(tmp_path: Path) -> None:
    """Killed in the middle of writing, again and again: it is always readable and never forgets what was reported."""
    path = tmp_path / "seen.json"
    for pause in (1, 3, 7, 12, 20):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        reply = 0
        for _ in range(pause):
            reply = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        version, _ = seen.load(path, "acme").bundles["b"]
        assert semver.precedence_key(version) >= semver.precedence_key(f"1.{reply}.0")


# the verb


def test_a_trust_file_is_kept_on_the_command_line(tmp_path: Path, packager: Run) -> None:
    for name in ("root", "second", "release", "old"):
        packager("keygen", name)
    pki.root().save(tmp_path, "ca")
    packager("trust", "init", "t", "--name", "acme", "--root-key", "root.pem", "--days", "90")
    packager("trust", "init", "t", "--name", "acme", "--root-key", "root.pem", code=2)
    sign = ("--root-key", "root.pem")
    packager(
        "trust", "add", "t", "--signer", "release", "--key", "release.pub", "--until", "2030-01-01T00:00:00Z", *sign
    )
    packager(
        "trust",
        "add",
        "t",
        "--signer",
        "corp",
        "--ca",
        "ca.pem",
        "--identity",
        "a@b.example",
        "--tsa-ca",
        "ca.pem",
        *sign,
    )
    packager("trust", "add", "t", "--signer", "ci", "--identity", "ci@x", "--issuer", "https://issuer.example", *sign)
    packager("trust", "add", "t", "--require", "https://scans.example/v1", "--by", "ci", "--max-age", "30", *sign)
    packager("trust", "add", "t", "--minimum", "digits:1.2.0", *sign)
    packager(
        "trust",
        "revoke",
        "t",
        "--key",
        "old.pub",
        "--identity",
        "x@y",
        "--certificate",
        "00AB",
        "--versions",
        "digits:<1.2.1",
        *sign,
    )
    content = json.loads(packager("trust", "show", "t", "--json").stdout)["content"]
    jsonschema.validate(content, SCHEMA)
    assert content["serial"] == 7
    assert content["revoked"]["certificates"] == ["ab"]
    assert content["require"] == [
        {"predicateType": "https://scans.example/v1", "signers": ["ci"], "maximumAgeDays": 30}
    ]
    packager("trust", "remove", "t", "--signer", "release", *sign)
    assert "did you mean `corp`" in packager("trust", "remove", "t", "--signer", "cord", *sign, code=2).stderr
    packager("trust", "add", "t", *sign, code=2)
    packager("trust", "add", "t", "--minimum", "digits:1.2", *sign, code=2)


def test_modified_file_stays_invalid_after_the_next_change(tmp_path: Path, packager: Run) -> None:
    """Whoever signs a change signs all of the file, so the file must have been sound before."""
    for name in ("root", "evil"):
        packager("keygen", name)
    packager("trust", "init", "t", "--name", "acme", "--root-key", "root.pem")
    file = trustfile.parse((tmp_path / "t").read_bytes(), "t")
    entry = {"key": keys.load_public(tmp_path / "evil.pub").pem.decode()}
    content = edit.with_signer(file.content, "helper", entry)
    (tmp_path / "t").write_bytes(trustfile.TrustFile(file.trust, canonical.dump(content), file.signatures).to_bytes())
    done = packager("trust", "add", "t", "--minimum", "digits:1.0.0", "--root-key", "root.pem", code=1)
    assert "its own root keys" in done.stderr
    packager("trust", "init", "evil.trust", "--name", "acme", "--root-key", "evil.pem")
    done = packager("trust", "add", "evil.trust", "--minimum", "digits:1.0.0", "--root-key", "root.pem", code=1)
    assert "none of the given keys is a root key" in done.stderr


def test_roots_rotate_on_the_command_line(tmp_path: Path, packager: Run) -> None:
    """The second holder signs elsewhere; the customer takes the step only when both have."""
    for name in ("root", "second"):
        packager("keygen", name)
    packager("trust", "init", "t", "--name", "acme", "--root-key", "root.pem")
    packager("trust", "update", "installed", "t")
    packager("trust", "add", "t", "--root", "second.pub", "--threshold", "2", "--root-key", "root.pem")
    done = packager("trust", "update", "installed", "t", code=1)
    assert "expected 2, got 1" in done.stderr
    packager("trust", "sign", "t", "--root-key", "second.pem")
    packager("trust", "update", "installed", "t")
    assert (tmp_path / "installed").read_bytes() == (tmp_path / "t").read_bytes()
    packager("trust", "init", "evil", "--name", "acme", "--root-key", "second.pem")
    assert "not newer" in packager("trust", "update", "installed", "evil", code=1).stderr
