# SPDX-License-Identifier: Apache-2.0
"""Authenticate to a registry: without credentials, with basic authentication, or with a bearer token for a scope.

Source: distribution's token specification (docs/spec/auth). A token is requested once per scope and kept in memory;
credentials go to the registry's own origin and, over TLS, to the token server it names, and nowhere else.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from packager import canonical, escape
from packager.errors import SourceError
from packager.transport.registry.credentials import Credential


class Response(Protocol):
    """The response of a registry or token server."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def data(self) -> bytes: ...


Send = Callable[[str, str, Mapping[str, str], bytes | None], Response]
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"')
_LONGEST_MESSAGE = 300  # characters of a server's message
_MAX_TOKEN = 1 << 20  # bytes


class Login:
    """The credentials of one registry, in the form that it requires."""

    def __init__(self, challenge: str | None, find: Callable[[], Credential | None], send: Send, secure: bool) -> None:
        self._scheme, self._parameters = _parsed(challenge)
        self._find, self._send, self._secure = find, send, secure
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}
        self._found: tuple[Credential | None] | None = None

    def header(self, name: str, *, actions: str, also: tuple[str, ...] = (), renew: bool = False) -> str | None:
        """Return the Authorization header for `actions` on repository `name`, or None where none is needed."""
        with self._lock:
            if self._scheme == "bearer":
                return self._bearer(name, actions, also, renew)
            credential = self._credential() if self._scheme == "basic" else None
            return credential.basic if credential else None

    def helps(self, answer: Response, *, sent: bool) -> bool:
        """Return whether to repeat a request that got `answer` with other credentials than were `sent`.

        A registry whose `/v2/` is open to anonymous clients (zot, Harbor) requires a login where it needs one; some do
        so without a challenge, or with 403. The challenge is then used from now on.
        """
        with self._lock:
            if answer.status == 401:
                scheme, parameters = _parsed(answer.headers.get("WWW-Authenticate"))
                if scheme and not self._scheme:
                    self._scheme, self._parameters = scheme, parameters
            if answer.status in (401, 403) and not sent and not self._scheme and self._credential():
                self._scheme = "basic"
                return True
            return answer.status == 401 and bool(self._scheme)

    def has_credential(self) -> bool:
        """Return whether a credential is stored for the registry."""
        with self._lock:
            return self._credential() is not None

    def _credential(self) -> Credential | None:
        if self._found is None:
            self._found = (self._find(),)
        return self._found[0]

    def _bearer(self, name: str, actions: str, also: tuple[str, ...], renew: bool) -> str:
        scopes = [f"repository:{name}:{actions}", *(f"repository:{other}:pull" for other in also)]
        key = " ".join(scopes)
        if renew or key not in self._tokens:
            self._tokens[key] = self._token(scopes)
        return f"Bearer {self._tokens[key]}"

    def _token(self, scopes: list[str]) -> str:
        realm = self._parameters.get("realm", "")
        if urlsplit(realm).scheme not in ("https", "http"):
            raise SourceError("the registry names no token server")
        credential = self._credential()
        service = self._parameters.get("service", "")
        if credential and not credential.user:  # an identity token is exchanged (OAuth 2)
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": "packager",
                "scope": " ".join(scopes),
                "refresh_token": credential.secret,
            }
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            return _read(self._send("POST", realm, kind, urlencode(form).encode()), realm, credential)
        query = urlencode([("service", service), *(("scope", scope) for scope in scopes)], quote_via=quote)
        headers = {"Authorization": credential.basic} if credential else {}
        return _read(
            self._send("GET", f"{realm}{'&' if '?' in realm else '?'}{query}", headers, None), realm, credential
        )


def _parsed(challenge: str | None) -> tuple[str, dict[str, str]]:
    """Return the scheme of a `WWW-Authenticate` header in lower case, empty if there is none, and its parameters."""
    scheme, _, rest = (challenge or "").partition(" ")
    return scheme.lower(), dict(_PARAMETER.findall(rest))


def first_error(data: bytes) -> tuple[str, str]:
    """Return code and message of the first error in a response, each with its punctuation for a sentence; else empty.

    Source: distribution-spec 1.1, "Error Codes"; Docker Hub's token server has `details` instead.
    """
    try:
        value = canonical.load(data, limit=len(data))
        first = value["errors"][0] if "errors" in value else {"message": value["details"]}
        code, message = (escape.line(first.get(key) or "")[:_LONGEST_MESSAGE] for key in ("code", "message"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    return f" {code}" if code else "", f": {message}" if message else ""


def _read(answer: Response, realm: str, credential: Credential | None) -> str:
    host = urlsplit(realm).netloc.rpartition("@")[2]
    if answer.status in (400, 401, 403) and credential is None:
        raise SourceError(
            f"token server `{host}` gives anonymous clients no token ({answer.status}), and no credentials are stored",
            hint="log in with `docker login` or `podman login`",
        )
    if answer.status in (400, 401, 403):
        raise SourceError(
            f"token server `{host}` refused the credentials ({answer.status}){first_error(answer.data)[1]}",
            hint="log in again with docker or podman",
        )
    try:
        value = canonical.load(answer.data, limit=_MAX_TOKEN)
        token = value.get("token") or value.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if answer.status != 200 or not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SourceError(f"token server `{host}` gave no token (status {answer.status})")
    return token
