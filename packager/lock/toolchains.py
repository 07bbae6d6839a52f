# SPDX-License-Identifier: Apache-2.0
"""Environments for `toolchain: locked`: a Python and hash-locked packages, built by uv and kept by digest.

A model that was trained with another scikit-learn or torch exports with its own version, not with the host's. Only
files are put in place here: nothing from such an environment runs outside the worker's confinement. So packages come
as wheels, which install without running code; the few that exist as source only are named by an exporter, never by
a source.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.canonical import JSON
from packager.errors import SourceError, UsageError
from packager.events import Finished, OnEvent, Started, Warned
from packager.formats.index_addresses import REFUSED, find_refusal, redact_addresses, share_indexes
from packager.lock import environments
from packager.lock.environments import explain_uv_error, find_uv
from packager.lock.lock import Environment
from packager.lock.lockers import _conflict as conflicts
from packager.lock.lockers.uv import find_yanked
from packager.store.environments import TOOLCHAINS
from packager.store.store import Store

_NO_BUILD = re.compile(r"([\w.-]+)==(\d[\w.]*) has no (?:usable )?wheels")
_NO_RELEASE = re.compile(r"there is no version of ([\w.-]+)==(\d[\w.]*)")

_BARE = ("--no-emit-index-url", "--no-emit-find-links", "--no-emit-index-annotation")  # whatever uv's settings say
OLDEST_PYTHON = "3.11"  # that the code of a worker runs on


class NoSolutionError(SourceError):
    """No versions of what is required can be installed together on that Python."""


def resolve(
    needs: Sequence[str], python: str, builds: Sequence[str], variables: Mapping[str, str], on_event: OnEvent
) -> Environment:
    """Resolve `needs` (PEP 508 lines) for this platform and `python` to exact versions with hashes.

    `builds` names what may be built from source. Network. Raises NoSolutionError when there are no such versions,
    SourceError when the index cannot be reached, UsageError for a Python that nothing here could run.
    """
    find(python)
    command = [
        "pip",
        "compile",
        "-",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-progress",
        *_BARE,
        "--python-version",
        python,
        *_sources(builds),
    ]
    done = _timed(f"lock the toolchain ({', '.join(needs)})", command, needs, variables, on_event)
    if done.returncode and (refused := find_refusal(done.stderr)):
        raise SourceError(f"the package index at {refused} refuses the login", hint=f"look at {REFUSED}")
    if done.returncode and "No solution found" in done.stderr:
        raise NoSolutionError(_unresolved(needs, python, " ".join(done.stderr.split())))
    if done.returncode:
        raise SourceError(
            f"cannot lock the toolchain of the source: {explain_uv_error(done.stderr)}",
            hint="check the package index (UV_DEFAULT_INDEX, proxy), or write `toolchain: host`",
        )
    for pin, reason in find_yanked(done.stderr).items():
        why = f": {redact_addresses(reason)}" if reason else ""
        on_event(Warned(f"`{pin}` of the toolchain was withdrawn by its publisher (yanked){why}"))
    return Environment(python, "".join(f"{row}\n" for row in done.stdout.splitlines() if row.strip()))


def _unresolved(needs: Sequence[str], python: str, said: str) -> str:
    """Say in one sentence why there are no such versions: what has no build, or what contradicts what."""
    if found := _NO_BUILD.search(said):
        return f"`{found[1].removesuffix('-cpu')} {found[2]}` has no build for Python {python}"
    if found := _NO_RELEASE.search(said):
        return f"the package index has no `{found[1]} {found[2]}`"
    own = conflicts.own_requirements(needs, "the source")
    pair = conflicts.find([*own, *conflicts.claims_in(said, own)])
    clash = f": {pair[0].text} and {pair[1].text} contradict each other" if pair else ""
    return f"the packages that the source requires do not fit together on Python {python}{clash}"


def find(python: str) -> str:
    """Return what uv is to call the interpreter: this one, or another one that is installed here.

    Raises UsageError, with what to do, when there is none; nothing is downloaded behind the user's back.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python == here:
        return sys.executable
    if is_too_old(python):
        raise UsageError(
            f"the source was made with Python {python}, expected at least {OLDEST_PYTHON} for a locked toolchain",
            hint="log the model again under a newer Python, or in a form that needs none (skops, ONNX)",
        )
    command = [find_uv(), "python", "find", "--no-project", "--no-python-downloads", python]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise UsageError(
            f"the toolchain needs Python {python}, and there is none here (this is {here})",
            hint=f"install it (`uv python install {python}`, or your distribution's package)",
        )
    return done.stdout.strip()


def is_too_old(python: str) -> bool:
    """Say whether the code of a worker cannot run on that Python."""
    return tuple(map(int, python.split("."))) < tuple(map(int, OLDEST_PYTHON.split(".")))


@dataclass(frozen=True)
class LockedToolchain:
    """What builds a locked environment on first use: as a virtual environment of `store`, or, as data, elsewhere."""

    environment: Environment
    builds: Sequence[str]
    store: Store
    variables: Mapping[str, str]
    on_event: OnEvent

    def __call__(self) -> Path:
        """Return the directory of the built environment. Raises what `prepare` raises."""
        return prepare(self.environment, self.builds, self.store, self.variables, self.on_event)

    def to_json(self) -> JSON:
        return {"environment": self.environment.to_json(), "builds": list(self.builds)}

    @staticmethod
    def from_json(value: JSON, store: Store, variables: Mapping[str, str], on_event: OnEvent) -> LockedToolchain:
        """Return what `to_json` wrote, for another store and how this machine reaches its package index."""
        builds = [str(name) for name in value["builds"]]
        return LockedToolchain(Environment.from_json(value["environment"]), builds, store, variables, on_event)


def prepare(
    environment: Environment, builds: Sequence[str], store: Store, variables: Mapping[str, str], on_event: OnEvent
) -> Path:
    """Return the directory of the built environment in the store, building it if it is not there.

    From then on `cache gc` leaves it alone while this process lives. Raises SourceError when the index does not
    deliver what was locked.
    """
    rows = environment.requirements.replace("\\\n", " ").splitlines()
    root = store.root / TOOLCHAINS
    compiled = "--compile-bytecode"  # a worker sees it read-only: else each start compiles what it imports
    options = ["--require-hashes", "--no-deps", compiled, *_sources(builds)]
    python = find(environment.python)
    store.hold_environment(environments.environment_directory(rows, python, root).name)
    label = f"build the locked toolchain ({len(rows)} packages)"
    program = environments.ensure_environment(
        rows, python, root, on_event, environment=variables, options=options, label=label
    )
    return program.parent.parent


def _sources(builds: Sequence[str]) -> list[str]:
    return ["--only-binary", ":all:", *(word for name in builds for word in ("--no-binary", name))]


def _timed(
    label: str, command: Sequence[str], rows: Sequence[str], variables: Mapping[str, str], on_event: OnEvent
) -> subprocess.CompletedProcess[str]:
    on_event(Started(label))
    started = time.monotonic()
    text = "".join(f"{row}\n" for row in rows)
    done = subprocess.run(
        [find_uv(), *command], input=text, capture_output=True, text=True, env=share_indexes(variables), check=False
    )
    if not done.returncode:
        on_event(Finished(label, time.monotonic() - started))
    return done
