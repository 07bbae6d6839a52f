# SPDX-License-Identifier: Apache-2.0
"""Verify bundles with a trust root, a clock, and a record of versions already accepted (rollback protection)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packager import canonical
from packager.errors import UsageError
from packager.events import OnEvent, ignore
from packager.records import dataclass
from packager.trust import file as trust_file
from packager.trust import seen
from packager.trust.model import MAX_TRUST, CertificateSigner, KeylessSigner, KeySigner, Signer, Trust
from packager.trust.seen import Seen

if TYPE_CHECKING:
    from cryptography import x509

    from packager.bundle.bundle import Bundle
    from packager.trust.evidence import Evidence
    from packager.trust.keys import PublicKey
    from packager.trust.verify import Verification

_INSTANCE = "instance"


def _always(_: Verification) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Verifier:
    """A trust root, the time, and the file that remembers what was accepted; None remembers nothing.

    Only a trust from a trust file has a name to remember versions under.
    """

    trust: Trust
    now: datetime
    state: Path | None = None

    @staticmethod
    def from_trust_file(path: Path, now: datetime, state: Path | None) -> Verifier:
        """Read and accept a signed trust file. Raises UsageError, TrustFileError, OutdatedError or RolledBackError."""
        file = trust_file.parse(read_file(path), str(path))
        before = seen.load(state, file.trust.name or "").file if state else None
        verifier = Verifier(trust_file.accept(file, before, now), now, state)
        verifier.remember(Seen(trust_file.remember(file)))
        return verifier

    @staticmethod
    def from_keys(paths: Iterable[Path], now: datetime) -> Verifier:
        """Trust the public keys in these PEM files. Raises UsageError."""
        keys = [_load_key(path) for path in paths]
        return Verifier(Trust(tuple(KeySigner(key.fingerprint, key) for key in keys)), now)

    @staticmethod
    def from_signers(
        now: datetime,
        *,
        keys: Iterable[Path] = (),
        identity: str | None = None,
        authority: Path | None = None,
        intermediates: Path | None = None,
        timestamping: Path | None = None,
        issuer: str | None = None,
        root: Path | None = None,
    ) -> Verifier:
        """Trust public keys (PEM files), and one `identity`, exactly as it is written.

        The identity is in a certificate issued below `authority` (PEM; `intermediates` may lie between, with
        `timestamping` a time stamp of that authority is required), or `issuer` vouches for it at a Sigstore instance,
        a private one where `root` is its pinned trusted root. Raises UsageError.
        """
        signers: list[Signer] = [KeySigner(key.fingerprint, key) for key in map(_load_key, keys)]
        instances = {}
        if identity and authority:
            between = _authorities(intermediates) if intermediates else ()
            signers.append(CertificateSigner("certificate", _authorities(authority), identity, intermediates=between))
        elif identity and issuer:
            if root:
                instances[_INSTANCE] = read_trusted_root(root)
            signers.append(KeylessSigner("identity", identity, issuer, _INSTANCE if instances else None))
        if not signers:
            raise UsageError(
                "no trusted key or identity given",
                hint="use --trust FILE, --key PUB, --ca with --identity, or --issuer with --identity",
            )
        stamping = _authorities(timestamping) if timestamping else ()
        return Verifier(Trust(tuple(signers), timestamping=stamping, instances=instances), now)

    def verify(
        self, bundle: Bundle, on_event: OnEvent = ignore, *, passes: Callable[[Verification], bool] = _always
    ) -> Verification:
        """Check everything about `bundle`; remember it if it also `passes` a check of the caller."""
        from packager.trust.verify import verify

        verdict = verify(bundle, self.trust, on_event, now=self.now, seen=self._seen)
        if verdict.ok and passes(verdict):
            self.remember(Seen().with_bundle(bundle.name, bundle.version, bundle.digest))
        return verdict

    def require(self, bundle: Bundle, on_event: OnEvent = ignore) -> tuple[Evidence, ...]:
        """Check everything but the files, which the caller hashes while it copies them; return trusted statements.

        Raises the first failure.
        """
        from packager.trust.verify import require_signature

        found = require_signature(bundle, self.trust, on_event, now=self.now, seen=self._seen)
        bundle.medium.check_extent(bundle.tree, bundle.held)
        self.remember(Seen().with_bundle(bundle.name, bundle.version, bundle.digest))
        return found

    @property
    def _seen(self) -> Seen:
        return seen.load(self.state, self.trust.name) if self.state and self.trust.name else Seen()

    def remember(self, new: Seen) -> None:
        """Add to what was accepted under the name of the trust file."""
        if self.state and self.trust.name:
            seen.remember(self.state, self.trust.name, new)


def _load_key(path: Path) -> PublicKey:
    from packager.trust.keys import load_public

    return load_public(path)


def _authorities(path: Path) -> tuple[x509.Certificate, ...]:
    from packager.trust import certificates  # X.509 takes as long to import as everything else here

    return tuple(certificates.load(path))


def read_trusted_root(path: Path) -> bytes:
    """Read a trusted root: such a file itself, or a client trust configuration that contains one. Raises UsageError."""
    try:
        value = canonical.load(read_bounded(path, MAX_TRUST), limit=MAX_TRUST)
        return canonical.dump(value.get("trustedRoot", value))
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"`{path}` holds no trusted root: {error}",
            hint="expected `trusted_root.json` or `trust_config.json` of a Sigstore instance",
        ) from None


def read_file(path: Path) -> bytes:
    """Read a trust file's bytes. Raises UsageError."""
    return read_bounded(path, trust_file.MAX_FILE)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    if len(data) > limit:
        raise UsageError(f"`{path}` is larger than {limit} bytes")
    return data
