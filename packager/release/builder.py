# SPDX-License-Identifier: Apache-2.0
"""Who builds and when, for the provenance: an option, the environment, or what the CI system says about itself.

The id is a claim of the signer of the provenance. It is worth as much as the signer: a verifier pins the identity that
signs, and may compare. In GitHub Actions and GitLab it is spelled as Sigstore certificates spell the same workflow.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from packager import __version__
from packager.errors import UsageError
from packager.formats import slsa

LOCAL = "urn:packager:builder:local"
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,1000}")


@dataclass(frozen=True, slots=True)
class Clock:
    """A build that has begun: the builder, the id of this invocation, and when it started."""

    builder: str
    invocation: str
    started: datetime
    now: Callable[[], datetime]

    @staticmethod
    def start(named: str | None, variables: Mapping[str, str], now: Callable[[], datetime]) -> Clock:
        """Note the time. Raises UsageError for a builder that is no URI."""
        builder, invocation = identify(named, variables)
        unique = f"urn:uuid:{uuid.uuid4()}"  # noqa: TID251 - an invocation is an event, it has no content to name it by
        return Clock(builder, invocation or unique, now(), now)

    def stop(self) -> slsa.Run:
        """Return what provenance says of the run that ends now."""
        return slsa.Run(self.builder, __version__, self.invocation, format_time(self.started), format_time(self.now()))


def format_time(at: datetime) -> str:
    """Write a time as RFC 3339 in whole seconds."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def identify(named: str | None, variables: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the builder and, where a CI system numbers its runs, the invocation."""
    builder, invocation = LOCAL, None
    if variables.get("GITHUB_ACTIONS") == "true":
        server, where = variables["GITHUB_SERVER_URL"], variables["GITHUB_REPOSITORY"]
        builder = f"{server}/{variables['GITHUB_WORKFLOW_REF']}"
        attempt = variables.get("GITHUB_RUN_ATTEMPT", "1")
        invocation = f"{server}/{where}/actions/runs/{variables['GITHUB_RUN_ID']}/attempts/{attempt}"
    elif variables.get("GITLAB_CI") == "true":
        builder = f"https://{variables['CI_CONFIG_REF_URI']}" if "CI_CONFIG_REF_URI" in variables else LOCAL
        invocation = variables.get("CI_JOB_URL")
    chosen = named or variables.get("PACKAGER_BUILDER") or builder
    if not _URI.fullmatch(chosen):
        raise UsageError(f"builder `{chosen:.80}` is not a URI", hint="write for example https://ci.example/release")
    return chosen, invocation
