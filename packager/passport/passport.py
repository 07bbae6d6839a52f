# SPDX-License-Identifier: Apache-2.0
"""Passport and dossier of a bundle from end to end: verify it, judge it, gather the facts, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import PackagerError
from packager.events import OnEvent, ignore
from packager.passport.contents import Judgement, describe_bundle
from packager.passport.dossier import Dossier, Form, write_dossier
from packager.passport.page import write_page
from packager.passport.player import list_parts
from packager.policy import engine, facts
from packager.policy.engine import Profile
from packager.trust.model import KeySigner
from packager.trust.verifier import Verifier


@dataclass(frozen=True, slots=True)
class Passport:
    """One self-contained page, the facts on it, and the first failure of the verification, if there was one.

    `checked` says whether signatures were verified, `ok` that no requested check failed.
    """

    page: str
    facts: Mapping[str, JSON]
    checked: bool
    ok: bool
    failure: PackagerError | None

    @property
    def document(self) -> dict[str, JSON]:
        """The facts without `evidence`, the bytes for the page's own script."""
        return {key: value for key, value in self.facts.items() if key != "evidence"}


def make_passport(
    bundle: Bundle,
    verifier: Verifier | None = None,
    profile: Profile | None = None,
    *,
    previous: Bundle | None = None,
    player: Path | None = None,
    advisories: Path | None = None,
    on_event: OnEvent = ignore,
) -> Passport:
    """Return the passport of `bundle`; a bundle that does not hold has one, which says why."""
    found = _judge(bundle, verifier, profile, advisories, on_event) if verifier else Judgement()
    known = describe_bundle(bundle, found, previous=previous, advisory_folder=advisories)
    page = write_page(known, list_parts(bundle, player) if player else None)
    failure = found.verification.failure if found.verification else None
    ok = failure is None and (found.verdict is None or found.verdict.ok)
    return Passport(page, known, found.verification is not None, ok, failure)


def make_dossier(
    bundle: Bundle,
    form: Form,
    verifier: Verifier,
    profile: Profile | None = None,
    *,
    previous: Bundle | None = None,
    advisories: Path | None = None,
    on_event: OnEvent = ignore,
) -> Dossier:
    """Return the dossier of a bundle that holds. Raises the verification's failure for another one."""
    found = _judge(bundle, verifier, profile, advisories, on_event)
    if found.verification is not None:
        found.verification.raise_for_failure()
    return write_dossier(describe_bundle(bundle, found, previous=previous, advisory_folder=advisories), form)


def _judge(
    bundle: Bundle, verifier: Verifier, profile: Profile | None, advisories: Path | None, on_event: OnEvent
) -> Judgement:
    """Verify, and judge a bundle that holds by the policy."""
    verification, today = verifier.verify(bundle, on_event), verifier.now.date()
    keys = [signer.key for signer in verifier.trust.signers if isinstance(signer, KeySigner)]
    verdict = None
    if profile is not None and verification.ok:
        known = facts.of_bundle(bundle, verification.evidence, profile.facts, today, advisories)
        verdict = engine.judge(profile, known, today)
    return Judgement(verification, verdict, keys, today)
