# SPDX-License-Identifier: Apache-2.0
"""Passports: one page for people that says what a bundle is, and that checks itself in a browser.

For example:

    passport = passports.make_passport(bundle, workspace, verifier, "release")
    Path("digits.html").write_text(passport.page, "utf-8")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.passport.passport import Passport
    from packager.policy.engine import Profile
    from packager.trust.verifier import Verifier
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(__name__, {"Passport": "packager.passport.passport"})

__all__ = ["Passport", "make_passport"]


def make_passport(
    bundle: Bundle,
    workspace: Workspace,
    verifier: Verifier | None = None,
    profile: str | Path | Profile | None = None,
    *,
    previous: Bundle | None = None,
    player: Path | None = None,
) -> Passport:
    """Return a self-contained page about a bundle, with the facts on it; a bundle that does not hold has one too.

    With a verifier signatures are checked, and with a profile trusted statements are judged by that policy. `previous`
    is the release before, to say what changed; `player` the folder of the npm package `onnxruntime-web`, with which the
    page runs the model. Raises UsageError, IntegrityError for records that cannot be read.
    """
    from packager.api import policies
    from packager.passport import passport

    chosen = None if profile is None else policies.read_profile(profile)
    return passport.make_passport(
        bundle,
        verifier,
        chosen,
        previous=previous,
        player=player,
        advisories=workspace.advisories_to_read,
        on_event=workspace.on_event,
    )
