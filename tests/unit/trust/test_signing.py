# SPDX-License-Identifier: Apache-2.0
"""What `sign` does and says: fit certificates, passphrases, what a file carries, what is taken off again."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import pty
import select
import sys
from pathlib import Path

import pytest
from cryptography import x509

from packager import canonical
from packager.bundle.bundle import DRAFT, Bundle, open_bundle
from packager.errors import NegativeAnswerError, OutdatedError, UsageError
from packager.formats import slsa
from packager.release.sign import read_drafts, sign, with_drafts
from packager.store.store import Store
from packager.transport.copy import save, write_unpacked
from packager.trust import edit, file, keys, model
from packager.trust.verify import list_statements, require_signature, verify
from tests.conftest import Run
from tests.support import bundles, pki

FACTS = "urn:packager:facts:v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two key pairs, an unsigned bundle as a file and in a store, with what its build left there."""
    for name in ("release", "test"):
        keys.save(keys.generate_key("p256"), tmp_path / f"{name}.pem", tmp_path / f"{name}.pub", None)
    store = Store(tmp_path / "store")
    bundle = bundles.make(store)
    left = {kind: store.put(canonical.dump({"of": kind})).digest for kind in (slsa.PREDICATE, FACTS)}
    store.draft("tiny", "1.0.0", left)
    save(bundle, tmp_path / "plain.tar")
    return tmp_path


def signers(path: Path) -> list[str]:
    return sorted({claim for _, claim, _ in list_statements(opened(path))})


def kinds(path: Path) -> set[str]:
    return {kind for _, _, kind in list_statements(opened(path))}


def opened(path: Path) -> Bundle:
    return open_bundle(str(path), lambda: Store(path.parent / "store"))


def claim(folder: Path, name: str) -> str:
    return f"key {keys.load_public(folder / f'{name}.pub').fingerprint[:16]}"


# certificates


def holder(folder: Path, stem: str, **more: object) -> tuple[str, ...]:
    root = pki.root("root")
    leaf = root.issue("leaf", names=[x509.RFC822Name(pki.EMAIL)], **more)  # type: ignore[arg-type]
    key, certificate = leaf.save(folder, stem)
    return "--certificate", str(certificate), "--key", str(key)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"purposes": [pki.CODE_SIGNING], "start": pki.NOW - 9 * pki.DAY, "end": pki.NOW - pki.DAY}, "had expired"),
        (
            {"purposes": [pki.CODE_SIGNING], "start": pki.NOW + pki.DAY, "end": pki.NOW + 9 * pki.DAY},
            "was not yet valid",
        ),
        ({}, "for another purpose: expected 1.3.6.1.5.5.7.3.3, got none"),
        ({"purposes": [pki.SERVER]}, "for another purpose"),
        ({"purposes": [pki.CODE_SIGNING], "ca": True}, "is one of an authority"),
    ],
)
def test_unfit_certificate_does_not_sign(more: dict[str, object], words: str, folder: Path, packager: Run) -> None:
    for verb in (("sign", "tiny:1.0.0"), ("sign", "plain.tar", "-o", "signed.tar")):
        done = packager(*verb, *holder(folder, "leaf", **more), code=2)
        assert words in done.stderr
        assert "code signing" in done.stderr
    assert not (folder / "signed.tar").exists()
    assert not opened(folder / "plain.tar").referrers


def test_certificate_signs_with_its_purpose_only(folder: Path, packager: Run) -> None:
    packager("sign", "plain.tar", *holder(folder, "fit", purposes=[pki.CODE_SIGNING]), "-o", "signed.tar")
    assert signers(folder / "signed.tar") == [pki.EMAIL]
    _, certificate, _, key = holder(folder, "server", purposes=[pki.SERVER])
    uri = f"certificate:{certificate}?key={key}&purpose={pki.SERVER.dotted_string}"
    packager("sign", "plain.tar", "--signer", uri, "-o", "signed.tar")
    assert "no object identifier" in packager("sign", "plain.tar", "--signer", f"{uri}x", code=2).stderr


# passphrases


def test_a_wrong_passphrase_and_no_key_are_two_messages(folder: Path, packager: Run) -> None:
    (folder / "secret").write_text("right\n")
    packager("keygen", "locked", "--passphrase-file", "secret")
    wrong = packager("sign", "plain.tar", "--key", "locked.pem", code=2, PACKAGER_PASSPHRASE="wrong").stderr
    assert "the passphrase of key `locked.pem` is wrong" in wrong
    assert "is encrypted" in packager("sign", "plain.tar", "--key", "locked.pem", code=2).stderr
    for name, data in {"no": b"nothing", "half": (folder / "locked.pem").read_bytes()[:80]}.items():
        (folder / name).write_bytes(data)
        none = packager("sign", "plain.tar", "--key", name, code=2, PACKAGER_PASSPHRASE="right").stderr
        assert f"`{name}` is no private key" in none
        assert "passphrase" not in none.replace("PACKAGER_PASSPHRASE", "")
    packager("sign", "plain.tar", "--key", "locked.pem", PACKAGER_PASSPHRASE="right")
    packager("sign", "plain.tar", "--key", "test.pem", PACKAGER_PASSPHRASE="of another key")


def test_old_encrypted_forms_have_the_same_messages(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = keys.generate_key("p256").key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"right"),
    )
    (tmp_path / "old.pem").write_bytes(pem)
    assert keys.load_private(tmp_path / "old.pem", lambda: b"right")
    for given, words in ((b"wrong", "is wrong"), (None, "is encrypted")):
        with pytest.raises(UsageError, match=words):
            keys.load_private(tmp_path / "old.pem", lambda given=given: given)


def at_a_terminal(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """Run the command line at a terminal of its own, and type `answer` once it asks."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - the other process
        os.chdir(folder)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PACKAGER_STORE": str(folder / "store"),
            "NO_COLOR": "1",
        }
        os.execve(sys.executable, [sys.executable, "-m", "packager", *arguments], environment)
    said, typed = "", False
    while True:
        ready, _, _ = select.select([terminal], [], [], 120)
        try:
            data = os.read(terminal, 4096) if ready else b""
        except OSError:
            data = b""
        if not data:
            break
        said += data.decode(errors="replace")
        if "passphrase of" in said and not typed:
            os.write(terminal, f"{answer}\n".encode())
            typed = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def test_terminal_prompts_once(folder: Path, packager: Run) -> None:
    packager("keygen", "locked", PACKAGER_PASSPHRASE="right")
    code, said = at_a_terminal(folder, "right", "sign", "plain.tar", "--key", "locked.pem", "-o", "signed.tar")
    assert code == 0, said
    assert said.count("passphrase of `locked.pem`") == 1
    assert "right" not in said
    assert signers(folder / "signed.tar") == [claim(folder, "locked")]
    code, said = at_a_terminal(folder, "wr0ng", "sign", "plain.tar", "--key", "locked.pem")
    assert code == 2
    assert "the passphrase of key `locked.pem` is wrong" in said
    code, said = at_a_terminal(folder, "", "sign", "plain.tar", "--key", "test.pem", "-o", "other.tar")
    assert "passphrase of" not in said, "a key that needs none"
    assert code == 0, said
    code, said = at_a_terminal(
        folder, "right", "trust", "init", "acme.trust", "--name", "acme", "--root-key", "locked.pem"
    )
    assert code == 0, said


_LOCKED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIH0MF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBDDrf0yQFHOxZvkXk0W
iZx8AgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQYyaExgxP8oT0Iua5
GHrflQSBkCVE1keSi4JLp5Ved54wPGmbhIShdQeD5dvL8msuMH18M904OdvIb/2a
RpEh6jRRXPpF8bxURpD0/y8dWiuG7p4G+2vVcyHaC/6/vXhLidNH6Q6YEBlIKEIg
EDmhTzAfxAy0CZ9Cve67yqUlOaBaqCOXy/U3iZyOcJEt6S7CcaJkdk/u+95+beSQ
U70yxTU04Q==
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize("wrong", ["wrong-0", "wrong-566", "wrong-1789"])
def test_a_wrong_passphrase_that_decrypts_to_noise_is_a_wrong_passphrase(tmp_path: Path, wrong: str) -> None:
    """The last two decrypt this key to bytes with a valid end, as one passphrase of 256 does."""
    path = tmp_path / "locked.pem"
    path.write_text(_LOCKED)
    keys.load_private(path, lambda: b"right")
    with pytest.raises(UsageError, match=r"the passphrase of key `.*locked.pem` is wrong") as caught:
        keys.load_private(path, wrong.encode)
    assert ("damaged" in caught.value.message) is (wrong != "wrong-0")


# what a file carries


@pytest.mark.parametrize("form", ["file", "layout", "unpacked"])
def test_signing_a_copy_leaves_the_original_as_it_is(form: str, folder: Path, packager: Run) -> None:
    source = folder / {"file": "plain.tar", "layout": "lay", "unpacked": "tree"}[form]
    if form == "layout":
        save(opened(folder / "plain.tar"), source)
    elif form == "unpacked":
        source.mkdir()
        write_unpacked(opened(folder / "plain.tar"), source)
    before = opened(source).index()
    packager("sign", source.name, "--key", "release.pem", "-o", "signed.tar")
    assert opened(source).index() == before
    assert verify(opened(folder / "signed.tar"), [keys.load_public(folder / "release.pub")]).ok
    packager("sign", "signed.tar", "--key", "test.pem", "-o", "signed.tar")
    assert signers(folder / "signed.tar") == sorted([claim(folder, "release"), claim(folder, "test")])
    assert verify(opened(folder / "signed.tar"), [keys.load_public(folder / "test.pub")]).ok


def test_other_signatures_are_copied_with_a_note_or_not_at_all(folder: Path, packager: Run) -> None:
    packager("sign", "tiny:1.0.0", "--key", "test.pem")
    said = packager("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "both.tar").stderr
    assert f"`both.tar` also carries what `{claim(folder, 'test')}` signed; --alone leaves that out" in said
    assert len(signers(folder / "both.tar")) == 2
    packager("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "one.tar", "--alone")
    assert signers(folder / "one.tar") == [claim(folder, "release")]
    assert slsa.PREDICATE in kinds(folder / "one.tar")
    assert verify(opened(folder / "one.tar"), [keys.load_public(folder / "release.pub")]).ok
    assert "give -o OUT" in packager("sign", "tiny:1.0.0", "--key", "release.pem", "--alone", code=2).stderr


@pytest.mark.parametrize("place", ["tiny:1.0.0", "signed.tar", "lay", "tree"])
def test_a_signature_can_be_taken_off(place: str, folder: Path, packager: Run) -> None:
    for name in ("test", "release"):
        packager("sign", "tiny:1.0.0", "--key", f"{name}.pem", "-o", "signed.tar")
    if place == "lay":
        save(opened(folder / "signed.tar"), folder / "lay")
    elif place == "tree":
        (folder / "tree").mkdir()
        write_unpacked(opened(folder / "signed.tar"), folder / "tree")
    fingerprint = keys.load_public(folder / "test.pub").fingerprint
    assert "expected one signer" in packager("sign", place, "--remove", "nobody", code=2).stderr
    done = json.loads(packager("sign", place, "--remove", "test.pub", "--json").stdout)
    assert done["removed"] == 4
    packager("export", place, "out.tar")
    assert signers(folder / "out.tar") == [claim(folder, "release")]
    assert fingerprint.encode() not in (folder / "out.tar").read_bytes()
    assert verify(opened(folder / "out.tar"), [keys.load_public(folder / "release.pub")]).ok
    packager("sign", place, "--remove", keys.load_public(folder / "release.pub").fingerprint[:8])
    assert "not signed" in packager("verify", place, "--key", "release.pub", code=1).stderr
    assert "signs nothing" in packager("sign", place, "--remove", "x", "--key", "test.pem", code=2).stderr


# build and sign as two jobs


def test_unsigned_predicates_are_copied_to_the_signer(folder: Path, packager: Run) -> None:
    packager("export", "tiny:1.0.0", "job.tar", "--to-sign")
    assert "not signed" in packager("verify", "job.tar", "--key", "release.pub", code=1).stderr
    other = {"PACKAGER_STORE": str(folder / "elsewhere")}
    said = packager("sign", "job.tar", "--key", "release.pem", "-o", "signed.tar", **other).stderr
    assert f"signing what its build left as well: {slsa.PREDICATE}, {FACTS}" in said or FACTS in said
    packager("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "here.tar")
    assert kinds(folder / "signed.tar") == kinds(folder / "here.tar") >= {slsa.PREDICATE, FACTS}
    assert not [r for r in opened(folder / "signed.tar").referrers if r.artifact_type == DRAFT]
    assert (folder / "signed.tar").read_bytes() == (folder / "here.tar").read_bytes()
    assert "is left to be signed" in packager("export", "plain.tar", "x.tar", "--to-sign", code=2).stderr


def test_sign_says_what_is_missing(folder: Path, packager: Run) -> None:
    said = packager("sign", "plain.tar", "--key", "release.pem", "-o", "signed.tar").stderr
    assert "only the bundle is signed" in said
    assert "--to-sign" in said
    assert "only the bundle is signed" not in packager("sign", "tiny:1.0.0", "--key", "release.pem").stderr


def test_foreign_provenance_is_not_signed_as_ours(folder: Path, packager: Run) -> None:
    """An untrusted file may contain unsigned predicates; neither the store nor a registry takes them over."""
    packager("export", "tiny:1.0.0", "job.tar", "--to-sign")
    other = Store(folder / "elsewhere")
    packager("import", "job.tar", PACKAGER_STORE=str(folder / "elsewhere"))
    (digest,) = other.quarantined()
    stranger = open_bundle(digest, lambda: other)
    assert stranger.drafts()
    assert read_drafts(stranger) == {}
    with pytest.raises(UsageError, match="is left to be signed"):
        with_drafts(stranger)
    assert {kind for _, _, kind in list_statements(sign(stranger, keys.generate_key("p256")))}.isdisjoint(
        {slsa.PREDICATE, FACTS}
    )


# several keys of one name


def content(*entries: tuple[keys.PrivateKey, dict[str, str]], require: bool = False) -> model.Trust:
    made = edit.new_content("acme", [keys.generate_key("p256").public], 1, pki.NOW + 99 * pki.DAY)
    for key, times in entries:
        made = edit.with_signer(made, "release", {"key": key.public.pem.decode(), **times})
    if require:
        made = edit.with_requirement(made, {"predicateType": slsa.PREDICATE, "signers": ["release"]})
    return model.parse(canonical.dump(made))


def moment(days: int) -> str:
    return edit.format_time(pki.NOW + days * pki.DAY)


def test_one_name_may_have_several_keys_each_with_its_time(folder: Path) -> None:
    old, new = keys.generate_key("p256"), keys.generate_key("p384")
    found = content((old, {"until": moment(1)}), (new, {"from": moment(-1)}), require=True)
    bundle = open_bundle("tiny:1.0.0", lambda: Store(folder / "store"))
    for key in (old, new):
        require_signature(sign(bundle, key), found, now=pki.NOW)
    require_signature(sign(bundle, new), found, now=pki.NOW + 9 * pki.DAY)
    with pytest.raises(OutdatedError, match="`release` is not trusted at"):
        require_signature(sign(bundle, old), found, now=pki.NOW + 9 * pki.DAY)


def test_one_key_may_count_in_two_spans(folder: Path) -> None:
    key = keys.generate_key("p256")
    found = content((key, {"until": moment(-5)}), (key, {"from": moment(-1), "until": moment(1)}))
    bundle = sign(open_bundle("tiny:1.0.0", lambda: Store(folder / "store")), key)
    for days, ok in ((-9, True), (-3, False), (0, True), (5, False)):
        with contextlib.nullcontext() if ok else pytest.raises(OutdatedError):
            require_signature(bundle, found, now=pki.NOW + days * pki.DAY)


def test_keys_of_a_name_on_the_command_line(folder: Path, packager: Run) -> None:
    packager("keygen", "root")
    root = ("--root-key", "root.pem")
    packager("trust", "init", "acme.trust", "--name", "acme", *root)
    packager(
        "trust",
        "add",
        "acme.trust",
        "--signer",
        "release",
        "--key",
        "test.pub",
        "--until",
        "2031-01-31T00:00:00Z",
        *root,
    )
    packager("trust", "add", "acme.trust", "--signer", "release", "--key", "release.pub", *root)
    assert (
        "is there already"
        in packager("trust", "add", "acme.trust", "--signer", "release", "--key", "release.pub", *root, code=2).stderr
    )
    shown = packager("trust", "show", "acme.trust").stdout
    assert shown.count("signer     release: key") == 2
    for name in ("test", "release"):
        packager("sign", "plain.tar", "--key", f"{name}.pem", "-o", f"{name}.tar")
        packager("verify", f"{name}.tar", "--trust", "acme.trust", "--state", "none")
    packager("trust", "remove", "acme.trust", "--signer", "release", "--key", "test.pub", *root)
    packager("verify", "release.tar", "--trust", "acme.trust", "--state", "none")
    packager("verify", "test.tar", "--trust", "acme.trust", "--state", "none", code=1)
    assert (
        "no such key"
        in packager("trust", "remove", "acme.trust", "--signer", "release", "--key", "root.pub", *root, code=2).stderr
    )
    value = file.parse((folder / "acme.trust").read_bytes(), "x").content["signers"]["release"]
    assert isinstance(value, dict), "a single one stands by itself again"


def test_an_empty_list_of_keys_is_refused() -> None:
    made = edit.new_content("acme", [keys.generate_key("p256").public], 1, dt.datetime.now(dt.UTC))
    for value in ([], [[]], ["x"]):
        with pytest.raises((ValueError, NegativeAnswerError)):
            model.parse(canonical.dump({**made, "signers": {"release": value}}))
