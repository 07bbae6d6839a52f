# SPDX-License-Identifier: Apache-2.0
"""The life of an installation after the first day: what is there, a new release with a canary, and the end.

Every step that matters is one rename of a link, and is written into `journal.jsonl` before and after. A process that
is killed anywhere leaves the old release or the new one in service, complete; the next call finishes or starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import semver
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import canary
from packager.deploy.adapters import read_adapters
from packager.deploy.install import (
    CURRENT,
    LOCK,
    PREVIOUS,
    RELEASES,
    Index,
    Installed,
    describe_deployment,
    find_current,
    place_of,
    prepare,
    read_config,
    read_knobs,
    server_command,
    switch_release,
    write_knobs,
)
from packager.deploy.journal import FILE as JOURNAL
from packager.deploy.journal import Clock, no_clock, read_entries, record_action
from packager.deploy.server_files import CONFIG
from packager.errors import PackagerError, StorageError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.files import hold_lock, remove_tree, shared_modes, storage_errors, sync_directory
from packager.knobs.knobs import Resolved
from packager.server.telemetry.distribution_file import Distributions

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Status:
    """What a directory holds. `unfinished` is the operation that began and never ended, or None.

    `adapters` are those of the current release: name, version and digest of each.
    """

    current: Mapping[str, JSON]
    previous: Mapping[str, JSON] | None
    releases: tuple[str, ...]
    history: tuple[Mapping[str, JSON], ...]
    unfinished: str | None
    adapters: tuple[Mapping[str, JSON], ...] = ()


def read_status(directory: Path) -> Status:
    """Return what is installed. Raises UsageError if nothing is."""
    now = find_current(directory)
    before = (directory / PREVIOUS).resolve()
    there = (directory / PREVIOUS).is_symlink() and (before / CONFIG).is_file() and before != now
    history = tuple(read_entries(directory))
    last = history[-1] if history else {}
    unfinished = str(last["action"]) if last and last["step"] not in ("done", "refused") else None
    releases = tuple(sorted(path.parent.name for path in (directory / RELEASES).glob(f"*/{CONFIG}")))
    told = ("name", "version", "digest")
    adapters = tuple({key: record[key] for key in told} for record in read_adapters(now).values())
    before_now = _describe(before) if there else None
    return Status(_describe(now), before_now, releases, history[-_SHOWN:], unfinished, adapters)


def _describe(release: Path) -> JSON:
    return {
        **{key: read_config(release)[key] for key in ("name", "version", "digest", "target")},
        "knobs": read_knobs(release).get("digest"),
        "release": release.name,
    }


def check_step(directory: Path, bundle: Bundle, *, allow_downgrade: bool) -> None:
    """Refuse another bundle than the installed one, and an older version of it. Raises UsageError."""
    if not (directory / CURRENT / CONFIG).is_file():
        return
    there = read_config(find_current(directory))
    if there["name"] != bundle.name:
        raise UsageError(
            f"`{directory}` holds `{there['name']}`, not `{bundle.name}`", hint="install it in a directory of its own"
        )
    new, old = bundle.version, there["version"]
    same_order = new != old and semver.precedence_key(new) == semver.precedence_key(old)
    if (same_order or semver.precedence_key(new) < semver.precedence_key(old)) and not allow_downgrade:
        raise UsageError(
            f"`{new}` is {'neither older nor newer' if same_order else 'older'} than the installed `{old}`",
            hint="`packager rollback` returns to the previous release; --allow-downgrade installs an older one",
        )


@shared_modes()
def upgrade(
    bundle: Bundle,
    directory: Path,
    index: Index,
    environment: Mapping[str, str],
    knobs: Resolved,
    on_event: OnEvent = ignore,
    clock: Clock = no_clock,
    *,
    allow_downgrade: bool = False,
    distributions: Distributions | None = None,
) -> Installed:
    """Install `bundle`, which the caller has verified, beside the current release, try it, then switch to it.

    `clock` gives the times for the journal. Raises NegativeAnswerError if the canary fails: nothing has changed then.
    """
    target = read_config(find_current(directory))["target"]
    check_step(directory, bundle, allow_downgrade=allow_downgrade)
    release = place_of(directory, bundle)
    with (
        hold_lock(directory / LOCK),
        record_action(directory, clock, "upgrade", release.name, **describe_deployment(knobs)) as note,
    ):
        fresh = not (release / CONFIG).is_file()
        done = prepare(bundle, directory, target, index, environment, on_event, distributions)
        note("staged")
        try:
            tried = canary.try_release(bundle, server_command(release, ()), knobs, done.target)
        except PackagerError:
            if fresh:
                remove_tree(release)
            raise
        on_event(Note(f"the canary answered {tried} reference vectors"))
        note("tried")
        write_knobs(release, knobs)  # not before the trial: the release may be the one that serves
        switch_release(directory, release)
        note("switched")
    return replace(done, knobs=knobs.digest)


def find_servers(directory: Path) -> dict[int, str]:
    """Return the processes that serve from an installation, by their ids, each with its command line.

    They are known by their command lines: servers run a program below `releases`, `packager serve` names the
    directory. Processes that this one may not see, of other containers or behind `hidepid`, are not found.
    """
    releases, found = directory.resolve() / RELEASES, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
            below = any(Path(word).is_relative_to(releases) for word in words)
            if below or ("serve" in words and _names(directory.resolve(), words, place / "cwd")):
                found[int(place.name)] = " ".join(words)
        except OSError:  # it ended, or is none of our business
            continue
    found.pop(os.getpid(), None)
    return found


def _names(directory: Path, words: Sequence[str], folder: Path) -> bool:
    """Tell whether a word names the directory, seen from a process's own folder."""
    return any((folder.readlink() / word).resolve() == directory for word in words if not word.startswith("-"))


def _check_unused(directory: Path) -> None:
    """Raise UsageError if processes serve from an installation."""
    found = find_servers(directory)
    if found:
        first = min(found)  # the parent of the others, as a rule
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UsageError(
            f"`{directory}` is in use by process {first}{others}: {found[first][:120]}",
            hint=f"stop it first (`kill {first}`, or its unit), or take the files away under it with --force",
        )


def uninstall(directory: Path, *, force: bool = False) -> list[str]:
    """Remove every release and our own files; return what else is in the directory, which stays.

    `current` goes first: whatever is left after a kill is no installation, and the same call removes it. Raises
    UsageError if nothing of ours is there, and unless `force`, if processes serve from it.
    """
    ours = (CURRENT, PREVIOUS, RELEASES, JOURNAL)
    if not any(os.path.lexists(directory / name) for name in (CURRENT, RELEASES, JOURNAL)):
        raise UsageError(f"`{directory}` holds no installation")
    if not force:
        _check_unused(directory)
    with hold_lock(directory / LOCK), storage_errors(directory):
        for name in ours:
            path = directory / name
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
                if path.exists():
                    raise StorageError(
                        f"not all of `{path}` could be removed", hint="check its owner and mode, and repeat the command"
                    )
            else:
                path.unlink(missing_ok=True)
            sync_directory(directory)
        (directory / LOCK).unlink(missing_ok=True)
    left = sorted(path.name for path in directory.iterdir())
    if not left:
        directory.rmdir()
    return left
