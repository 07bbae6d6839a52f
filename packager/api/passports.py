# SPDX-License-Identifier: Apache-2.0
"""Passports and dossiers: a page for people that checks itself in a browser, and documentation for regulators.

For example:

    passport = passports.make_passport(bundle, workspace, verifier, "release")
    Path("digits.html").write_text(passport.page, "utf-8")
    dossier = passports.make_dossier(bundle, workspace, verifier, "annex-iv")
    Path("annex-iv.md").write_text(dossier.to_markdown(), "utf-8")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.passport.dossier import Dossier, Form
    from packager.passport.passport import Passport
    from packager.policy.engine import Profile
    from packager.trust.verifier import Verifier
    from packager.workspace import Workspace
else:
    __getattr__ = lazily(
        __name__,
        {
            "Dossier": "packager.passport.dossier",
            "Form": "packager.passport.dossier",
            "Passport": "packager.passport.passport",
        },
    )

__all__ = ["Dossier", "Form", "Passport", "make_dossier", "make_passport"]


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


def make_dossier(
    bundle: Bundle,
    workspace: Workspace,
    verifier: Verifier,
    form: Form = "annex-iv",
    profile: str | Path | Profile | None = None,
    *,
    previous: Bundle | None = None,
) -> Dossier:
    """Return technical documentation of a bundle that holds for `verifier`, made of signed evidence alone.

    `form` is `annex-iv` (EU AI Act, nine sections) or `gpai` (Annex XI). Each sentence is marked declared, measured or
    verified, with a digest; what the form asks and no evidence answers is a gap. Raises the verification's failure,
    UsageError for a profile that cannot be read.
    """
    from packager.api import policies
    from packager.passport import passport

    chosen = None if profile is None else policies.read_profile(profile)
    return passport.make_dossier(
        bundle,
        form,
        verifier,
        chosen,
        previous=previous,
        advisories=workspace.advisories_to_read,
        on_event=workspace.on_event,
    )
