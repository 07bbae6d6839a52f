# SPDX-License-Identifier: Apache-2.0
"""Send HTTP requests to one registry: scheme, TLS trust, retries, and which origins get the credentials."""

from __future__ import annotations

import functools
import http.client
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from packager import __version__
from packager.errors import SourceError, UsageError
from packager.records import dataclass
from packager.transport.registry.connections import Connections, Response, speaks_tls
from packager.transport.registry.credentials import Credential, find
from packager.transport.registry.deadline import Pace, is_overdue
from packager.transport.registry.login import Login, first_error
from packager.transport.registry.reference import Reference

AGAIN = {408, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
MAX_ANSWER = 8 << 20  # bytes of an answer that is read whole
_FIRST_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of retries: `attempts` in a row without progress, waits in seconds."""

    attempts: int = 6
    first: float = 0.5
    longest: float = 30.0

    def wait(self, attempt: int, key: str, retry_after: str | None) -> float:
        """Return the seconds to wait before attempt number `attempt` (from 1).

        Doubling, spread by up to a quarter so that parallel transfers do not retry together; the server's Retry-After
        counts, but never more than `longest`.
        """
        spread = 1 + (zlib.crc32(f"{key}{attempt}".encode()) % 256) / 1024
        own = min(self.first * float(2 ** (attempt - 1)) * spread, self.longest)
        stated = float(retry_after) if retry_after and re.fullmatch(r"[0-9]{1,6}", retry_after) else 0.0
        return max(own, min(stated, self.longest))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that the command line passes to the library."""

    credential_files: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # for credential helpers
    ca_file: Path | None = None
    plain_http: bool = False
    proxy: Callable[[str, str], str | None] = lambda scheme, host: None
    sessions: Path | None = None  # directory of unfinished uploads, kept between processes
    jobs: int = 4
    patience: Patience = Patience()
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    pace: Pace = field(default_factory=Pace)


class BrokenConnectionError(SourceError):
    """The connection broke; the caller may resume. `retry_after` is the server's header."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Body:
    """A request body of known size; unless `repeatable`, it can be produced once."""

    size: int
    chunks: Callable[[], Iterable[bytes | memoryview]]
    repeatable: bool = True

    @staticmethod
    def of(data: bytes) -> Body:
        return Body(len(data), lambda: (data,))


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `data` is its whole, bounded body, unless a stream was requested and the status is a success."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    stream: Response | None = None


class Wire:
    """Requests to the host of one reference. Safe to use from several threads."""

    def __init__(self, reference: Reference, settings: Settings) -> None:
        self.reference, self.settings = reference, settings
        if settings.ca_file:
            _context(settings.ca_file)  # raises before anything is sent
        self._connections = Connections(
            functools.partial(_context, settings.ca_file),
            settings.proxy,
            settings.pace,
            most=settings.jobs + 1,
            connect_seconds=settings.connect_seconds,
            read_seconds=settings.read_seconds,
        )
        self._greeting = threading.Lock()
        self._login: Login | None = None
        self.origin = ""

    def request(
        self,
        method: str,
        url: str,
        *,
        ok: Iterable[int],
        push: bool = False,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        also: tuple[str, ...] = (),
    ) -> Answer:
        """Send a request that may be repeated, and return a response whose status is in `ok`.

        `push`: the repository is written; `also`: other repositories that are read (for mounting).
        Raises BrokenConnectionError when every attempt broke, SourceError for any other status.
        """
        wanted = set(ok)
        for attempt in range(1, self.settings.patience.attempts + 1):
            try:
                answer = self.once(method, url, push=push, stream=stream, headers=headers, body=body, also=also)
                if answer.status in wanted or answer.status not in AGAIN:
                    return self._accept(answer, wanted, method)
                problem = BrokenConnectionError(
                    describe_answer(answer, self.reference), retry_after=answer.headers.get("Retry-After")
                )
            except BrokenConnectionError as error:
                problem = error
            if attempt < self.settings.patience.attempts:
                self.pause(attempt, url, problem.retry_after)
        raise problem

    def pause(self, attempt: int, key: str, retry_after: str | None = None) -> None:
        """Wait before the next attempt."""
        time.sleep(self.settings.patience.wait(attempt, key, retry_after))

    def once(
        self,
        method: str,
        url: str,
        *,
        push: bool = False,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        also: tuple[str, ...] = (),
    ) -> Answer:
        """Send a request once, with the credentials it needs, following redirects; any status is returned."""
        login = self.login()
        target = urljoin(self.origin, url)
        deletes = method == "DELETE" and "/manifests/" in url
        actions = "pull,push,delete" if deletes else "pull,push" if push else "pull"
        for renewed in (False, True):
            given = {**(headers or {}), **self._authorization(login, target, actions, also, renew=renewed)}
            answer = self._follow(method, target, given, body, stream)
            if renewed or not self._is_ours(target) or not login.helps(answer, sent="Authorization" in given):
                break  # else the token may have expired, or anonymous clients have fewer rights than on /v2/
            if body is not None and not body.repeatable:
                self._authorization(login, target, actions, also, renew=True)
                raise BrokenConnectionError(f"the token of registry `{self.reference.host}` expired during an upload")
        if answer.status == 401:
            verb = "refuses the credentials for" if login.has_credential() else "requires credentials for"
            raise SourceError(
                f"registry `{self.reference.host}` {verb} `{self.reference.name}`{first_error(answer.data)[1]}",
                hint=f"log in with `docker login {self.reference.host}` or `podman login {self.reference.host}`",
            )
        return answer

    def _accept(self, answer: Answer, wanted: set[int], method: str) -> Answer:
        if answer.status in wanted:
            return answer
        text = describe_answer(answer, self.reference)
        if answer.status == 403:
            raise SourceError(f"{text}: not allowed", hint=self._denied())
        raise SourceError(f"{text} ({method})")

    def _denied(self) -> str:
        if self.login().has_credential():
            return "the account has no right for this repository, or its quota is used up"
        return f"no credentials for `{self.reference.host}` are stored: log in with `docker login` or `podman login`"

    def _authorization(
        self, login: Login, target: str, actions: str, also: tuple[str, ...], *, renew: bool
    ) -> dict[str, str]:
        """Return the header with our credentials, for the registry's own origin only."""
        if not self._is_ours(target):
            return {}
        value = login.header(self.reference.name, actions=actions, also=also, renew=renew)
        return {"Authorization": value} if value else {}

    def _is_ours(self, target: str) -> bool:
        return urlsplit(target)[:2] == urlsplit(self.origin)[:2]

    def _follow(self, method: str, target: str, headers: Mapping[str, str], body: Body | None, stream: bool) -> Answer:
        for _ in range(5):
            answer = self.send(method, target, headers, body, stream)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not location or method not in ("GET", "HEAD"):
                return answer
            there = urljoin(target, location)
            if urlsplit(there).scheme not in ("https", urlsplit(target).scheme):
                raise SourceError(f"registry `{self.reference.host}` redirects from https to an unprotected address")
            if urlsplit(there)[:2] != urlsplit(target)[:2]:  # storage behind the registry has its own authorisation
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            target = there
        raise SourceError(f"registry `{self.reference.host}` redirects in circles")

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: Body | None = None, stream: bool = False
    ) -> Answer:
        """Send exactly one HTTP request. Raises BrokenConnectionError without a response."""
        given = {"User-Agent": f"packager/{__version__}", **headers}
        if body is not None:
            given["Content-Length"] = str(body.size)
        elif method in ("POST", "PUT"):
            given["Content-Length"] = "0"
        try:
            response = self._connections.request(method, target, given, body.chunks() if body else None)
            if stream and response.status in (200, 206):
                response.allow_stream()
                return Answer(response.status, response.headers, b"", response)
            data = response.read(MAX_ANSWER + 1)
        except ssl.SSLError as error:
            raise self._tls(error) from None
        except socket.gaierror:
            raise SourceError(
                f"there is no host `{urlsplit(target).hostname}`", hint="check the name and the network"
            ) from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            if is_overdue(error):
                raise self.overdue() from None
            raise BrokenConnectionError(
                f"the connection to registry `{self.reference.host}` failed: {_reason(error)}",
                hint="check the network and repeat: what was transferred is kept",
            ) from None
        if len(data) > MAX_ANSWER:
            response.close()
            raise SourceError(f"registry `{self.reference.host}` answered with more than {MAX_ANSWER} bytes")
        response.release()
        return Answer(response.status, response.headers, data)

    def overdue(self) -> SourceError:
        """Return the error for a registry that responds too slowly; there is no retry."""
        return SourceError(
            f"registry `{self.reference.host}` takes too long: expected an answer within "
            f"{self.settings.pace.answer:g} s, and then {self.settings.pace.rate:g} bytes a second",
            hint="check what is between here and the registry, and repeat: what was transferred is kept",
        )

    def _tls(self, error: ssl.SSLError) -> SourceError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return SourceError(
                f"the certificate of registry `{self.reference.host}` is not trusted: {_reason(error)}",
                hint="give the certificate of its authority with `--registry-ca FILE`",
            )
        return _NoTLSError(
            f"registry `{self.reference.host}` does not speak TLS: {_reason(error)}",
            hint="`--plain-http` allows an unprotected connection",
        )

    # the first request

    def login(self) -> Login:
        """Determine, once, the registry's scheme and its challenge."""
        with self._greeting:
            if self._login is None:
                self._login = self._greet()
            return self._login

    def _greet(self) -> Login:
        answer = self._ping()
        if answer.status not in (200, 401, 403, 404, 405):
            raise SourceError(describe_answer(answer, self.reference), hint="is this the address of an OCI registry?")
        parts = urlsplit(self.origin)
        return Login(
            answer.headers.get("WWW-Authenticate"), self.credential, self._fetch_token, parts.scheme == "https"
        )

    def _ping(self) -> Answer:
        """Send the first request over TLS; without TLS only to this machine, or with `--plain-http`."""
        host = self.reference.host
        schemes = ["https"]
        if self.settings.plain_http:
            schemes = ["http"]
        elif self.reference.is_loopback:
            schemes = ["https", "http"] if self._may_speak_tls() else ["http"]
        for scheme in schemes:
            self.origin = f"{scheme}://{host}/"
            try:
                return self._retry_briefly("GET", f"{self.origin}v2/")
            except _NoTLSError:
                if scheme == schemes[-1]:
                    raise
            except BrokenConnectionError as error:  # it was retried already: the caller does not retry again
                raise SourceError(error.message, hint="check the address and the network") from None
        raise AssertionError

    def _may_speak_tls(self) -> bool:
        """Return whether TLS is worth an attempt: not for a registry on this machine that answers without it."""
        parts = urlsplit(f"https://{self.reference.host}")
        if self.settings.proxy("https", parts.hostname or ""):
            return True
        return speaks_tls(parts.hostname or "", parts.port or 443, self.settings.connect_seconds)

    def _retry_briefly(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Answer:
        """Send, and retry a few times: nothing is lost yet, and a wrong address should not cost a minute."""
        attempts = min(self.settings.patience.attempts, _FIRST_ATTEMPTS)
        for attempt in range(1, attempts + 1):
            try:
                answer = self.send(method, url, headers or {}, body)
                if answer.status not in AGAIN or attempt == attempts:
                    return answer
                retry_after = answer.headers.get("Retry-After")
            except BrokenConnectionError:
                if attempt == attempts:
                    raise
                retry_after = None
            self.pause(attempt, url, retry_after)
        raise AssertionError

    def credential(self) -> Credential | None:
        """Look up the credential; called at most once per login."""
        settings = self.settings
        return find(self.reference.host, self.reference.name, settings.credential_files, settings.environment)

    def _fetch_token(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        scheme = urlsplit(url).scheme
        if scheme != "https" and urlsplit(self.origin).scheme == "https":
            raise SourceError(f"registry `{self.reference.host}` sends its users to an unprotected token server")
        return self._retry_briefly(method, url, headers, Body.of(body) if body is not None else None)


class _NoTLSError(SourceError):
    """The server does not speak TLS."""


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError):
            raise UsageError(f"`{ca_file}` holds no readable certificates", hint="give a PEM file") from None
    return context


def _reason(error: BaseException) -> str:
    """Return the reason without the memory addresses and nested reprs of the HTTP library."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = re.sub(r"<[^>]*>:? ?", "", str(error.args[0] if error.args else error))
    return re.sub(r"\s+", " ", text)[:200] or type(error).__name__


def describe_answer(answer: Answer, reference: Reference) -> str:
    """Describe a registry's response, with the code and message of its first error, if it has the specified form."""
    code, message = first_error(answer.data)
    return f"registry `{reference.host}` answered {answer.status}{code} for `{reference.name}`{message}"
