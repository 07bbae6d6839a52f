# SPDX-License-Identifier: Apache-2.0
"""Write SLSA verification summaries v1: a gate's verdict about a bundle, with its policy and input statements.

The subject is the digest of the bundle, so a summary never fits another one, whatever its name or tag. The stage is the
verified level `PACKAGER_STAGE_<NAME>`; levels that start with `SLSA_` are the specification's and never written.

Source: slsa.dev/spec/v1.0/verification_summary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from packager.canonical import JSON
from packager.errors import UsageError

PREDICATE = "https://slsa.dev/verification_summary/v1"
_STAGE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def choose_level(stage: str) -> str:
    """Return the verified level that stands for a stage such as `production`. Raises UsageError."""
    if not _STAGE.fullmatch(stage) or len(stage) > 63:
        raise UsageError(
            f"`{stage:.80}` is no name of a stage", hint="write lower-case words, for example `production`"
        )
    return f"PACKAGER_STAGE_{stage.upper().replace('-', '_')}"


def read_promotion(stage: str) -> dict[str, JSON]:
    """Return the members of a summary whose bundle was promoted to `stage`."""
    return {"verificationResult": "PASSED", "verifiedLevels": [choose_level(stage)]}


def summarise_promotion(
    stage: str,
    bundle: str,
    *,
    verifier: str,
    at: str,
    policy: str,
    policy_digest: str,
    inputs: Iterable[tuple[str, str]],
) -> dict[str, JSON]:
    """Return the summary of the promoted `bundle` (name:version); `inputs` are (type, digest) of accepted statements.

    `at` is RFC 3339 in UTC; digests are `sha256:…`.
    """
    return {
        "verifier": {"id": verifier},
        "timeVerified": at,
        "resourceUri": f"urn:packager:bundle:{bundle}",
        "policy": {"uri": f"urn:packager:policy:{policy}", "digest": _digest(policy_digest)},
        "inputAttestations": [{"uri": kind, "digest": _digest(digest)} for kind, digest in sorted(inputs)],
        **read_promotion(stage),
    }


def _digest(digest: str) -> dict[str, str]:
    return {"sha256": digest.removeprefix("sha256:")}
