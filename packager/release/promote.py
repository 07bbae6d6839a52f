# SPDX-License-Identifier: Apache-2.0
"""A gate: judge a bundle by a policy over what trusted signers stated, and state the outcome for its digest.

Nothing is measured here, and nothing that is unsigned counts: the facts are the signed files themselves, and what is
stated by a signer that may state it. A deployment then asks for the summary of its stage, by the gate's identity,
instead of judging again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.events import OnEvent, ignore
from packager.formats import slsa, vsa
from packager.policy import engine, facts
from packager.policy.engine import Profile
from packager.release import builder
from packager.release.sign import attest
from packager.transport import copy
from packager.trust import evidence
from packager.trust.evidence import Evidence
from packager.trust.model import Trust
from packager.trust.signers import Signer
from packager.trust.verifier import Verifier
from packager.types import Verdict

_LOCAL = "urn:packager:verifier:local"


@dataclass(frozen=True, slots=True)
class Gate:
    """Who decides, for which stage, by which policy, and when (RFC 3339, UTC)."""

    stage: str
    verifier: str
    profile: Profile
    at: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a gate decided: the verdict, and the bundle, with the signed summary where that is yes."""

    verdict: Verdict
    bundle: Bundle


def open_gate(
    stage: str, profile: Profile, named: str | None, variables: Mapping[str, str], now: datetime.datetime
) -> Gate:
    """Return the gate into `stage`; `named` is by default the CI workflow, else the local one. Raises UsageError."""
    vsa.choose_level(stage)
    verifier, _ = builder.identify(named, variables)
    return Gate(stage, _LOCAL if verifier == builder.LOCAL else verifier, profile, builder.format_time(now))


def promote_bundle(
    bundle: Bundle,
    gate: Gate,
    verifier: Verifier,
    signer: Signer,
    output: Path | None = None,
    on_event: OnEvent = ignore,
) -> Promotion:
    """Verify `bundle`, judge it, and where the answer is yes sign and attach that, as `copy.attach` does."""
    seen = verifier.verify(bundle, on_event)
    seen.raise_for_failure()
    verdict = judge(gate, bundle, seen.evidence, verifier.trust, datetime.date.fromisoformat(gate.at[:10]))
    if not verdict.ok:
        return Promotion(verdict, bundle)
    return Promotion(verdict, copy.attach(attach_summary(bundle, gate, seen.evidence, signer), output, on_event))


def judge(gate: Gate, bundle: Bundle, signed: Sequence[Evidence], trust: Trust, today: datetime.date) -> Verdict:
    """Ask the policy about the bundle and what was stated of it. Provenance counts by those who may make it."""
    others = [item for item in signed if item.statement.predicate_type != slsa.PREDICATE]
    heard = [*others, *evidence.statements_of_type(signed, trust, slsa.PREDICATE)]
    return engine.judge(gate.profile, facts.of_bundle(bundle, heard, gate.profile.facts, today), today)


def attach_summary(bundle: Bundle, gate: Gate, signed: Sequence[Evidence], signer: Signer) -> Bundle:
    """Return `bundle` with the signed summary that it passed the gate; only for a verdict that is ok."""
    summary = vsa.summarise_promotion(
        gate.stage,
        f"{bundle.name}:{bundle.version}",
        verifier=gate.verifier,
        at=gate.at,
        policy=gate.profile.name,
        policy_digest=gate.profile.digest,
        inputs=((item.statement.predicate_type, item.digest) for item in signed),
    )
    return attest(bundle, vsa.PREDICATE, summary, signer)
