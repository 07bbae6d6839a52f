# SPDX-License-Identifier: Apache-2.0
"""Credentials as Docker and Podman keep them: `auths`, `credHelpers` and `credsStore` of their JSON files.

Sources: docker/cli config file reference; containers-auth.json(5); docker-credential-helpers protocol (`get`: the
server's name on stdin, `{"Username", "Secret"}` on stdout). Secrets never enter a message, a log or an argument list.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager.errors import SourceError, UsageError

_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_SECONDS = 30  # a helper may unlock a key ring, but not hang a pipeline for ever
_NOT_FOUND = "credentials not found in native keychain"  # what helpers print when they know nothing
_DOCKER_HUB = "https://index.docker.io/v1/"


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

    The most specific key wins (`host/team/model` before `host/team` before `host`). Raises UsageError for a file
    that is not readable as such, SourceError for a helper that fails.
    """
    keys = list(_keys(host, name))
    for file in files:
        config = _load(file)
        if config and (found := _from(config, file, keys, environment)):
            return found
    return None


def _keys(host: str, name: str) -> Iterator[str]:
    parts = [host, *name.split("/")]
    for count in range(len(parts), 0, -1):
        yield "/".join(parts[:count])
    yield from (f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")
    if host in ("docker.io", "registry-1.docker.io", "index.docker.io"):
        yield _DOCKER_HUB


def _load(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        value = None  # the text may hold secrets: it is not quoted
    if not isinstance(value, dict):
        raise UsageError(f"credential file `{file}` is not readable JSON", hint="log in again with docker or podman")
    return value


def _from(
    config: Mapping[str, Any], file: Path, keys: Sequence[str], environment: Mapping[str, str]
) -> Credential | None:  # fmt: skip
    helpers, auths = config.get("credHelpers") or {}, config.get("auths") or {}
    for key in keys:
        if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
            return _ask(helpers[key], key, environment)
        if isinstance(auths, dict) and (found := _stored(auths.get(key), file)):
            return found
    store = config.get("credsStore")
    if isinstance(store, str) and store:
        for key in keys:
            if found := _ask(store, key, environment):
                return found
    return None


def _stored(entry: object, file: Path) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return Credential("", str(token))
    if not entry.get("auth"):
        return None  # the secret is with a helper
    try:
        user, colon, secret = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError):
        colon = ""
    if not colon:
        raise UsageError(f"credential file `{file}` holds a malformed entry", hint="log in again with docker or podman")
    return Credential(user, secret.rstrip("\0"))


def _ask(helper: str, key: str, environment: Mapping[str, str]) -> Credential | None:
    """Run a credential helper: an argument list, never a shell; its name cannot be a path."""
    if not _HELPER.fullmatch(helper):
        raise UsageError("a credential file names a helper that is not a plain program name")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=key, capture_output=True, text=True, env=dict(environment),
                              timeout=_SECONDS, check=False)  # fmt: skip
    except FileNotFoundError:
        raise SourceError(f"credential helper `{program}` is not installed", hint="put it on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"credential helper `{program}` did not answer within {_SECONDS} seconds") from None
    if done.returncode:
        if _NOT_FOUND in done.stdout + done.stderr:
            return None
        raise SourceError(f"credential helper `{program}` failed with status {done.returncode}",
                          hint=f"run `{program} get` by hand")  # fmt: skip
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"credential helper `{program}` gave an answer of another form") from None
    return Credential("" if user == "<token>" else user, secret)
