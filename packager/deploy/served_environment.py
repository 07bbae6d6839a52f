# SPDX-License-Identifier: Apache-2.0
"""The environment that an installation serves from: exactly the locked wheels of this platform, checked by hash.

Equal environments are built once. The store keeps one per lock and interpreter, and every installation of it on the
same file system is hard links to those files, so the fiftieth model costs seconds and megabytes. On another file system
they are copied. Files are replaced when an installation is changed with pip, never written in place, and the store's
copy is read-only to all but its owner.
"""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from packager import canonical
from packager.deploy.wheels import Supply
from packager.errors import SourceError, StorageError
from packager.events import Note, OnEvent, ignore
from packager.files import hold_lock, make_staging
from packager.formats.index_addresses import REFUSED, find_refusal, redact_addresses
from packager.formats.wheel_locks import further_indexes
from packager.store.environments import GATE, RECORD

_FORM = 1  # bump it when the same wheels have to be installed in another way
_KEPT = {
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-cache-dir",
    "no-index",
    "proxy",
    "resume-retries",
    "retries",
    "timeout",
    "trusted-host",
}
"""Settings of pip that say where wheels come from and how they are reached; the others would say what is installed."""
_CARRIED = "that carries its wheels (`vendor` in the recipe)"
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}


def make_environment(
    target: Path, supply: Supply, variables: Mapping[str, str], shared: Path | None, on_event: OnEvent = ignore
) -> None:
    """Make the environment of `supply` at `target`, which does not exist yet.

    `shared` is the directory that keeps equal environments, None for none; `variables` is the environment that pip's
    settings are read from. Raises SourceError when the wheels cannot be had, StorageError when there is no room.
    """
    if shared is None or not _writable(shared):
        _build(target, supply, variables)
        return
    kept = _place_of(shared, _text_of(supply))
    copied = None
    while copied is None:  # a collector may take it away before it is linked
        _keep(kept, supply, variables)
        with hold_lock(shared / GATE, shared=True):
            copied = _link(kept, target) if (kept / RECORD).is_file() else None
    if copied:
        on_event(Note(f"{copied / 1e6:.0f} MB copied: hard links do not reach from `{shared}` to here"))


def is_kept(shared: Path, requirements: str) -> bool:
    """Say whether the environment of a lock is there already, so that nothing has to be brought."""
    return (_place_of(shared, requirements) / RECORD).is_file()


def _place_of(shared: Path, requirements: str) -> Path:
    return shared / canonical.sha256(_identity(requirements)).removeprefix("sha256:")[:32]


def _text_of(supply: Supply) -> str:
    return supply.requirements.read_text("utf-8")


def _keep(kept: Path, supply: Supply, variables: Mapping[str, str]) -> None:
    if (kept / RECORD).is_file():
        return
    with make_staging(kept) as fresh:
        if not (kept / RECORD).is_file():  # another process may have built it while this one waited
            _build(fresh / "env", supply, variables)
            (fresh / "env").rename(kept)


def _writable(shared: Path) -> bool:
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(shared, os.W_OK | os.X_OK)


def _identity(requirements: str) -> bytes:
    """Return what decides the content: the lock with its hashes, and the interpreter that the environment calls."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return canonical.dump({"form": _FORM, "python": str(base), "version": sys.version, "requirements": requirements})


def _link(kept: Path, target: Path) -> int:
    """Make `target` a tree of hard links to the files of `kept`; return how many bytes had to be copied instead."""
    copied = 0

    def one(source: str, there: str) -> None:
        nonlocal copied
        try:
            os.link(source, there, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            shutil.copy2(source, there, follow_symlinks=False)
            copied += os.lstat(there).st_size

    shutil.copytree(kept, target, symlinks=True, copy_function=one)
    return copied


def _build(target: Path, supply: Supply, variables: Mapping[str, str]) -> None:
    """Create a virtual environment with exactly the locked wheels. No source builds, no unlocked dependency.

    With a directory of wheels no index is used, and no setting of pip can change that.
    """
    pip = _pip(target)
    source = ["--no-index", "--find-links", str(supply.place)] if supply.place else []
    command = [
        *pip,
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--no-deps",
        *source,
        "-r",
        str(supply.requirements),
    ]
    settings = {} if supply.place else _settings(pip, variables)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,
        env={**_without_pip(variables), **settings, "PIP_CONFIG_FILE": os.devnull},
    )
    if done.returncode:
        if supply.place is None and (refused := _refused(command, settings, variables)):
            raise SourceError(f"the package index at {refused} refuses the login", hint=f"look at {REFUSED}")
        raise _failure(done.stderr, supply)
    _check(target, supply)
    (target / RECORD).write_bytes(_identity(_text_of(supply)))
    (target / RECORD).chmod(0o644)


def _refused(command: Sequence[str], settings: Mapping[str, str], variables: Mapping[str, str]) -> str | None:
    """Ask again aloud, and once: pip goes on without an index that refuses it, and says so only then."""
    words = [word for word in command if word != "--quiet"] + ["-vv", "--dry-run"]
    env = {**_without_pip(variables), **settings, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    return find_refusal(done.stdout + done.stderr)


def _pip(target: Path) -> list[str]:
    """Make an empty environment at `target`; return the command of pip for it, our own pip if there is one."""
    own = importlib.util.find_spec("pip") is not None
    before = os.umask(0o022)  # a service user has to read it
    try:
        venv.EnvBuilder(with_pip=not own, symlinks=True).create(target)
    except subprocess.CalledProcessError:
        raise SourceError(
            f"cannot make an environment: neither pip nor ensurepip is there for `{sys.executable}`",
            hint="install the distribution's package of pip or venv (Debian: `python3-pip` or `python3-venv`)",
        ) from None
    finally:
        os.umask(before)
    python = str(target / "bin" / "python")
    return [sys.executable, "-I", "-m", "pip", "--python", python] if own else [python, "-I", "-m", "pip"]


def _without_pip(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith("PIP_")}


def _settings(pip: Sequence[str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return what the site's configuration of pip says of where wheels are, as variables; of nothing else."""
    done = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, env=dict(variables), check=False)
    found = {}
    for row in done.stdout.splitlines():
        name, equals, value = row.partition("=")
        section, _, key = name.rpartition(".")
        if equals and key in _KEPT and section in ("global", "install", ":env:"):
            found[key] = " ".join(str(ast.literal_eval(value)).split())
    return {f"PIP_{key.upper().replace('-', '_')}": value for key, value in found.items()}


def _failure(said: str, supply: Supply) -> SourceError | StorageError:
    """Return pip's failure as ours: the line that says why, and the way out."""
    rows = [row.strip() for row in said.splitlines() if row.strip()]
    errors = [row.removeprefix("ERROR: ") for row in rows if row.startswith("ERROR")]
    if errors == ["Exception:"]:  # pip itself failed: the last line of its trace says why
        errors = rows[-1:]
    reason = redact_addresses(re.sub(r"\s+", " ", " ".join(errors or rows[-1:])))[:500]
    if os.strerror(errno.ENOSPC) in said:
        return StorageError(
            "no space left while installing the locked dependencies",
            hint="free some space and repeat; nothing half-written is left",
        )
    if supply.place:
        hint = "put exactly the wheels that deps/*/requirements.txt names there"
    else:
        more = ", ".join(f"`{index}`" for index in further_indexes(supply.requirements.read_text("utf-8")))
        more_indexes = f"the bundle also needs the index {more} (PIP_EXTRA_INDEX_URL); " if more else ""
        hint = f"{more_indexes}without a network give `--wheelhouse DIR`, or ask for a bundle {_CARRIED}"
    return SourceError(f"cannot install the locked dependencies: {reason}", hint=hint)


def _check(target: Path, supply: Supply) -> None:
    """Raise SourceError unless the environment holds what is locked and, but for pip itself, nothing else."""
    (packages,) = (target / "lib").glob("python*/site-packages")
    there = set(_installed(packages))
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", supply.requirements.read_text("utf-8"), re.MULTILINE)
    wanted = {(canonicalize_name(name), Version(version)) for name, version in pins}
    more = {pair for pair in there - wanted if pair[0] not in ("pip", "setuptools")}
    if missing := sorted(wanted - there):
        raise SourceError(
            f"pip ended without an error, and {_named(missing)} is not installed",
            hint="a setting outside pip's configuration sends packages elsewhere; look at `pip config debug`",
        )
    if more:
        raise SourceError(
            f"pip installed {_named(sorted(more))}, which the bundle does not lock",
            hint="ask the publisher for a lock that names it",
        )


def _installed(packages: Path) -> Iterator[tuple[str, Version]]:
    """Yield the distributions in a directory. Raises SourceError for one without a name or a version."""
    for item in importlib.metadata.distributions(path=[str(packages)]):
        try:
            yield canonicalize_name(item.name), Version(item.version)
        except (InvalidVersion, TypeError, AttributeError, KeyError):
            raise SourceError(
                "pip installed a distribution that says no name or version of itself",
                hint="ask the publisher for a bundle whose wheels hold nothing but what it locks",
            ) from None


def _named(pairs: Sequence[tuple[str, Version]]) -> str:
    return ", ".join(f"`{name} {version}`" for name, version in pairs)
