# SPDX-License-Identifier: Apache-2.0
"""Adapters of an installed base: each a whole, verified bundle beside the release that it runs in.

    releases/<version>-<digest>/adapters/
      NAME.json              what the server reads: the adapter's identity, its base, and where its matrices are
      files/<digest>/        the unpacked bundle; `packager verify` works on it for ever

The record appears, changes and goes in one step, and a server that runs follows it at its next request; what an answer
already uses stays in its memory. An upgrade of the base is another release, which has no adapters: they name a base by
digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import canonical, names, semver
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.install import LOCK, Installed, find_current, read_config
from packager.deploy.journal import Clock, no_clock, record_action
from packager.errors import UsageError, did_you_mean
from packager.events import Cached, OnEvent, ignore
from packager.files import (
    hold_lock,
    make_staging,
    read_own,
    remove_tree,
    shared_modes,
    storage_errors,
    sync_directory,
    write_atomically,
)
from packager.transport import copy

ADAPTERS = "adapters"  # of a release: `packager.server.config` looks there
FILES = "files"
_MAX = 1 << 16  # bytes of a record
_READER = Path("app", "packager", "server", "generation", "adapters.py")


@shared_modes()
def add_adapter(
    bundle: Bundle,
    directory: Path,
    on_event: OnEvent = ignore,
    clock: Clock = no_clock,
    *,
    allow_downgrade: bool = False,
) -> Installed:
    """Add `bundle`, which the caller has verified, to the base that is installed in `directory`.

    Files are hashed again while they are copied. Raises UsageError for another base than the adapter's, before
    anything is written, and for an older version than the one that is there, unless `allow_downgrade`.
    """
    release = find_current(directory)
    target = _check_base(bundle, directory, release)
    digest = bundle.digest.removeprefix("sha256:")[:16]
    with (
        hold_lock(directory / LOCK),
        record_action(directory, clock, "add adapter", release.name, adapter=bundle.name, bundle=bundle.digest),
        storage_errors(directory),
    ):
        before = read_adapters(release).get(bundle.name)
        _check_version(bundle, before, allow_downgrade=allow_downgrade)
        place = release / ADAPTERS / FILES / digest
        if place.is_dir():
            on_event(Cached(f"the files of {bundle.name} are there"))
        else:
            with make_staging(place) as fresh:
                copy.write_unpacked(bundle, fresh, on_event)
                fresh.rename(place)
            sync_directory(place.parent)
        path = bundle.contract.targets[target].path
        record = {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "base": read_config(release)["digest"],
            "file": f"{FILES}/{digest}/{path}",
            "sha256": dict(bundle.tree.files)[path].digest,
        }
        write_atomically(_record(release, bundle.name), canonical.dump(record))
        sync_directory(release / ADAPTERS)
        _remove_unused(release)
    return Installed(place, bundle.name, bundle.version, bundle.digest, target, base=record["base"])


@shared_modes()
def remove_adapter(directory: Path, name: str, clock: Clock = no_clock) -> list[str]:
    """Remove an adapter; return the names of those that stay. Answers that use it go on. Raises UsageError."""
    release = find_current(directory)
    with hold_lock(directory / LOCK), storage_errors(directory):
        known = read_adapters(release)
        if name not in known:
            hint = did_you_mean(name, known) if known else "`packager status` lists what is there"
            raise UsageError(f"`{directory}` has no adapter `{name:.63}`", hint=hint)
        with record_action(directory, clock, "remove adapter", release.name, adapter=name):
            _record(release, name).unlink()
            sync_directory(release / ADAPTERS)
            _remove_unused(release)
    return sorted({*known} - {name})


def read_adapters(release: Path) -> dict[str, Mapping[str, JSON]]:
    """Return the records of the adapters of a release, by name. Raises UsageError for a damaged one."""
    return {path.stem: _read(path) for path in sorted((release / ADAPTERS).glob("*.json"))}


def _read(path: Path) -> Mapping[str, JSON]:
    try:
        value = canonical.load(read_own(path, _MAX), limit=_MAX)
        return {key: str(value[key]) for key in ("name", "version", "digest", "base", "file", "sha256")}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"`{path}` is damaged: {error}", hint="remove the file, and install the adapter") from None


def _record(release: Path, name: str) -> Path:
    return release / ADAPTERS / f"{name}.json"


def _remove_unused(release: Path) -> None:
    """Remove the files of bundles that no record names: what was replaced, removed, or left by a kill."""
    used = {Path(record["file"]).parts[1] for record in read_adapters(release).values()}
    for place in (release / ADAPTERS / FILES).iterdir():
        if place.name not in used:
            remove_tree(place)


def _check_base(bundle: Bundle, directory: Path, release: Path) -> str:
    """Return the target that the adapter runs in. Raises UsageError where what is installed is not its base."""
    base, config = bundle.contract.base, read_config(release)
    if base is None:
        raise UsageError(f"`{bundle.name}` is no adapter")
    if config["digest"] != base.digest:
        raise UsageError(
            f"`{bundle.name}` is an adapter of {base.name}:{base.version} ({base.digest}), and `{directory}` holds "
            f"{config['name']}:{config['version']} ({config['digest']})",
            hint="install that base, or build the adapter for the base that is here",
        )
    if bundle.name == config["name"]:
        raise UsageError(
            f"the adapter has the name of its base, `{bundle.name}`, so that requests could not choose it",
            hint="build it with another `name`",
        )
    if config["target"] not in bundle.contract.targets:
        raise UsageError(
            f"`{directory}` serves `{config['target']}`, which takes no adapters",
            hint=f"install the base with `--target {min(bundle.contract.targets)}`",
        )
    if not (release / _READER).is_file():
        raise UsageError(f"the server in `{directory}` knows no adapters", hint="install the base again")
    names.check(bundle.name, bundle.version, subject=bundle.name)
    return str(config["target"])


def _check_version(bundle: Bundle, before: Mapping[str, JSON] | None, *, allow_downgrade: bool) -> None:
    if before is None or allow_downgrade:
        return
    if semver.precedence_key(bundle.version) < semver.precedence_key(str(before["version"])):
        raise UsageError(
            f"`{bundle.version}` is older than the adapter that is there, `{before['version']}`",
            hint="--allow-downgrade installs an older one",
        )


def check_options(bundle: Bundle, *, has_knobs: bool, target: str | None, wheelhouse: Path | None) -> None:
    """Refuse what is said of an installation where an adapter is added to one. Raises UsageError."""
    given = {"knobs": has_knobs, "a target": target is not None, "wheels": wheelhouse is not None}
    for name, stated in given.items():
        if stated:
            raise UsageError(
                f"`{bundle.name}` is an adapter, and {name} are its base's to have",
                hint="leave that out; `packager serve` takes knobs",
            )
