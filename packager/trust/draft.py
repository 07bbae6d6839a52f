# SPDX-License-Identifier: Apache-2.0
"""What a trust file is to say next, step by step, until root keys sign it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.errors import TrustFileError, UsageError
from packager.formats import vsa
from packager.trust import edit
from packager.trust import file as trust_file
from packager.trust.edit import Content
from packager.trust.file import TrustFile
from packager.trust.keys import PrivateKey, PublicKey, parse_public
from packager.trust.verifier import read_trusted_root


@dataclass(frozen=True, slots=True)
class Period:
    """When a signer is trusted: from and until a time (`2027-01-31T00:00:00Z`), None without a bound."""

    start: str | None = None
    until: str | None = None

    def to_json(self) -> dict[str, str]:
        return {name: at for name, at in (("from", self.start), ("until", self.until)) if at}


ALWAYS = Period()


@dataclass(frozen=True)
class TrustDraft:
    """The content of a trust file that is not signed yet. Each change returns another draft; `sign` makes the file."""

    content: Content = field(repr=False)

    @classmethod
    def create(cls, name: str, roots: Sequence[PublicKey], expires: datetime, threshold: int = 1) -> TrustDraft:
        """Return a first trust file without signers; `threshold` of the root keys must sign it and what follows."""
        return cls(edit.new_content(name, roots, threshold, expires))

    @classmethod
    def follow(
        cls, before: TrustFile, signers: Sequence[PrivateKey], now: datetime, days: int | None = None
    ) -> TrustDraft:
        """Return what follows a trust file: the next serial, which with `days` expires so many days from `now`.

        Raises TrustFileError unless `before` is sound and these keys may sign what follows: no change may launder it.
        """
        roots, trust = before.trust.roots, before.trust
        if before.signed_by(roots.keys) < roots.threshold:
            raise TrustFileError(
                f"trust file `{trust.name}` (serial {trust.serial}) is not signed by enough of its own root keys",
                hint="it was changed, or further signatures are still to be added with `packager trust sign`",
            )
        if not {key.public.fingerprint for key in signers} & {key.fingerprint for key in roots.keys}:
            raise TrustFileError(
                f"none of the given keys is a root key of trust file `{trust.name}`",
                hint="`packager trust show` lists its root keys; is it the file that you mean?",
            )
        return cls(edit.next_serial(before.content, now, days))

    def with_roots(
        self, add: Sequence[PublicKey] = (), remove: Sequence[PublicKey] = (), threshold: int | None = None
    ) -> TrustDraft:
        """Return the draft with other root keys; the former ones must still sign it."""
        return TrustDraft(edit.with_roots(self.content, add, remove, threshold))

    def with_key(self, signer: str, key: PublicKey, period: Period = ALWAYS) -> TrustDraft:
        """Return the draft with a public key of a signer, beside others of that name."""
        return self._with_signer(signer, {"key": key.pem.decode(), **period.to_json()})

    def with_certificate(
        self,
        signer: str,
        authority: Path,
        identity: str,
        period: Period = ALWAYS,
        *,
        intermediates: Path | None = None,
    ) -> TrustDraft:
        """Return the draft with a signer by certificate: an exact `identity`, issued below the PEM `authority`.

        `intermediates` (PEM) may lie between the two, where they do not travel with the bundle.
        """
        between = {"intermediates": _pems(intermediates)} if intermediates else {}
        return self._with_signer(signer, {"ca": _pems(authority), **between, "identity": identity, **period.to_json()})

    def with_identity(
        self, signer: str, identity: str, issuer: str, root: Path | None = None, period: Period = ALWAYS
    ) -> TrustDraft:
        """Return the draft with a signer by Sigstore: an `identity` that `issuer` vouches for.

        `root` pins a private instance: its `trusted_root.json` or `trust_config.json`.
        """
        entry: dict[str, JSON] = {"identity": identity, "issuer": issuer, **period.to_json()}
        if root is None:
            return self._with_signer(signer, entry)
        data = read_trusted_root(root)
        entry["instance"] = canonical.sha256(data)[7:23]
        pinned = canonical.load(data, limit=len(data))
        return TrustDraft(edit.with_entry(self.content, "instances", entry["instance"], pinned))._with_signer(
            signer, entry
        )

    def _with_signer(self, name: str, entry: dict[str, JSON]) -> TrustDraft:
        return TrustDraft(edit.with_signer(self.content, name, entry))

    def with_timestamping(self, authority: Path) -> TrustDraft:
        """Return the draft with an authority (PEM) whose time stamps count."""
        return TrustDraft(edit.with_members(self.content, "timestamping", _pems(authority)))

    def with_requirement(
        self, predicate_type: str, signers: Sequence[str] = (), max_age: int | None = None
    ) -> TrustDraft:
        """Return the draft with a statement that must be there, by one of `signers` (none: any), `max_age` in days."""
        return self._with_required({"predicateType": predicate_type}, signers, max_age)

    def with_stage(self, stage: str, signers: Sequence[str], max_age: int | None = None) -> TrustDraft:
        """Return the draft with the requirement that a gate, one of `signers`, let the bundle into `stage`."""
        if not signers:
            raise UsageError("a stage is let in by a gate", hint="name the gate: --by SIGNER")
        return self._with_required(
            {"predicateType": vsa.PREDICATE, "predicate": vsa.read_promotion(stage)}, signers, max_age
        )

    def _with_required(self, entry: dict[str, JSON], signers: Sequence[str], max_age: int | None) -> TrustDraft:
        who = {"signers": [*signers]} if signers else {}
        age = {"maximumAgeDays": max_age} if max_age else {}
        return TrustDraft(edit.with_requirement(self.content, entry | who | age))

    def with_minimum(self, name: str, version: str) -> TrustDraft:
        """Return the draft with the lowest version of a bundle that is accepted."""
        return TrustDraft(edit.with_entry(self.content, "minimum", name, version))

    def without_signer(self, name: str, key: PublicKey | None = None) -> TrustDraft:
        """Return the draft without a signer, also in requirements; with `key`, only without that key."""
        return TrustDraft(edit.without_signer(self.content, name, key))

    def with_revoked_key(self, key: PublicKey) -> TrustDraft:
        """Return the draft with a key revoked, which is permanent."""
        return self._with_revocation("keys", key.fingerprint)

    def with_revoked_identity(self, identity: str) -> TrustDraft:
        """Return the draft with an identity revoked, which is permanent."""
        return self._with_revocation("identities", identity)

    def with_revoked_certificate(self, certificate: str | Path) -> TrustDraft:
        """Return the draft with a certificate revoked, by its hexadecimal serial number or as a PEM file."""
        from packager.trust import certificates

        path = Path(certificate)
        if path.is_file():
            return self._with_revocation("certificates", certificates.format_serial(certificates.load(path)[0]))
        return self._with_revocation("certificates", str(certificate).lower().lstrip("0"))

    def with_revoked_bundle(self, digest: str) -> TrustDraft:
        """Return the draft with a bundle revoked, by the digest of its manifest."""
        return self._with_revocation("bundles", digest)

    def with_revoked_versions(self, name: str, versions: str) -> TrustDraft:
        """Return the draft with versions of a bundle revoked, as a range: `<1.4.2`."""
        return TrustDraft(edit.with_revoked_versions(self.content, name, versions))

    def _with_revocation(self, kind: str, value: str) -> TrustDraft:
        return TrustDraft(edit.with_revocation(self.content, kind, value))

    def sign(self, keys: Sequence[PrivateKey]) -> TrustFile:
        """Return the file, signed with root keys. Raises UsageError for content that no verifier would accept."""
        try:
            return trust_file.write(self.content, keys)
        except ValueError as error:
            raise UsageError(f"the trust file would not be acceptable: {error}") from None


def _pems(path: Path) -> list[str]:
    from packager.trust import certificates  # X.509 takes as long to import as everything else here

    return [certificates.encode_pem(certificate) for certificate in certificates.load(path)]


def describe_signers(file: TrustFile) -> list[tuple[str, str]]:
    """Return the name of each signer of a trust file with one entry in words: key or identity, and its period."""
    return [
        (name, _describe(entry)) for name, value in file.content["signers"].items() for entry in edit.entries_of(value)
    ]


def _describe(entry: dict[str, JSON]) -> str:
    times = "".join(f", {edge} {entry[edge]}" for edge in ("from", "until") if edge in entry)
    if "key" in entry:
        return f"key {parse_public(entry['key'].encode()).fingerprint}{times}"
    whose = "pinned authority" if "ca" in entry else entry["issuer"]
    return f"{entry['identity']} of {whose}{times}"
