# SPDX-License-Identifier: Apache-2.0
"""Find credentials in files: few patterns, each with a prefix that its issuer uses for nothing else.

The aim is precision: a finding is almost surely real. Credentials without a prefix (a password in prose) are not found.
The prefix is searched first, as bytes, so that megabytes of text cost milliseconds. Sources: GitHub, GitLab, AWS,
Google, Slack, Stripe, npm, PyPI, Hugging Face and Azure on the forms of their tokens; RFC 7468 for PEM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from packager.canonical import JSON

MAX_READ = 64 << 20  # bytes of one file
MAX_FOUND = 100  # of one kind in one file; more only cost time
_NOT_TEXT = frozenset({".bin", ".safetensors", ".engine", ".whl"})  # numbers, native code, and hash-locked packages

_KINDS: tuple[tuple[str, bytes, bytes], ...] = (
    ("private key", b"PRIVATE KEY-----", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:\s|\\n|\\r)+[A-Za-z0-9+/=]{16}"),
    ("AWS access key", b"AKIA", rb"(?<![A-Z0-9])AKIA[A-Z2-7]{16}(?![A-Z0-9])"),
    ("AWS temporary key", b"ASIA", rb"(?<![A-Z0-9])ASIA[A-Z2-7]{16}(?![A-Z0-9])"),
    ("GitHub token", b"gh", rb"(?<![A-Za-z0-9_])gh[pousr]_[A-Za-z0-9]{36,}"),
    ("GitHub token", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{60,}"),
    ("GitLab token", b"glpat-", rb"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}"),
    ("Slack token", b"xox", rb"(?<![A-Za-z0-9])xox[abpers]-[0-9]{8,}-[A-Za-z0-9-]{16,}"),
    ("Google API key", b"AIza", rb"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("Google OAuth secret", b"GOCSPX-", rb"GOCSPX-[A-Za-z0-9_-]{28}"),
    ("Stripe key", b"k_live_", rb"(?<![A-Za-z0-9])[sr]k_live_[A-Za-z0-9]{24,}"),
    ("npm token", b"npm_", rb"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    ("PyPI token", b"pypi-AgE", rb"pypi-AgE[A-Za-z0-9_-]{50,}"),
    ("Hugging Face token", b"hf_", rb"(?<![A-Za-z0-9])hf_[A-Za-z]{34}(?![A-Za-z0-9])"),
    ("Azure storage key", b"AccountKey=", rb"AccountKey=[A-Za-z0-9+/]{86}=="),
)
_QUERY = rb"(?:access_token|private_token|job_token|api_?key|token|password|sig|X-Amz-Signature|X-Amz-Security-Token)"
_ADDRESSES: tuple[tuple[str, bytes], ...] = (  # kind, what follows the scheme
    ("password in an address", rb"://[^\s/:@\"'<>{}$]{1,64}:[^\s/:@\"'<>{}$]{6,64}@[\w-]"),
    ("token in an address", rb"://(?=[^\s/:@]*\d)[^\s/:@\"'<>{}$]{16,200}@[\w-]"),
    ("token in an address", rb"://[^\s\"'<>`]{1,300}?[?&]" + _QUERY + rb"=(?=[^\s&\"'<>]*\d)[^\s&\"'<>{}$]{8,}"),
    ("token in an address", rb"://dl\.cloudsmith\.io/(?!public/|basic/)[A-Za-z0-9]{16}/"),
    ("token in an address", rb"://packagecloud\.io/priv/[0-9a-f]{32,}/"),
)
_SCHEME = re.compile(rb"(?<![A-Za-z0-9_])[a-z][a-z0-9+]{2,15}\Z")
_INDEX = re.compile(  # as requirements, PEP 751, uv's lock, settings, and properties of an SBOM name one
    rb"(?:index|registry)[-\w]*[\"'=:,\s>\[]{1,12}(?:value[\"':\s]{1,6})?(?:[\w.-]+=)?https?\Z"
)
_PATH = re.compile(rb"://[^\s\"'<>`]+")


def is_token(segment: str, *, digests: bool = True) -> bool:
    """Return whether a folder in an address looks like a token: sixteen or more letters and digits, mixed at random.

    A UUID does not: projects have them. With `digests` a bare digest does.
    """
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", segment.lower()):
        return False
    if not digests and len(segment) in _DIGESTS and re.fullmatch(r"[0-9a-f]+", segment):
        return False
    return any(len(run) >= _TOKEN and _changes(run) >= _MIXED for run in re.findall(r"[A-Za-z0-9]+", segment))


_TOKEN, _MIXED = (
    16,
    4,
)  # minimum of letters and digits; minimum of changes between the two, where words and versions have one or two
_DIGESTS = frozenset({32, 40, 60, 62, 64, 96, 128})  # hexadecimal digits, 60 and 62 after folders named by the first


def _changes(run: str) -> int:
    kinds = ["0" if c.isdigit() else "a" if c.islower() else "A" for c in run]
    return sum(one != other for one, other in pairwise(kinds))


_COMPILED = tuple((kind, prefix, re.compile(pattern)) for kind, prefix, pattern in _KINDS)
_OPENED = tuple((kind, re.compile(pattern)) for kind, pattern in _ADDRESSES)
_BEFORE, _AFTER = 64, 512  # bytes around a prefix that a pattern may need


@dataclass(frozen=True, slots=True)
class Secret:
    """The kind and line (from 1) of a credential. Never the credential itself: findings are logged."""

    kind: str
    line: int

    def to_json(self) -> JSON:
        return {"kind": self.kind, "line": self.line}


def is_read(path: str, size: int) -> bool:
    """Return whether a file is searched."""
    return PurePosixPath(path).suffix not in _NOT_TEXT and size <= MAX_READ


def scan(data: bytes) -> Iterator[Secret]:
    """Yield the credentials in the bytes of a file."""
    for kind, prefix, pattern in _COMPILED:
        offset, past, found = data.find(prefix), 0, 0
        while offset >= 0 and found < MAX_FOUND:
            start = max(past, offset - _BEFORE)
            match = pattern.search(data, start, offset + _AFTER)
            if match:
                yield _at(kind, data, match.start())
                past, found = match.end(), found + 1
            offset = data.find(prefix, max(past, offset + len(prefix)))
    yield from _addresses(data)


def _addresses(data: bytes) -> Iterator[Secret]:
    """Yield addresses with credentials, each once."""
    offset, found = data.find(b"://"), 0
    while offset >= 0 and found < MAX_FOUND:
        before = data[max(0, offset - _BEFORE) : offset]
        if _SCHEME.search(before) and (kind := _opened(data, offset, before)):
            yield _at(kind, data, offset)
            found += 1
        offset = data.find(b"://", offset + 3)


def _opened(data: bytes, offset: int, before: bytes) -> str | None:
    for kind, pattern in _OPENED:
        if pattern.match(data, offset, offset + _AFTER):
            return kind
    path = _PATH.match(data, offset, offset + _AFTER) if _INDEX.search(before) else None
    opens = path and any(map(is_token, path[0][3:].decode("ascii", "replace").split("/")[1:]))
    return "token in the address of an index" if opens else None


def _at(kind: str, data: bytes, offset: int) -> Secret:
    return Secret(kind, data.count(b"\n", 0, offset) + 1)
