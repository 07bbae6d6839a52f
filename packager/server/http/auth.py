# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: allow clients that send one of the tokens of a file, if there is one.

The file has one token per line, so that a new one can be issued before the old one is removed; empty lines and those
that start with `#` are ignored. Tokens are compared by their hash, in constant time. Health needs no token: probes have
none, and it discloses nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from packager.server.errors import RequestError, StartError, quote

_MIN_LENGTH = 16  # characters: shorter ones can be guessed
_MAX_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Guard:
    """The hashes of the accepted tokens; empty: no token is needed."""

    known: tuple[bytes, ...] = ()

    @staticmethod
    def read(path: Path) -> Guard:
        """Read the tokens. Raises StartError."""
        try:
            with path.open("rb") as file:
                rows = [row.strip() for row in file.read(_MAX_BYTES).splitlines()]
        except OSError as error:
            raise StartError(f"tokens {quote(path)} cannot be read: {error.strerror}") from None
        tokens = [row for row in rows if row and not row.startswith(b"#")]
        if not tokens or any(len(token) < _MIN_LENGTH for token in tokens):
            raise StartError(f"tokens {quote(path)}: expected tokens of {_MIN_LENGTH} characters or more, one a line")
        return Guard(tuple(map(_hash, tokens)))

    def check(self, header: str | None) -> None:
        """Raise RequestError with status 401 unless `header`, an Authorization field, names a token."""
        if not self.known:
            return
        scheme, _, token = (header or "").partition(" ")
        given = _hash(token.strip().encode())
        if scheme.lower() != "bearer" or not any(hmac.compare_digest(given, known) for known in self.known):
            raise RequestError("expected `Authorization: Bearer` with a token this server knows", status=401)


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
