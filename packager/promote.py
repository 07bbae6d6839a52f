# SPDX-License-Identifier: Apache-2.0
"""A gate: judge a bundle by a policy over what trusted signers stated, and state the outcome for its digest.

Nothing is measured here, and nothing that is unsigned counts: the facts are those that provenance states, by somebody
who may make it. A deployment then asks for the summary of its stage, by the gate's identity, instead of judging again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from packager import evidence, policy
from packager.bundle import Bundle
from packager.canonical import JSON
from packager.errors import Malformed
from packager.evidence import Evidence
from packager.formats import slsa, vsa
from packager.policy import Profile
from packager.sign import attest
from packager.signers import Signer
from packager.trust import Trust
from packager.types import Verdict


@dataclass(frozen=True, slots=True)
class Gate:
    """Who decides, for which stage, by which policy, and when (RFC 3339, UTC)."""

    stage: str
    verifier: str
    profile: Profile
    at: str


def judge(gate: Gate, signed: Sequence[Evidence], trust: Trust, today: datetime.date) -> Verdict:
    """Ask the policy about what was stated. Several statements of facts must all satisfy it; none satisfies nothing."""
    stated = facts(signed, trust) or [{}]
    verdicts = [policy.judge(gate.profile, said, today) for said in stated]
    return Verdict(gate.profile.rules, tuple(finding for verdict in verdicts for finding in verdict.findings))


def facts(signed: Sequence[Evidence], trust: Trust) -> list[Mapping[str, JSON]]:
    """Return the facts of every provenance whose signer may state it. Raises Malformed."""
    found = []
    for item in evidence.stated(signed, trust, slsa.PREDICATE):
        try:
            found.append(slsa.parse(item.statement.predicate).facts or {})
        except ValueError as error:
            raise Malformed(f"provenance `{item.digest}` is malformed: {error}", subject=item.digest) from None
    return found


def state(bundle: Bundle, gate: Gate, signed: Sequence[Evidence], signer: Signer) -> Bundle:
    """Return `bundle` with the signed summary that it passed the gate; only for a verdict that is ok."""
    waivers = [{**asdict(waiver), "expires": waiver.expires.isoformat()} for waiver in gate.profile.waivers]
    summary = vsa.predicate(
        gate.stage,
        f"{bundle.name}:{bundle.version}",
        verifier=gate.verifier,
        at=gate.at,
        policy=gate.profile.name,
        policy_digest=vsa.policy_digest(gate.profile.rules, waivers),
        inputs=((item.statement.predicate_type, item.digest) for item in signed),
    )
    return attest(bundle, vsa.PREDICATE, summary, signer)
