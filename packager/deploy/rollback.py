# SPDX-License-Identifier: Apache-2.0
"""Return an installation to the release that served before the current one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packager.canonical import JSON
from packager.deploy.install import (
    CURRENT,
    LOCK,
    PREVIOUS,
    RELEASES,
    find_current,
    link_release,
    read_config,
    read_knobs,
)
from packager.deploy.journal import Clock, cut_off, list_earlier, no_clock, record_action
from packager.deploy.server_files import CONFIG
from packager.errors import UsageError
from packager.files import hold_lock, sync_directory


def roll_back(directory: Path, clock: Clock = no_clock) -> Path:
    """Make the release current again that served before this one, and return it; once more goes further back.

    What is left so is not returned to: it is installed again. One that was cut off after its switch is only ended.
    Raises UsageError if nothing is further back.
    """
    now = find_current(directory)
    with hold_lock(directory / LOCK):
        back = _further_back(directory, now)
        if cut_off(directory, "rollback", now.name):
            with record_action(directory, clock, "rollback", now.name, **_known(now)) as note:
                note("switched")
                _point(directory / PREVIOUS, back)
            return now
        if not back:
            raise UsageError(
                f"`{directory}` has no release before {now.name}",
                hint="`packager status` lists what is there; `packager install` or `upgrade` makes another one current",
            )
        with record_action(directory, clock, "rollback", back[0].name, **_known(back[0])) as note:
            link_release(directory / CURRENT, back[0])
            note("switched")
            _point(directory / PREVIOUS, back[1:])
    return back[0]


def _further_back(directory: Path, now: Path) -> list[Path]:
    """Return the releases that served before this one and are still there, the latest first.

    The journal of an installation from before installs and rollbacks were noted may not tell: then `previous` does.
    """
    names, link = list_earlier(directory, now.name), directory / PREVIOUS
    if not names and link.is_symlink():
        names = [link.resolve().name]
    found = (directory / RELEASES / name for name in names)
    return [path.resolve() for path in found if (path / CONFIG).is_file() and path.resolve() != now]


def _known(release: Path) -> dict[str, JSON]:
    knobs = read_knobs(release)
    return {"bundle": read_config(release)["digest"], "knobs": knobs.get("digest")}


def _point(link: Path, releases: Sequence[Path]) -> None:
    """Point a link at the first of some releases; without any, remove it."""
    if releases:
        link_release(link, releases[0])
    else:
        link.unlink(missing_ok=True)
        sync_directory(link.parent)
