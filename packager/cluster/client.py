# SPDX-License-Identifier: Apache-2.0
"""The driver's end of the gateway: start it, see that the cluster fits, pass requests on, read answers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from packager import __version__
from packager.canonical import JSON
from packager.cluster import messages
from packager.errors import MissingToolError, SourceError, UsageError

_READY = 300.0  # seconds to connect, and for nodes to say what they have
_REACHED = 10.0  # seconds for a connection to the address
_GRACE = 10.0  # seconds in which the gateway ends by itself
_CHUNK = 1 << 16
_LOG = 2000  # bytes of what a dead gateway printed
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "NO_PROXY", "no_proxy")
"""Of the environment, what the gateway gets besides `RAY_…`: no credentials."""
_REACH = "start a node here (`ray start --address=…`) and use `--ray auto`, or name a server of Ray's client, ray://HOST:10001"


def check_reach(address: str) -> None:
    """Raise SourceError where no connection to HOST:PORT can be made: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").partition("?")[0].rpartition(":")
    if not colon:
        return  # `auto`: Ray knows where
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACHED):
            return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"Ray at `{address}` cannot be reached: {reason}", hint=_REACH) from None


@dataclass
class Gateway:
    """A running gateway; `nodes` are those that answered when it started."""

    address: str
    variables: Mapping[str, str]
    nodes: Sequence[Mapping[str, JSON]] = ()
    _popen: subprocess.Popen[bytes] = field(init=False)
    _jobs: BinaryIO = field(init=False)
    answers: BinaryIO = field(init=False)
    _log: BinaryIO = field(init=False)
    _unread: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        """Start the process. Raises MissingToolError without Ray."""
        if importlib.util.find_spec("ray") is None:
            raise MissingToolError("ray", "ray")
        passed = {key: value for key, value in self.variables.items() if key in _PASSED or key.startswith("RAY_")}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        (given, jobs), (answers, answering) = os.pipe(), os.pipe()
        command = [sys.executable, "-P", "-m", "packager.cluster.gateway"]
        try:
            self._popen = subprocess.Popen(
                command, stdin=given, stdout=answering, stderr=self._log, env=passed, cwd="/", start_new_session=True
            )
        finally:
            os.close(given)
            os.close(answering)
        self._jobs, self.answers = os.fdopen(jobs, "wb", 0), os.fdopen(answers, "rb", 0)

    def connect(self) -> None:
        """Connect to the cluster and look at its nodes.

        Raises SourceError where it cannot be reached or has no node, UsageError where a node has another version.
        """
        check_reach(self.address)
        self.send({"address": self.address})
        first = next(self._lines_within(_READY), None)
        if first is None:
            raise SourceError(f"Ray at `{self.address}` did not answer within {_READY:.0f} seconds", hint=_REACH)
        if "failed" in first:
            raise SourceError(f"Ray at `{self.address}` cannot be used: {first['failed']}", hint=_REACH)
        self.nodes = first["ready"]["nodes"]
        if not self.nodes:
            raise SourceError(f"Ray at `{self.address}` has no node that answers", hint="see `ray status`")
        for node in self.nodes:
            if node["packager"] != __version__:
                raise UsageError(
                    f"node `{node['node']}` has packager {node['packager'] or 'of no version'}, expected {__version__}",
                    hint="install the same version, with the same extras, on every node of the cluster",
                )

    def _lines_within(self, seconds: float) -> Iterator[JSON]:
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as events:
            events.register(self.answers, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if events.select(left):
                    yield from self.read()

    def send(self, value: JSON) -> None:
        """Send one line; a gateway that is dead is noticed where answers are read."""
        data = json.dumps(value).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[self._jobs.write(data) or 0 :]

    def read(self) -> list[JSON]:
        """Return the answers that are there. Raises SourceError where the gateway has ended."""
        data = self.answers.read(_CHUNK)
        if not data:
            raise SourceError(f"the connection to Ray at `{self.address}` ended: {self._last_words()}", hint=_REACH)
        self._unread += data
        found = []
        while (end := self._unread.find(b"\n")) >= 0:
            found.append(messages.load(bytes(self._unread[:end])))
            del self._unread[: end + 1]
        return found

    def _last_words(self) -> str:
        code = self._popen.wait(_GRACE)
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG))
        said = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return said[-1] if said else f"its process ended with status {code}"

    def close(self) -> None:
        """Cancel what runs on the cluster, and end."""
        self._jobs.close()
        try:
            self._popen.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for end in (self.answers, self._log):
            end.close()
