# SPDX-License-Identifier: Apache-2.0
"""Find credentials in the files of Docker and Podman: `auths`, `credHelpers` and `credsStore`.

Sources: docker/cli config file reference; containers-auth.json(5); docker-credential-helpers protocol (`get`: the
server's name on stdin, `{"Username", "Secret"}` on stdout). Secrets never enter a message, a log or an argument list.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from packager.errors import SourceError, UsageError
from packager.records import dataclass

_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_SECONDS = 30  # a helper may unlock a key ring, but must not block a pipeline
_NOT_FOUND = "credentials not found in native keychain"  # what helpers print without a credential
_DOCKER_HUB = "https://index.docker.io/v1/"  # Docker's key for its own registry
_HUB = "docker.io"
_HUBS = frozenset({_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A user with a password, or an identity token (`user` empty)."""

    user: str
    secret: str = field(repr=False)

    @property
    def basic(self) -> str:
        """Return the value of a basic Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find(host: str, name: str, files: Sequence[Path], environment: Mapping[str, str]) -> Credential | None:
    """Return the credential for repository `name` on `host` from the first file that has one.

    The most specific key wins (`host/team/model` before `host/team` before `host`), whichever way it is spelled:
    `https://host`, `host/`, `host/v1/` and, for Docker Hub, any of its names. Raises UsageError for a file
    that is not readable as such, SourceError for a helper that fails.
    """
    keys = list(_keys(host.lower(), name))
    for file in files:
        config = _load(file)
        if config and (found := _from(config, file, keys, environment)):
            return found
    return None


def _keys(host: str, name: str) -> Iterator[str]:
    """Yield the keys that a credential may have, the most specific first."""
    parts = [_HUB if host in _HUBS else host, *name.split("/")]
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])


def _plain(key: str) -> str:
    """Return a key as `host` or `host/path`: no scheme, no version of the protocol, no slash at its end."""
    bare = re.sub(r"/v[12]$", "", re.sub(r"^https?://", "", key.strip()).rstrip("/"))
    host, slash, path = bare.partition("/")
    host = host.lower()
    return (_HUB if host in _HUBS else host) + slash + path


def _entries(table: object) -> dict[str, tuple[str, Any]]:
    """Return the entry of each key, with the key as it is spelled; the first of two spellings counts."""
    found: dict[str, tuple[str, Any]] = {}
    for key, value in table.items() if isinstance(table, dict) else ():
        found.setdefault(_plain(key), (key, value))
    return found


def _spellings(keys: Sequence[str]) -> Iterator[str]:
    """Yield the names that a credential store may have for a registry: it compares strings."""
    yield from keys
    host = keys[-1]
    if host == _HUB:
        yield _DOCKER_HUB
    yield from (f"https://{host}", f"https://{host}/", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")


def _load(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        value = None  # the text may contain secrets: it is not quoted
    if not isinstance(value, dict):
        raise UsageError(f"credential file `{file}` is not readable JSON", hint="log in again with docker or podman")
    return value


def _from(
    config: Mapping[str, Any], file: Path, keys: Sequence[str], environment: Mapping[str, str]
) -> Credential | None:
    helpers, auths = _entries(config.get("credHelpers")), _entries(config.get("auths"))
    for key in keys:
        spelled, helper = helpers.get(key, ("", None))
        if isinstance(helper, str):
            return _run_helper(helper, spelled, environment)
        if found := _stored(auths.get(key, ("", None))[1], file):
            return found
    store = config.get("credsStore")
    if isinstance(store, str) and store:
        for key in _spellings(keys):
            if found := _run_helper(store, key, environment):
                return found
    return None


def _stored(entry: object, file: Path) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credential("", str(token))
    if not entry.get("auth"):
        plain = entry.get("username"), entry.get("password")
        return Credential(str(plain[0]), str(plain[1])) if all(plain) else None  # else the secret is with a helper
    try:
        user, colon, secret = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        colon = ""
    if not colon:
        raise UsageError(f"credential file `{file}` holds a malformed entry", hint="log in again with docker or podman")
    return Credential(user, secret.rstrip("\0"))


def _run_helper(helper: str, key: str, environment: Mapping[str, str]) -> Credential | None:
    """Run a credential helper: an argument list, never a shell; its name cannot be a path."""
    if not _HELPER.fullmatch(helper):
        raise UsageError("a credential file names a helper that is not a plain program name")
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key,
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise SourceError(f"credential helper `{program}` is not installed", hint="put it on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"credential helper `{program}` did not answer within {_SECONDS} seconds") from None
    if done.returncode:
        if _NOT_FOUND in done.stdout + done.stderr:
            return None
        raise SourceError(
            f"credential helper `{program}` failed with status {done.returncode}", hint=f"run `{program} get` by hand"
        )
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"credential helper `{program}` gave an answer of another form") from None
    return Credential("" if user == "<token>" else user, secret)
