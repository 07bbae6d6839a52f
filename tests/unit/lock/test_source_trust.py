# SPDX-License-Identifier: Apache-2.0
"""A source's publisher signed it, in one of the ways publishers sign, or the source is not locked."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from packager import canonical, sources
from packager.cli import main
from packager.errors import (
    BadSignatureError,
    IntegrityError,
    MalformedError,
    PackagerError,
    UnfitCertificateError,
    UnsignedError,
    UntrustedSignerError,
    UsageError,
    WrongContentError,
    WrongSubjectError,
)
from packager.formats import intoto
from packager.lock import source_trust
from packager.recipe import recipe
from packager.recipe.clauses import SourceTrust
from packager.release.sign import sign
from packager.sources import Settings, blob_of
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from packager.trust.signers import Signer, keyless
from packager.trust.signers.certificate import CertificateHolder
from packager.trust.verify import list_statements
from packager.types import Tree
from tests.sigstore import Sigstore
from tests.support import bundles, environments, pki

STRANGERS = Path(__file__).parents[2] / "data" / "strangers"
KEY, OTHER = keys.generate_key("p256"), keys.generate_key("p384")
ROOT = pki.root()
MIDDLE = ROOT.issue("Middle", ca=True)
LEAF = MIDDLE.signer()
EXPIRED = MIDDLE.signer(start=pki.NOW - 90 * pki.DAY, end=pki.NOW - 30 * pki.DAY)
WHO = "ci@publisher.example"
FILES = {"model.onnx": b"graph", "weights/a.bin": bytes(1000), "weights/b.bin": bytes(999), "config.json": b"{}"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sigstore]:
    with Sigstore(tmp_path_factory.mktemp("sigstore")) as made:
        yield made


@dataclass
class Publisher:
    """A publisher's signer, and what a recipe says to trust it."""

    signer: Signer
    trust: dict[str, str]
    name: str


@pytest.fixture(params=["key", "certificate", "identity"])
def publisher(request: pytest.FixtureRequest, instance: Sigstore, tmp_path: Path) -> Publisher:
    return publisher_of(request.param, instance, tmp_path)


def publisher_of(kind: str, instance: Sigstore, folder: Path) -> Publisher:
    (folder / "publisher.pub").write_bytes(KEY.public.pem)
    (folder / "root.pem").write_bytes(ROOT.pem)
    (folder / "trust_config.json").write_bytes(instance.trust_config.read_bytes())
    if kind == "key":
        return Publisher(KEY, {"key": "publisher.pub"}, KEY.public.fingerprint)
    if kind == "certificate":
        return Publisher(holder(LEAF), {"ca": "root.pem", "identity": pki.EMAIL}, pki.EMAIL)
    token = instance.token(WHO).encode()
    trust = {"identity": WHO, "issuer": instance.url, "trust-config": "trust_config.json"}
    return Publisher(keyless.open_signer(str(instance.trust_config), lambda: token), trust, WHO)


def holder(leaf: pki.Holder) -> CertificateHolder:
    return CertificateHolder(keys.PrivateKey(leaf.key), (leaf.certificate, MIDDLE.certificate), None)


def write(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / name).write_bytes(data)
    return folder / "model"


def signature(folder: Path, signer: Signer, change: Callable[[Any], object] = lambda statement: None) -> bytes:
    """Return a signature over the files of `folder`, its statement changed before it is signed."""
    tree = Tree.of({p.relative_to(folder).as_posix(): blob_of(p) for p in sorted(folder.rglob("*")) if p.is_file()})
    statement = json.loads(intoto.model_signing_statement("model", "1", tree).to_bytes())
    change(statement)
    return signer.sign(canonical.dump(statement)).to_bytes(chain=True)


def checked(folder: Path, ref: str, trust: Mapping[str, str]) -> dict[str, Any]:
    """Do what locking does with the signature of a source."""
    settings = Settings(folder, ref)
    source = sources.load_for(ref)
    pin = source.resolve(ref, settings)
    (folder / "out").mkdir(exist_ok=True)
    source.fetch(pin, settings, folder / "out", lambda event: None)
    out = folder / "out"
    tree = Tree.of({p.relative_to(out).as_posix(): blob_of(p) for p in sorted(out.rglob("*")) if p.is_file()})
    wanted = SourceTrust(**{name.replace("-", "_"): value for name, value in trust.items()})
    return source_trust.check(wanted, pin, tree, lambda name: (out / name).read_bytes(), settings, datetime.now(UTC))


# files, signed in OpenSSF Model Signing's format


@pytest.mark.parametrize("inside", [True, False])
def test_signed_files_are_locked_with_their_signer(publisher: Publisher, tmp_path: Path, inside: bool) -> None:
    root = write(tmp_path)
    data = signature(root, publisher.signer)
    (root / "model.sig" if inside else tmp_path / "model.sig").write_bytes(data)
    (root / ".git").mkdir()
    (root / ".git/config").write_bytes(b"not signed, and not part of a source")
    (root / ".gitattributes").write_bytes(b"not signed either")
    found = checked(tmp_path, "model", publisher.trust)
    assert found["form"] == "openssf-model-signing"
    assert found["signer"] == publisher.name
    assert found["statement"] == canonical.sha256(data)


def _payload(data: bytes, change: Callable[[Any], object]) -> bytes:
    """Change the signed statement without signing it again."""
    document = json.loads(data)
    statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    change(statement)
    document["dsseEnvelope"]["payload"] = base64.b64encode(canonical.dump(statement)).decode()
    return json.dumps(document).encode()


def _first(statement: Any) -> Any:
    return statement["predicate"]["resources"][0]


Tamper = tuple[type[PackagerError], Callable[[Path, Publisher], object]]
SIG = "model.sig"


def resigned(change: Callable[[Any], object]) -> Callable[[Path, Publisher], object]:
    """The publisher itself signs a statement of another form."""

    def tamper(root: Path, who: Publisher) -> None:
        (root / SIG).unlink()
        (root / SIG).write_bytes(signature(root, who.signer, change))

    return tamper


def bent(change: Callable[[Any], object]) -> Callable[[Path, Publisher], object]:
    return lambda root, who: (root / SIG).write_bytes(_payload((root / SIG).read_bytes(), change))


def swap(root: Path, who: Publisher) -> None:
    (root / "weights/a.bin").write_bytes(FILES["weights/b.bin"])
    (root / "weights/b.bin").write_bytes(FILES["weights/a.bin"])


def by_another(root: Path, who: Publisher) -> None:
    (root / SIG).unlink()
    (root / SIG).write_bytes(signature(root, OTHER))


def of_another_model(root: Path, who: Publisher) -> None:
    other = write(root.parent / "elsewhere", {**FILES, "model.onnx": b"another graph"})
    (root / SIG).write_bytes(signature(other, who.signer))


def statement_of_another_kind(root: Path, who: Publisher) -> None:
    (root / SIG).write_bytes(
        who.signer.sign(intoto.Statement("urn:x", "m", "0" * 64, {}).to_bytes()).to_bytes(chain=True)
    )


TAMPERINGS: dict[str, Tamper] = {
    "changed": (WrongContentError, lambda root, who: (root / "weights/a.bin").write_bytes(b"\1" + bytes(999))),
    "longer": (WrongContentError, lambda root, who: (root / "config.json").write_bytes(b"{} ")),
    "missing": (WrongContentError, lambda root, who: (root / "weights/b.bin").unlink()),
    "more": (WrongContentError, lambda root, who: (root / "modeling.py").write_bytes(b"import os")),
    "more-hidden": (WrongContentError, lambda root, who: (root / ".config").write_bytes(b"x")),
    "renamed": (WrongContentError, lambda root, who: (root / "config.json").rename(root / "Config.json")),
    "swapped": (WrongContentError, swap),
    "git-names-below": (WrongContentError, lambda root, who: (root / "weights/.gitignore").write_bytes(b"x")),
    "no-signature": (UnsignedError, lambda root, who: (root / SIG).unlink()),
    "no-json": (MalformedError, lambda root, who: (root / SIG).write_bytes(b"\x89PNG")),
    "empty": (MalformedError, lambda root, who: (root / SIG).write_bytes(b"")),
    "by-another": (UntrustedSignerError, by_another),
    "of-another-model": (WrongContentError, of_another_model),
    "another-kind": (WrongSubjectError, statement_of_another_kind),
    "statement-changed": (BadSignatureError, bent(lambda s: _first(s).update(digest="0" * 64))),
    "statement-emptied": (BadSignatureError, bent(lambda s: s["predicate"].update(resources=[]))),
    "shards": (MalformedError, resigned(lambda s: s["predicate"]["serialization"].update(method="shards"))),
    "blake": (MalformedError, resigned(lambda s: s["predicate"]["serialization"].update(hash_type="blake2b"))),
    "twice": (MalformedError, resigned(lambda s: s["predicate"]["resources"].append(_first(s)))),
    "weak-digest": (MalformedError, resigned(lambda s: _first(s).update(algorithm="md5"))),
    "subject-of-others": (MalformedError, resigned(lambda s: s["subject"][0]["digest"].update(sha256="0" * 64))),
    "swallows": (
        WrongContentError,
        resigned(
            lambda s: (
                s["predicate"]["serialization"].update(ignore_paths=["weights"]),
                s["predicate"].update(resources=s["predicate"]["resources"][:2]),
                s["subject"][0]["digest"].update(sha256=_root(s["predicate"]["resources"][:2])),
            )
        ),
    ),
}


def _root(rows: list[Any]) -> str:
    import hashlib

    return hashlib.sha256(
        b"".join(bytes.fromhex(row["digest"]) for row in sorted(rows, key=lambda r: r["name"]))
    ).hexdigest()


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampered_files_are_not_locked(name: str, publisher: Publisher, tmp_path: Path) -> None:
    expected, tamper = TAMPERINGS[name]
    root = write(tmp_path)
    (root / SIG).write_bytes(signature(root, publisher.signer))
    assert checked(tmp_path, "model", publisher.trust)["signer"] == publisher.name
    for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    tamper(root, publisher)
    with pytest.raises(PackagerError) as caught:
        checked(tmp_path, "model", publisher.trust)
    assert type(caught.value) is expected, caught.value


@pytest.mark.parametrize("name", ["eve@corp.example", pki.EMAIL + ".evil", ""])
def test_only_the_exact_name_counts(name: str, tmp_path: Path, instance: Sigstore) -> None:
    trust = {**publisher_of("certificate", instance, tmp_path).trust, "identity": name}
    root = write(tmp_path)
    (root / SIG).write_bytes(signature(root, holder(LEAF)))
    with pytest.raises(UntrustedSignerError):
        checked(tmp_path, "model", trust)


def test_an_expired_certificate_does_not_count(tmp_path: Path, instance: Sigstore) -> None:
    trust = publisher_of("certificate", instance, tmp_path).trust
    root = write(tmp_path)
    (root / SIG).write_bytes(signature(root, holder(EXPIRED)))
    with pytest.raises(UnfitCertificateError):
        checked(tmp_path, "model", trust)


def test_what_model_signing_signs_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's own signature, with its own rule about git; and `verify --oms`, by the same code."""
    root = write(tmp_path)
    (root / ".git").mkdir()
    (root / ".git/config").write_bytes(b"x")
    keys.save(KEY, tmp_path / "k.pem", tmp_path / "publisher.pub", None)
    code = (
        "import sys\nfrom model_signing import signing\n"
        "signing.Config().use_elliptic_key_signer(private_key=sys.argv[1]).sign(sys.argv[2], sys.argv[3])"
    )
    environments.run(environments.model_signing(), code, tmp_path / "k.pem", root, root / SIG)
    assert checked(tmp_path, "model", {"key": "publisher.pub"})["signer"] == KEY.public.fingerprint
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "model", "--oms", "--key", "publisher.pub"]) == 0
    (root / SIG).rename(tmp_path / "beside.sig")
    assert main(["verify", "model", "--oms", "beside.sig", "--key", "publisher.pub", "--json"]) == 0
    keys.save(OTHER, tmp_path / "o.pem", tmp_path / "other.pub", None)
    assert main(["verify", "model", "--oms", "beside.sig", "--key", "other.pub"]) == 1
    assert main(["verify", "model", "--oms", "--key", "publisher.pub"]) == 2
    (root / "more.py").write_bytes(b"")
    assert main(["verify", "model", "--oms", "beside.sig", "--key", "publisher.pub"]) == 5


# artifacts, signed by statements attached to them


def artifact(folder: Path, signer: Signer | None) -> str:
    bundle = bundles.make(Store(folder / "made"))
    save(sign(bundle, signer) if signer else bundle, folder / "layout")
    return "oci:layout"


def test_signed_bundles_are_locked_with_their_signer(publisher: Publisher, tmp_path: Path) -> None:
    found = checked(tmp_path, artifact(tmp_path, publisher.signer), publisher.trust)
    assert found["form"] == "bundle"
    assert found["signer"] == publisher.name


@pytest.mark.parametrize("name", ["oras-layout", "oras-backup"])
def test_what_cosign_signed_is_locked(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.tar"
    path.write_bytes(gzip.decompress((STRANGERS / f"{name}.tar.gz").read_bytes()))
    (tmp_path / "cosign.pub").write_bytes((STRANGERS / "cosign.pub").read_bytes())
    (tmp_path / "other.pub").write_bytes(OTHER.public.pem)
    found = checked(tmp_path, f"oci:{name}.tar", {"key": "cosign.pub"})
    assert found["form"] == "cosign"
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(UntrustedSignerError, match="not signed by the trusted publisher"):
        checked(tmp_path, f"oci:{name}.tar", {"key": "other.pub"})


def rewrite(folder: Path, change: Callable[[Any], object]) -> None:
    """Change every attached statement, and keep every digest right."""
    layout = folder / "layout"
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"] = [row for row in index["manifests"] if row["mediaType"].endswith("manifest.v1+json")]
    for row in index["manifests"][1:]:
        manifest = json.loads((layout / "blobs/sha256" / row["digest"][7:]).read_bytes())
        content = (layout / "blobs/sha256" / manifest["layers"][0]["digest"][7:]).read_bytes()
        if b"dsseEnvelope" in content:
            manifest["layers"][0] |= put(layout, _payload(content, change))
            row |= put(layout, json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))


def put(layout: Path, data: bytes) -> dict[str, Any]:
    (layout / "blobs/sha256" / canonical.sha256(data)[7:]).write_bytes(data)
    return {"digest": canonical.sha256(data), "size": len(data)}


def stripped(folder: Path) -> None:
    path = folder / "layout/index.json"
    index = json.loads(path.read_bytes())
    path.write_text(json.dumps({**index, "manifests": index["manifests"][:1]}))


def test_stripped_and_changed_signatures_are_not_locked(publisher: Publisher, tmp_path: Path) -> None:
    ref = artifact(tmp_path, publisher.signer)
    rewrite(tmp_path, lambda statement: statement["subject"][0].update(name="another:1.0.0"))
    with pytest.raises(BadSignatureError):
        checked(tmp_path, ref, publisher.trust)
    (tmp_path / "out").rename(tmp_path / "before")
    stripped(tmp_path)
    with pytest.raises(UnsignedError):
        checked(tmp_path, ref, publisher.trust)


def test_a_statement_about_another_artifact_is_no_signature(tmp_path: Path) -> None:
    """Moved there by somebody who may push: its subject in the registry is this artifact, what it states is not."""
    (tmp_path / "publisher.pub").write_bytes(KEY.public.pem)
    other = sign(bundles.make(Store(tmp_path / "other"), version="2.0.0"), KEY)
    bundle = bundles.make(Store(tmp_path / "made"))
    for digest, content in other.pending.items():
        if b"dsseEnvelope" in content:
            bundle = bundle.with_statement(content, f"urn:{digest[7:15]}")
    save(bundle, tmp_path / "layout")
    with pytest.raises(UntrustedSignerError, match="of another artifact"):
        checked(tmp_path, "oci:layout", {"key": "publisher.pub"})


def test_the_statement_of_files_alone_signs_no_artifact(tmp_path: Path) -> None:
    """It does not bind the manifest."""
    (tmp_path / "publisher.pub").write_bytes(KEY.public.pem)
    bundle = sign(bundles.make(Store(tmp_path / "made")), KEY)
    keep = next(digest for digest, _, kind in list_statements(bundle) if kind == intoto.MODEL_SIGNING_PREDICATE)
    save(bundle.only(lambda item: item.content.digest == keep), tmp_path / "layout")
    with pytest.raises(UntrustedSignerError):
        checked(tmp_path, "oci:layout", {"key": "publisher.pub"})


# the recipe


BASE = "name: m\nversion: 1.0.0\nsource: model\n"


def test_a_recipe_says_whom_to_trust() -> None:
    for text, expected in {
        "trust: {key: publisher.pub}": SourceTrust(key="publisher.pub"),
        "trust: {ca: root.pem, identity: a@b.example, tsa-ca: tsa.pem}": SourceTrust(
            ca="root.pem", identity="a@b.example", tsa_ca="tsa.pem"
        ),
        "trust: {identity: a@b.example, issuer: 'https://i.example', signature: x.sig}": SourceTrust(
            identity="a@b.example", issuer="https://i.example", signature="x.sig"
        ),
    }.items():
        parsed = recipe.parse(BASE + text, "bundle.yaml")
        assert parsed.trust == expected
        assert recipe.from_json(parsed.to_json()) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{signature: x.sig}",
        "{key: a.pub, ca: b.pem, identity: x}",
        "{ca: b.pem}",
        "{identity: x}",
        "{ca: b.pem, identity: x, issuer: y}",
        "{key: ../a.pub}",
        "{key: /etc/a.pub}",
        "{key: a.pub, tsa-ca: b.pem}",
        "{keys: a.pub}",
        "a.pub",
    ],
)
def test_a_recipe_that_names_no_signer_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        recipe.parse(BASE + f"trust: {text}", "bundle.yaml")


def test_a_lock_follows_the_key(tmp_path: Path) -> None:
    wanted = SourceTrust(key="publisher.pub")
    (tmp_path / "publisher.pub").write_bytes(KEY.public.pem)
    first = source_trust.read_inputs(wanted, tmp_path)
    (tmp_path / "publisher.pub").write_bytes(OTHER.public.pem)
    assert source_trust.read_inputs(wanted, tmp_path) != first
    with pytest.raises(UsageError):
        source_trust.read_inputs(SourceTrust(key="missing.pub"), tmp_path)


def test_integrity_errors_stay_integrity_errors() -> None:
    """What is not signed is a "no" (exit code 1); what is changed is broken (exit code 5)."""
    assert issubclass(WrongContentError, IntegrityError)
    assert not issubclass(UnsignedError, IntegrityError)
