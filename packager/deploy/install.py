# SPDX-License-Identifier: Apache-2.0
"""Install a verified bundle: files, an isolated environment from its own lock, and the server that runs it.

    <directory>/
      current -> releases/<version>-<digest>       switched as the last step, atomically
      previous -> releases/…                       what served before `current`; `rollback` returns to it
      journal.jsonl                                every installation, upgrade and rollback, step by step
      releases/<version>-<digest>/
        bundle/      the unpacked, verified files; `packager verify` works on it for ever
        env/         a virtual environment of exactly the locked wheels of this platform; equal ones share their files
        app/         the server, copied so that an upgrade of packager does not change a running installation
        serve.json   the configuration of the server
        knobs.json   what the site set when it installed this release, and the digest of all knobs then

Until `current` moves, the old release keeps serving; a kill at any point leaves it in place.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import Bundle, read
from packager.bundle.knobs import knob_schema
from packager.bundle.readers import UnpackedTree
from packager.canonical import JSON
from packager.deploy import served_environment, server_files, wheels
from packager.deploy.journal import Clock, no_clock, record_action
from packager.deploy.server_files import CONFIG
from packager.errors import StorageError, UsageError
from packager.events import Cached, OnEvent, ignore, report_duration
from packager.files import (
    hold_lock,
    make_staging,
    read_own,
    shared_modes,
    storage_errors,
    sync_directory,
    write_atomically,
)
from packager.knobs.knobs import Override, Resolved, resolve
from packager.server.telemetry.distribution_file import Distributions
from packager.transport import copy

CURRENT = "current"
PREVIOUS = "previous"
RELEASES = "releases"
KNOBS = "knobs.json"
LOCK = ".lock"
_ROOM = 64 << 20  # bytes beside what is counted: the virtual environment itself, the server, file systems' overhead
_UNPACKED = 4  # how much larger than its wheel an installed package is, at most, in what we ship


@dataclass(frozen=True, slots=True)
class Index:
    """Where wheels come from: `wheelhouse` (a directory, then no index is used) or pip's own configuration.

    Equal environments are kept once in the directory `environments`, and linked from there.
    """

    wheelhouse: Path | None = None
    environments: Path | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """One release on disk; `knobs` is the digest of the bundle with all values that it was installed with.

    Of an adapter the directory is that of its files, and `base` the digest of the bundle that it was added to.
    """

    directory: Path
    name: str
    version: str
    digest: str
    target: str
    knobs: str = ""
    base: str | None = None


@shared_modes()
def install(
    bundle: Bundle,
    directory: Path,
    target: str | None,
    index: Index,
    environment: Mapping[str, str],
    on_event: OnEvent = ignore,
    knobs: Resolved | None = None,
    clock: Clock = no_clock,
    distributions: Distributions | None = None,
) -> Installed:
    """Install `bundle`, which the caller has verified, below `directory` and make it current.

    Files are hashed again while they are copied, and only that copy is used. `environment` is handed to pip;
    `knobs` is what the site sets, recorded beside the release; `clock` gives the times for the journal;
    `distributions` are those that a trusted signer stated.
    """
    resolved = knobs or resolve(knob_schema(bundle), bundle.digest)
    with storage_errors(directory):
        (directory / RELEASES).mkdir(parents=True, exist_ok=True)
    release = place_of(directory, bundle).name
    with (
        hold_lock(directory / LOCK),
        record_action(directory, clock, "install", release, **describe_deployment(resolved)) as note,
    ):
        done = prepare(bundle, directory, target, index, environment, on_event, distributions)
        note("staged")
        write_knobs(done.directory, resolved)
        switch_release(directory, done.directory)
        note("switched")
    return replace(done, knobs=resolved.digest)


def describe_deployment(knobs: Resolved) -> dict[str, JSON]:
    """Return what the journal says of a deployment besides its release."""
    return {"bundle": knobs.bundle, "knobs": knobs.digest}


def place_of(directory: Path, bundle: Bundle) -> Path:
    """Return where the release of `bundle` is, or will be."""
    return directory / RELEASES / f"{bundle.version}-{bundle.digest.removeprefix('sha256:')[:16]}"


def prepare(
    bundle: Bundle,
    directory: Path,
    target: str | None,
    index: Index,
    environment: Mapping[str, str],
    on_event: OnEvent = ignore,
    distributions: Distributions | None = None,
) -> Installed:
    """Put the release of `bundle` on disk, complete, and leave `current` alone. The caller holds the lock."""
    contract = bundle.contract
    chosen = server_files.choose_target(contract, target)
    release = place_of(directory, bundle)
    if not (release / CONFIG).is_file():
        check_room(directory, bundle, contract.targets[chosen].target.runtime, index)
        _stage(bundle, release, chosen, index, environment, on_event, distributions)
    else:
        on_event(Cached(f"release {release.name} is installed"))
        _configure(bundle, release, chosen, distributions)
    return Installed(release, bundle.name, bundle.version, bundle.digest, chosen)


def check_room(directory: Path, bundle: Bundle, runtime: str, index: Index) -> None:
    """Raise StorageError if the release cannot fit; wheels that an index has to give are not counted."""
    if index.wheelhouse is not None and index.wheelhouse.is_dir():
        wheels_size = sum(path.stat().st_size for path in index.wheelhouse.glob("*.whl"))
    else:
        wheels_size = sum(blob.size for path, blob in bundle.tree if path.startswith(f"deps/{runtime}/wheels/"))
    needed = bundle.tree.size + _UNPACKED * wheels_size + _ROOM
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StorageError(
            f"no space left below `{directory}`: expected {needed / 1e6:.0f} MB, got {free / 1e6:.0f} MB free",
            hint="free some space, or remove an old release; nothing was written",
        )


def _stage(
    bundle: Bundle,
    release: Path,
    chosen: str,
    index: Index,
    environment: Mapping[str, str],
    on_event: OnEvent,
    distributions: Distributions | None,
) -> None:
    runtime = bundle.contract.targets[chosen].target.runtime
    with make_staging(release) as fresh:
        (fresh / "bundle").mkdir()
        copy.write_unpacked(bundle, fresh / "bundle", on_event)
        supply = wheels.choose(fresh / "bundle" / "deps" / runtime, index.wheelhouse)
        with report_duration(f"environment for {runtime}", on_event):
            served_environment.make_environment(fresh / "env", supply, environment, index.environments, on_event)
        _copy_server(fresh / "app", runtime)
        _configure(bundle, fresh, chosen, distributions)
        fresh.rename(release)  # a virtual environment moves as long as only its interpreter is called
    sync_directory(release.parent)


def _copy_server(app: Path, runtime: str) -> None:
    for name, data in server_files.list_program(runtime).items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_bytes(data)


def _configure(bundle: Bundle, release: Path, chosen: str, distributions: Distributions | None) -> None:
    write_atomically(release / CONFIG, server_files.build_config(bundle, chosen, distributions=distributions))


def write_knobs(release: Path, knobs: Resolved) -> None:
    """Keep what the site sets with the release: a server of it starts from that."""
    value = {"bundle": knobs.bundle, "digest": knobs.digest, "set": knobs.changed}
    write_atomically(release / KNOBS, canonical.dump(value))


def read_knobs(release: Path) -> Mapping[str, JSON]:
    """Return what `knobs.json` of a release says; nothing for one that was installed before there were knobs."""
    return _read_record(release / KNOBS) if (release / KNOBS).is_file() else {}


def read_config(release: Path) -> Mapping[str, JSON]:
    """Return what `serve.json` of a release says."""
    return _read_record(release / CONFIG)


def _read_record(path: Path) -> Mapping[str, JSON]:
    try:
        value = canonical.load(read_own(path, 1 << 20), limit=1 << 20)
        return {**value}
    except (ValueError, TypeError) as error:
        raise UsageError(f"`{path}` is damaged: {error}", hint="install the bundle again") from None


def installed_wishes(release: Path) -> tuple[Override, ...]:
    """Return what the site set when it installed this release."""
    values = read_knobs(release).get("set", {})
    return tuple(Override(name, values[name], "installation", typed=True) for name in values)


def installed_bundle(release: Path) -> Bundle:
    """Open the bundle of an installed release."""
    return read(UnpackedTree(release / "bundle"))


def switch_release(directory: Path, release: Path) -> None:
    """Point `current` at `release` in one step, and remember in `previous` what it named before."""
    link = directory / CURRENT
    if link.is_symlink() and link.resolve() != release.resolve():
        link_release(directory / PREVIOUS, link.resolve())
    link_release(link, release)


def link_release(link: Path, release: Path) -> None:
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path(RELEASES, release.name))
    fresh.replace(link)
    sync_directory(link.parent)


@shared_modes()
def find_current(directory: Path) -> Path:
    """Return the release that `current` names. Raises UsageError if there is none."""
    release = directory / CURRENT
    if not (release / CONFIG).is_file():
        raise UsageError(f"`{directory}` holds no installation", hint="make one with `packager install BUNDLE DIR`")
    return release.resolve()


def server_command(release: Path, arguments: Sequence[str]) -> list[str]:
    """Return the command that serves a release, with its own interpreter and nothing of the caller's environment."""
    return [str(release / "env" / "bin" / "python"), "-I", str(release / "app"), str(release / CONFIG), *arguments]
