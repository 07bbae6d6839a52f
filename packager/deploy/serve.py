# SPDX-License-Identifier: Apache-2.0
"""Serve an installation: the processes of its current release under one supervisor, which follows what becomes current.

The server processes run on the release's own environment and get nothing of the caller's but what is listed here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from packager.bundle.bundle import Bundle
from packager.bundle.knobs import KnobSources
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.install import server_command
from packager.deploy.installation import Installation
from packager.deploy.secret_files import open_secret
from packager.errors import SourceError, UsageError
from packager.server.knobs import SECRETS

if TYPE_CHECKING:
    from packager.server.process.supervisor import Plan

_OLD = {"host": "server.host", "port": "server.port", "grpc-port": "server.grpc_port", "threads": "runtime.threads"}
"""The options that a server had before there were knobs, by name, with the knobs that replace them."""
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


@dataclass
class ServiceLog:
    """Writes what a supervisor says as the server writes its events: JSON lines, or with `form` `text` words."""

    stream: TextIO
    clock: Callable[[], datetime]
    form: str = "json"

    def __call__(self, name: str, level: int = 20, **fields: object) -> None:
        words = {20: "info", 30: "warning", 40: "error"}
        time = self.clock().isoformat(timespec="milliseconds")
        if self.form == "json":
            line = json.dumps({"time": time, "level": words[level], "event": name, **fields}, separators=(",", ":"))
        else:
            line = " ".join(
                [time, words[level], name, *(f"{key}={json.dumps(value)}" for key, value in fields.items())]
            )
        self.stream.write(f"{line}\n")
        self.stream.flush()


@dataclass(frozen=True)
class Service:
    """What serves a directory of `install_bundle`: knobs over those of the installation, and the environment.

    `check` gets the bundle of each release before it is served, and raises what is wrong with it; None checks nothing
    again.
    """

    directory: Path
    knobs: KnobSources = field(default_factory=KnobSources)
    variables: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Bundle], None] | None = None

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Return the command that serves what is current now, without a supervisor, and its environment."""
        from packager.server.process.systemd import VARIABLES

        return self._command(Installation.open(self.directory))[0], self._environment(*VARIABLES)

    def secret_references(self) -> list[str]:
        """Return the references of the secrets that knobs name: `env:NAME`, `file:/path`. Raises UsageError."""
        values = Installation.open(self.directory).resolve_knobs(self.knobs).values
        return [str(values[knob]) for knob in SECRETS if knob in values]

    def run(self, log: ServiceLog) -> int:
        """Serve until SIGTERM or SIGINT, and follow what becomes current; return the exit code.

        Call it in the main thread, because it handles signals. SIGHUP takes new knobs, certificates and tokens. Raises
        SourceError where the address is not available, UsageError, and what `check` raises of the first release.
        """
        from packager.server.errors import StartError
        from packager.server.process.supervisor import Supervisor
        from packager.server.process.systemd import Systemd

        link = Installation.open(self.directory).link
        try:
            systemd = Systemd.from_environment(self.variables, os.getpid())
            return Supervisor(lambda: self._plan(log), link.readlink, log, systemd).run()
        except StartError as error:
            raise SourceError(error.message, hint=error.hint) from None

    def _plan(self, log: ServiceLog) -> Plan:
        """Return how to serve what is current now. Raises PackagerError."""
        from packager.server.process.supervisor import Plan

        installation = Installation.open(self.directory)
        release = installation.release
        if not installation.is_supervised:
            raise UsageError(f"`{release.name}` was installed by an older packager", hint="restart `packager serve`")
        command, values = self._command(installation)
        log.form = str(values.get("log.format", "json"))
        grpc_port = values.get("server.grpc_port")
        return Plan(
            tuple(command),
            release.name,
            int(values.get("server.processes", 1)),
            str(values["server.host"]),
            int(values["server.port"]),
            None if grpc_port is None else int(grpc_port),
            float(values["server.drain"]),
            self._environment(),
        )

    def _command(self, installation: Installation) -> tuple[list[str], Mapping[str, JSON]]:
        if self.check is not None:
            self.check(installation.bundle)
        options, values = self._options(installation)
        return server_command(installation.release, options), values

    def _options(self, installation: Installation) -> tuple[list[str], Mapping[str, JSON]]:
        """Return the arguments of the server, all knobs in one document and where its secrets are; and the values."""
        found = installation.resolve_knobs(self.knobs)
        if not installation.knows_knobs:
            words = [
                word
                for flag, knob in _OLD.items()
                if knob in found.values
                for word in (f"--{flag}", str(found.values[knob]))
            ]
            return words, found.values
        secrets = [
            f"{option}={open_secret(knob, found.values[knob], self.variables)}"
            for knob, option in SECRETS.items()
            if knob in found.values
        ]
        return [f"--knobs={server_files.build_document(found)}", *secrets], found.values

    def _environment(self, *more: str) -> dict[str, str]:
        return {name: self.variables[name] for name in (*_KEPT, *more) if name in self.variables}
