# SPDX-License-Identifier: Apache-2.0
"""Handle addresses of package indexes: which a lock may name, and how credentials are kept out of files and messages.

An address contains credentials if it has a user, a password, a query, or a token in its path, which looks like a plain
directory. So an address from the environment is never recorded, only its name
(`UV_INDEX=acme=https://…`); one from a lock file beside the recipe is, unless it seems to contain credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

from packager.formats.secrets import is_token, scan

PUBLIC_HOST = "files.pythonhosted.org"  # PyPI's file host; the address of a mirror would name an internal host
_PUBLIC_HOSTS = frozenset({PUBLIC_HOST, "pypi.org", "download.pytorch.org"})  # whose paths contain no credentials
_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(?=[a-z]+:)")
_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s`'\"<>()\[\]{},]+)", re.IGNORECASE)
_PLACE = re.compile(r"[\w.-]*(:[0-9]+)?")
_FILE = re.compile(r"[\w.+%-]+\.(?:whl|tar\.gz|zip|metadata|git)")
_DEFAULTS = {"uv": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), "pip": ("PIP_INDEX_URL",)}
_EXTRAS = {"uv": ("UV_INDEX", "UV_EXTRA_INDEX_URL"), "pip": ("PIP_EXTRA_INDEX_URL",)}


@dataclass(frozen=True, slots=True)
class Index:
    """An index: its `address` with credentials; `label` is what may be recorded: a name or an address, or None."""

    address: str = field(repr=False)
    label: str | None


def has_credentials(address: str) -> bool:
    """Return whether the address of an index contains credentials, or seems to."""
    parts = urlsplit(address)
    segments = parts.path.split("/")
    return "@" in parts.netloc or bool(parts.query) or any(map(is_token, segments)) or any(scan(address.encode()))


def is_address(index: str) -> bool:
    """Return whether a recorded index is an address, not a name."""
    return "://" in index


def of_environment(variables: Mapping[str, str]) -> tuple[Index, ...]:
    """Return the indexes beyond the default one that the environment names to uv or pip."""
    found: dict[str, Index] = {}
    for names in _EXTRAS.values():
        for word in _words(variables, names):
            named = _NAMED.match(word)
            index = Index(_opened(word, variables), named[1].lower() if named else None)
            found.setdefault(_bare(index.address), index)
    return tuple(found.values())


def share_indexes(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which uv and pip use the same indexes: without settings for one, the other's count.

    uv resolves and pip reads what was chosen, so one with fewer indexes would find nothing. Neither breaks lines.
    """
    found = {**variables, "UV_NO_WRAP": "1"}
    for one, other in (("uv", "pip"), ("pip", "uv")):
        if not _words(variables, _DEFAULTS[one]) and (words := _words(variables, _DEFAULTS[other])):
            found[_DEFAULTS[one][0]] = _opened(words[0], variables)
        if not _words(variables, _EXTRAS[one]) and (words := _words(variables, _EXTRAS[other])):
            found[_EXTRAS[one][-1]] = " ".join(_opened(word, variables) for word in words)
    return found


def list_used(files: Iterable[str], own: Iterable[str], variables: Mapping[str, str]) -> tuple[Index, ...]:
    """Return the indexes besides the default that `files` (addresses) came from: `own` ones of the recipe's lock file,
    or of the environment.

    A file is assigned to the index on its host with the longest common path; one on a host of no index, to all of the
    recipe's.
    """
    recorded = [Index(address, address) for address in own]
    known = [*recorded, *of_environment(variables)]
    default = [Index(_opened(word, variables), "") for names in _DEFAULTS.values() for word in _words(variables, names)]
    found: dict[str, Index] = {}
    for address in {*files}:
        if urlsplit(address).scheme not in ("https", "http") or urlsplit(address).hostname in (PUBLIC_HOST, None):
            continue
        near = [index for index in (*known, *default) if _host(index.address) == _host(address)]
        best = [max(near, key=lambda index: _shared_path(index.address, address))] if near else recorded
        found |= {index.address: index for index in best if index not in default}
    return tuple(sorted(found.values(), key=lambda index: (index.label or "", index.address)))


def find_public(address: str, own: Iterable[str], variables: Mapping[str, str]) -> str | None:
    """Return the address of a file without credentials and query if it is public, else None.

    Public are PyPI, and indexes that the recipe's lock file names and the environment does not.
    """
    parts = urlsplit(address)
    ours = {_host(index.address) for index in of_environment(variables)}
    ours |= {_host(word) for names in _DEFAULTS.values() for word in _words(variables, names)}
    theirs = {_host(index) for index in own} - ours
    if parts.scheme not in ("https", "http") or (parts.hostname != PUBLIC_HOST and _host(address) not in theirs):
        return None
    if parts.hostname != PUBLIC_HOST and any(is_token(part, digests=False) for part in parts.path.split("/")[:-1]):
        return None
    return _bare(address)


def redact_addresses(text: str) -> str:
    """Return a text whose addresses are reduced to host and file name, so that they contain no credentials."""

    def shown(match: re.Match[str]) -> str:
        rest = match[2].rstrip(".:;")
        authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        host = authority.rpartition("@")[2]
        if not _PLACE.fullmatch(host):  # such as half of a password
            return f"{match[1]}://…"
        if host.partition(":")[0] not in _PUBLIC_HOSTS and host:
            last = path.rpartition("/")[2]
            path = f"…/{last}" if _FILE.fullmatch(last) else "…" if path else ""
        return f"{match[1]}://{host}{slash}{path}{match[2][len(rest) :]}"

    return _ADDRESS.sub(shown, text)


def find_refusal(said: str) -> str | None:
    """Return the index that refuses the login, and its status, from the output of uv or pip: "`host` (401)"."""
    for pattern in _REFUSALS:
        if found := pattern.search(said):
            return f"`{_host(found['at'])}` ({found['status']})"
    return None


REFUSED = (
    "UV_INDEX_NAME_USERNAME and _PASSWORD, `~/.netrc`, the keyring, or the address in UV_INDEX or PIP_EXTRA_INDEX_URL"
)
"""Where tools look for what opens an index."""
_REFUSALS = tuple(
    map(
        re.compile,
        (
            r"index URL \((?P<at>[^\s)]+)\)[^\n]*?(?P<status>40[13])",
            r"\((?P<status>40[13]) [^)]*\) for url \((?P<at>[^\s)]+)\)",
            r"(?P<status>40[13])(?: Client)? Error[^\n]*? (?:for|url:) (?P<at>\w+://\S+)",
        ),
    )
)


def _words(variables: Mapping[str, str], names: Iterable[str]) -> list[str]:
    return [word for name in names for word in variables.get(name, "").split()]


def _opened(word: str, variables: Mapping[str, str]) -> str:
    """Return the address of a setting, with user and password from uv's variables for a named index."""
    named = _NAMED.match(word)
    address = word[named.end() :] if named else word
    parts = urlsplit(address)
    prefix = f"UV_INDEX_{re.sub(r'[^A-Z0-9]', '_', named[1].upper())}" if named else ""
    user, secret = variables.get(f"{prefix}_USERNAME", ""), variables.get(f"{prefix}_PASSWORD", "")
    if not named or "@" in parts.netloc or not (user or secret):
        return address
    login = quote(user, safe="") + (f":{quote(secret, safe='')}" if secret else "")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


def _bare(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _host(address: str) -> str:
    return urlsplit(_NAMED.sub("", address)).netloc.rpartition("@")[2].lower()


def _shared_path(one: str, other: str) -> int:
    """Return the number of leading folders that two addresses share."""
    pairs: Iterator[tuple[str, str]] = zip(urlsplit(one).path.split("/"), urlsplit(other).path.split("/"), strict=False)
    count = 0
    for left, right in pairs:
        if left != right:
            break
        count += 1
    return count
