# SPDX-License-Identifier: Apache-2.0
"""What a person said about trust on the command line, and what this machine has seen: one judge for all verbs."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from packager.cli import options
from packager.errors import UsageError
from packager.trust import file as trustfile
from packager.trust import model, seen
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Signer, Trust
from packager.trust.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from packager.bundle.bundle import Bundle
    from packager.events import OnEvent
    from packager.trust.evidence import Evidence
    from packager.trust.verify import Verification

_INSTANCE = "instance"
Passes: TypeAlias = "Callable[[Verification], bool]"


def _always(_: Verification) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Judge:
    """A trust, the time, and a memory. What passes is remembered, if the trust came from a trust file."""

    trust: Trust
    now: datetime
    state: Path | None

    @staticmethod
    def of(args: argparse.Namespace) -> Judge:
        """Read what the options name. Raises UsageError, or whatever is wrong with a trust file."""
        now = datetime.now(UTC)
        if args.trust is None:
            return Judge(_from_options(args), now, None)
        if args.key or args.ca or args.identity:
            raise UsageError("--trust stands for itself", hint="add keys and identities with `packager trust add`")
        file = trustfile.parse(read_file(args.trust), str(args.trust))
        state = state_file(args)
        before = seen.load(state, file.trust.name or "").file if state else None
        judge = Judge(trustfile.accept(file, before, now), now, state)
        judge._remember(Seen(trustfile.remember(file)))
        return judge

    @staticmethod
    def for_admission(args: argparse.Namespace) -> Judge | None:
        """Read what the options name, or None if they name nobody. Raises UsageError."""
        if options.wants_trust(args):
            return Judge.of(args)
        if args.replace:
            raise UsageError(
                "--replace goes with --trust, --key or the like",
                hint="what nobody vouches for gets no name, so it takes nobody's",
            )
        return None

    @property
    def _seen(self) -> Seen:
        return seen.load(self.state, self.trust.name) if self.state and self.trust.name else Seen()

    def verify(self, bundle: Bundle, on_event: OnEvent, *, passes: Passes = _always) -> Verification:
        """Check everything about `bundle`. It is remembered if it `passes` what the caller asks beyond."""
        from packager.trust.verify import verify

        verdict = verify(bundle, self.trust, on_event, now=self.now, seen=self._seen)
        if verdict.ok and passes(verdict):
            self._remember(Seen().with_bundle(bundle.name, bundle.version, bundle.digest))
        return verdict

    def require(self, bundle: Bundle, on_event: OnEvent) -> tuple[Evidence, ...]:
        """Check everything but the files, which the caller hashes while it copies them. Raises what is wrong.

        Returns what trusted signers state of the bundle.
        """
        from packager.trust.verify import require_signature

        found = require_signature(bundle, self.trust, on_event, now=self.now, seen=self._seen)
        bundle.medium.check_extent(bundle.tree, bundle.records)
        self._remember(Seen().with_bundle(bundle.name, bundle.version, bundle.digest))
        return found

    def _remember(self, new: Seen) -> None:
        if self.state and self.trust.name:
            seen.remember(self.state, self.trust.name, new)


def unvouched(bundle: Bundle) -> str:
    """Say where a bundle is that nobody vouched for, and the way on."""
    return (
        f"nobody vouches for its name: it is `{bundle.digest}` in the local store; "
        "`packager import` that digest with --key or --trust to name it"
    )


def state_file(args: argparse.Namespace) -> Path | None:
    """Return where this machine remembers what it has seen, or None if it shall not."""
    if args.state is not None:
        return None if str(args.state) == "none" else args.state
    named = os.environ.get("PACKAGER_STATE")
    return Path(named) if named else options.under_home("XDG_STATE_HOME", ".local/state") / "packager" / "seen.json"


def _from_options(args: argparse.Namespace) -> Trust:
    """Make a trust of --key, of --ca with --identity, or of --identity with --issuer."""
    signers: list[Signer] = [KeySigner(key.fingerprint, key) for key in options.trusted_keys(args)]
    if bool(args.ca) + bool(args.issuer) != bool(args.identity):
        raise UsageError(
            "--identity goes with either --ca or --issuer",
            hint="--ca CA.pem --identity NAME for a certificate, --identity NAME --issuer URL for a Sigstore identity",
        )
    if (args.tsa_ca and not args.ca) or (args.trust_config and not args.issuer):
        raise UsageError("--tsa-ca goes with --ca, and --trust-config with --issuer")
    instances = {}
    if args.ca:
        signers.append(CertificateSigner("certificate", _authorities(args.ca), args.identity))
    elif args.issuer:
        if args.trust_config:
            instances[_INSTANCE] = trusted_root(args.trust_config)
        signers.append(KeylessSigner("identity", args.identity, args.issuer, _INSTANCE if instances else None))
    if not signers:
        raise UsageError(
            "nobody is trusted yet",
            hint="say whom: --trust FILE, --key PUB, --ca CA --identity NAME, or --identity --issuer",
        )
    stamping = _authorities(args.tsa_ca) if args.tsa_ca else ()
    return Trust(tuple(signers), timestamping=stamping, instances=instances)


def _authorities(path: Path) -> tuple[x509.Certificate, ...]:
    from packager.trust import certificates  # X.509 takes as long to import as everything else here

    return tuple(certificates.load(path))


def trusted_root(path: Path) -> bytes:
    """Read a trusted root: such a file itself, or a client trust configuration that contains one."""
    from packager import canonical

    try:
        value = canonical.load(_read(path, model.MAX_TRUST), limit=model.MAX_TRUST)
        return canonical.dump(value.get("trustedRoot", value))
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"`{path}` holds no trusted root: {error}",
            hint="expected `trusted_root.json` or `trust_config.json` of a Sigstore instance",
        ) from None


def read_file(path: Path) -> bytes:
    """Read a trust file's bytes. Raises UsageError."""
    return _read(path, trustfile.MAX_FILE)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    if len(data) > limit:
        raise UsageError(f"`{path}` is larger than {limit} bytes")
    return data
