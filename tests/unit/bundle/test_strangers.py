# SPDX-License-Identifier: Apache-2.0
"""What other tools wrote, byte for byte (`tests/make_strangers.py`), is read and verified; what is not right in it is not."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle, open_bundle, open_extracted
from packager.bundle.layout_archive import LayoutArchive
from packager.errors import (
    BadSignatureError,
    IntegrityError,
    MalformedError,
    MissingStatementError,
    UnsignedError,
    UsageError,
    WrongContentError,
)
from packager.formats import dsse, intoto, oci
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from packager.trust.model import KeySigner, Requirement, Trust
from packager.trust.verify import require_signature, verify
from tests.support import bundles
from tests.support.tampering import judge, no_store

DATA = Path(__file__).parents[2] / "data" / "strangers"
SIGNED = ("oras-layout", "oras-backup", "tar")
RELEASE, COSIGN = (keys.load_public(DATA / f"{name}.pub") for name in ("release", "cosign"))


def archive(name: str, folder: Path) -> Path:
    path = folder / f"{name}.tar"
    path.write_bytes(gzip.decompress((DATA / f"{name}.tar.gz").read_bytes()))
    return path


def layout(name: str, folder: Path) -> Path:
    with tarfile.open(archive(name, folder)) as packed:
        packed.extractall(folder / name, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # 3.11.4
    return folder / name


@pytest.mark.parametrize("form", [archive, layout])
@pytest.mark.parametrize("name", SIGNED)
def test_copies_by_other_tools_hold(name: str, form: Callable[[str, Path], Path], tmp_path: Path) -> None:
    verdict = verify(open_bundle(str(form(name, tmp_path)), no_store), [RELEASE])
    assert verdict.ok, verdict.failure
    assert len(verdict.evidence) == 2


@pytest.mark.parametrize("name", ["oras-layout", "oras-backup"])
def test_what_cosign_signed_is_signed(name: str, tmp_path: Path) -> None:
    """By its key alone, without any statement of ours; the attestation that it attached as well says nothing more."""
    verdict = verify(open_bundle(str(archive(name, tmp_path)), no_store), [COSIGN])
    assert verdict.ok, verdict.failure
    kinds = sorted(item.statement.predicate_type for item in verdict.evidence)
    assert kinds == ["https://cosign.sigstore.dev/attestation/v1", intoto.COSIGN_SIGN_PREDICATE]
    assert verdict.signers == (COSIGN.fingerprint,)


def test_an_attestation_by_cosign_is_no_signature(tmp_path: Path) -> None:
    bundle = open_bundle(str(archive("oras-layout", tmp_path)), no_store)
    signature = next(
        item.digest
        for item in verify(bundle, [COSIGN]).evidence
        if item.statement.predicate_type == intoto.COSIGN_SIGN_PREDICATE
    )
    failure = verify(bundle.only(lambda item: item.content.digest != signature), [COSIGN]).failure
    assert isinstance(failure, MissingStatementError)


def test_a_requirement_with_members_is_not_met_by_cosign(tmp_path: Path) -> None:
    bundle = open_bundle(str(archive("oras-layout", tmp_path)), no_store)
    needed = Requirement(intoto.BUNDLE_PREDICATE, predicate={"name": "tiny"})
    assert isinstance(
        verify(bundle, Trust((KeySigner("ci", COSIGN),), required=(needed,))).failure, MissingStatementError
    )


def test_what_others_attached_is_named(tmp_path: Path) -> None:
    verdict = verify(open_bundle(str(archive("oras-layout", tmp_path)), no_store), [RELEASE])
    assert [type(why) for why in verdict.skipped.values()] == [MalformedError]  # garbage of the Sigstore type
    reasons = sorted(verdict.others.values())
    assert len(reasons) == 4
    for mark in ("application/spdx+json", "application/vnd.cncf.notary.signature", "no trusted key signed"):
        assert [reason for reason in reasons if mark in reason], mark
    assert {row["digest"] for row in verdict.to_json()["others"]} == set(verdict.others)


def test_skopeo_leaves_signatures_behind(tmp_path: Path) -> None:
    failure = verify(open_bundle(str(archive("skopeo-archive", tmp_path)), no_store), [RELEASE]).failure
    assert isinstance(failure, UnsignedError)
    assert "skopeo copy" in str(failure.hint)


def extracted(folder: Path) -> Path:
    """Write the plain files as `oras pull` does."""
    bundle = open_bundle(str(archive("oras-layout", folder)), no_store)
    for path, _ in bundle.tree:
        (folder / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / path).write_bytes(bundle.read(path))
    return folder / "files"


def held(root: Path, statements: Path) -> Bundle:
    return open_extracted(root, str(statements), no_store)


def test_extracted_files_are_verified_by_statements_elsewhere(tmp_path: Path) -> None:
    root = extracted(tmp_path)
    assert verify(held(root, tmp_path / "oras-layout.tar"), [RELEASE]).ok
    copy.unpack(open_bundle(str(tmp_path / "oras-layout.tar"), no_store), tmp_path / "unpacked")
    assert verify(held(root, tmp_path / "unpacked" / ".packager"), [RELEASE]).ok
    with tarfile.open(tmp_path / "statements.tar", "w") as packed:
        packed.add(tmp_path / "unpacked" / ".packager", ".")
    assert verify(held(root, tmp_path / "statements.tar"), [COSIGN]).ok


def become_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hosts")


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda root: (root / "model/model.onnx").write_bytes(b"grapH"),
    "missing": lambda root: (root / "model/model.onnx").unlink(),
    "more": lambda root: (root / "model/run.py").write_bytes(b""),
    "empty-folder": lambda root: (root / "more").mkdir(),
    "link": lambda root: become_a_link(root / "model/model.onnx"),
    "record": lambda root: (root / "bundle.json").write_bytes(b"{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_files_are_refused(change: str, tmp_path: Path) -> None:
    root = extracted(tmp_path)
    CHANGES[change](root)
    with pytest.raises(IntegrityError):
        verify(held(root, tmp_path / "oras-layout.tar"), [RELEASE]).raise_for_failure()


def test_statements_need_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory"):
        held(archive("tar", tmp_path), tmp_path / "tar.tar")


@pytest.mark.parametrize("name", SIGNED)
def test_every_changed_blob_of_an_archive_is_refused(name: str, tmp_path: Path) -> None:
    path = archive(name, tmp_path)
    data = path.read_bytes()
    statements = {
        item.content.digest for item in open_bundle(str(path), no_store).referrers if item.artifact_type != dsse.BUNDLE
    }
    members = LayoutArchive(path).members
    for member, at in members.items():
        if member.startswith("blobs/") and "sha256:" + member.rpartition("/")[2] not in statements:
            path.write_bytes(data[: at.offset] + bytes([data[at.offset] ^ 1]) + data[at.offset + 1 :])
            answer = judge(path, RELEASE)
            failure = answer if isinstance(answer, Exception) else answer.failure
            assert isinstance(failure, IntegrityError), (member, failure)
    path.write_bytes(data)


def packed(*members: tarfile.TarInfo | tuple[str, bytes], onto: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        if onto:
            with tarfile.open(fileobj=io.BytesIO(onto)) as there:
                for info in there:
                    made.addfile(info, there.extractfile(info))
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            if isinstance(member, tuple):
                info.size = len(member[1])
                made.addfile(info, io.BytesIO(member[1]))
            else:
                made.addfile(info)
    return out.getvalue()


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("blobs/sha256/x")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], type[IntegrityError]]] = {
    "more": (lambda data: packed(("run.sh", b"x"), onto=data), WrongContentError),
    "twice": (lambda data: packed(("index.json", b"{}"), onto=data), MalformedError),
    "link": (lambda data: packed(link(), onto=data), MalformedError),
    "absolute": (lambda data: packed(("/etc/cron.d/x", b"x"), onto=data), WrongContentError),
    "cut": (lambda data: data[: len(data) // 3], IntegrityError),
    "gzip": (gzip.compress, MalformedError),
    "empty": (lambda data: b"", IntegrityError),
    "text": (lambda data: b"x" * 5000, MalformedError),
    "zeros": (lambda data: bytes(20480), WrongContentError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name: str, tmp_path: Path) -> None:
    bend, expected = HOSTILE[name]
    path = archive("oras-backup", tmp_path)
    path.write_bytes(bend(path.read_bytes()))
    answer = judge(path, RELEASE)
    failure = answer if isinstance(answer, Exception) else answer.failure
    assert isinstance(failure, expected), failure


def test_a_layout_may_hold_no_more_than_it_names(tmp_path: Path) -> None:
    root = layout("oras-layout", tmp_path)
    (root / "blobs/sha256" / ("0" * 64)).write_bytes(b"x")
    failure = verify(open_bundle(str(root), no_store), [RELEASE]).failure
    assert isinstance(failure, WrongContentError)


def add_manifest(root: Path, value: object) -> None:
    """Add what another tool lists to a layout."""
    data = json.dumps(value).encode()
    (root / "blobs/sha256" / canonical.sha256(data)[7:]).write_bytes(data)
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"].append({"mediaType": oci.MANIFEST, "digest": canonical.sha256(data), "size": len(data)})
    (root / "index.json").write_text(json.dumps(index))


def descriptor(root: Path, data: bytes) -> dict[str, object]:
    (root / "blobs/sha256" / canonical.sha256(data)[7:]).write_bytes(data)
    return {"mediaType": "application/x", "digest": canonical.sha256(data), "size": len(data)}


def test_other_manifests_in_a_layout_are_left_aside(tmp_path: Path) -> None:
    """A signature in cosign's first form, a signature of a signature, and what is no manifest that we read."""
    root = layout("oras-layout", tmp_path)
    bundle = open_bundle(str(root), no_store)
    ours = bundle.referrers[0].manifest
    image = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": descriptor(root, b"c"),
        "layers": [descriptor(root, b"l")],
    }
    add_manifest(root, image)
    about = {"mediaType": oci.MANIFEST, "digest": ours.digest, "size": ours.size}
    add_manifest(root, {**image, "artifactType": "application/x", "subject": about})
    add_manifest(root, {**image, "artifactType": "application/x", "later": True})
    add_manifest(root, {"mediaType": oci.INDEX, "schemaVersion": 2, "manifests": []})
    verdict = verify(open_bundle(str(root), no_store), [RELEASE])
    assert verdict.ok, verdict.failure
    assert sum("another form" in why for why in verdict.others.values()) == 3
    copy.save(open_bundle(str(root), no_store), tmp_path / "ours.tar")
    assert verify(open_bundle(str(tmp_path / "ours.tar"), no_store), [RELEASE]).ok


def test_two_bundles_in_a_layout_are_no_bundle(tmp_path: Path) -> None:
    root = layout("oras-layout", tmp_path)
    other = bundles.make(Store(tmp_path / "other"), version="2.0.0")
    copy.save(other, tmp_path / "two")
    shutil.copytree(tmp_path / "two" / "blobs", root / "blobs", dirs_exist_ok=True)
    index = json.loads((root / "index.json").read_bytes())
    index["manifests"] += json.loads((tmp_path / "two/index.json").read_bytes())["manifests"]
    (root / "index.json").write_text(json.dumps(index))
    with pytest.raises(MalformedError, match="expected one bundle") as caught:
        open_bundle(str(root), no_store)
    assert "oras cp" in str(caught.value.hint)


# what others attach by the hundred


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, keys.PrivateKey]:
    """A signed bundle among 500 statements of other signers, 100 things of no form, and three of 12 MB."""
    key, other = keys.generate_key("p256"), keys.generate_key("p256")
    made = sign(bundles.make(Store(tmp_path_factory.mktemp("crowd") / "store")), key)
    subject = made.digest.removeprefix("sha256:")
    for number in range(500):
        statement = intoto.Statement("urn:other", "x", subject, {"number": number})
        made = made.with_statement(other.sign(statement.to_bytes()).to_bytes(), "urn:other")
    for number in range(100):
        made = made.with_statement(b"%d" % number, "urn:x")
    for number in range(3):
        made = made.with_statement(bytes([65 + number]) * (12 << 20), "urn:x")
    return made, key


def test_hundreds_of_statements_of_others_change_nothing(crowd: tuple[Bundle, keys.PrivateKey]) -> None:
    bundle, key = crowd
    found = require_signature(bundle, [key.public])
    assert len(found) == 2


def test_a_missing_statement_is_noticed_among_hundreds(crowd: tuple[Bundle, keys.PrivateKey]) -> None:
    bundle, key = crowd
    signature = next(
        item.digest
        for item in require_signature(bundle, [key.public])
        if item.statement.predicate_type == intoto.BUNDLE_PREDICATE
    )
    with pytest.raises(MissingStatementError):
        require_signature(bundle.only(lambda item: item.content.digest != signature), [key.public])


def test_a_forged_statement_is_noticed_among_hundreds(crowd: tuple[Bundle, keys.PrivateKey]) -> None:
    bundle, key = crowd
    forged = json.loads(key.sign(intoto.Statement("urn:scan", "x", "0" * 64, {}).to_bytes()).to_bytes())
    forged["dsseEnvelope"]["payload"] = dsse.encode(intoto.Statement("urn:scan", "x", "1" * 64, {}).to_bytes())
    with pytest.raises(BadSignatureError):
        require_signature(bundle.with_statement(json.dumps(forged).encode(), "urn:scan"), [key.public])
