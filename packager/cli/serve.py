# SPDX-License-Identifier: Apache-2.0
"""Serve an installation: Open Inference Protocol v2 over HTTP and gRPC, health, Prometheus metrics.

The server processes are those of the installed release and run on its own environment; this command watches over
them. When `packager upgrade`, `install` or `rollback` makes another release current, processes of that release start
beside the old ones and take over when they are ready: no request is lost. SIGHUP does the same with the same release,
for new knobs, certificates and tokens. SIGTERM drains and ends all. With --trust, --key or the like every file of a
release is verified before it is served.
Knobs come from the bundle, the installation, --values, PACKAGER_KNOB__…, --set, the later over the earlier;
GET /v2/knobs shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packager.canonical import JSON
from packager.cli import _knobs
from packager.cli import options as trust
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.server.process.supervisor import Plan

FOR = "site"
HELP = "serve an installed bundle (Open Inference Protocol v2)"
EXAMPLES = """  packager serve /srv/digits
  packager serve /srv/digits --port 9000 --threads 4 --trust acme.trust
  packager serve /srv/digits --grpc-port 8001
  packager serve /srv/digits --set server.processes=4 --set auth.tokens=file:/etc/digits/tokens
  packager serve /srv/digits --values berlin.yaml --set log.level=debug
  PACKAGER_KNOB__SERVER__MAX_IN_FLIGHT=32 packager serve /srv/digits
  curl http://127.0.0.1:8000/v2/health/ready"""

_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
_SERVER = Path("app", "packager", "server")
_SUPERVISED = (_SERVER / "process" / "supervisor.py", _SERVER / "supervisor.py")  # the latter before it had rooms
_FLAGS = {"host": "server.host", "port": "server.port", "grpc-port": "server.grpc_port", "threads": "runtime.threads"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    _knobs.arguments(parser)
    for flag, knob in _FLAGS.items():
        parser.add_argument(f"--{flag}", metavar=flag.upper(), help=f"short for --set {knob}={flag.upper()}")
    trust.trust(parser, "whom to trust; without any of these nothing is verified again")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.deploy.install import CURRENT, current
    from packager.errors import SourceError
    from packager.server.errors import StartError
    from packager.server.knobs import SECRETS
    from packager.server.process.supervisor import Supervisor
    from packager.server.process.systemd import VARIABLES, Systemd

    release = current(args.directory)
    if not _is_supervised(release):  # its server is from before there was a supervisor
        command, environment = _command(release, args, console)[0], _clean(*VARIABLES)
        os.execve(command[0], command, environment)
    values = _options(release, args)[1]
    _knobs.forget(str(values[knob]) for knob in SECRETS if knob in values)
    link = args.directory / CURRENT
    say = _Log()
    try:
        systemd = Systemd.from_environment(os.environ, os.getpid())
        return Supervisor(lambda: _plan(args, console, say), link.readlink, say, systemd).run()
    except StartError as error:
        raise SourceError(error.message, hint=error.hint) from None


def _is_supervised(release: Path) -> bool:
    """Say whether the server of an installed release can be one of several under a supervisor."""
    return any((release / path).is_file() for path in _SUPERVISED)


def _clean(*more: str) -> dict[str, str]:
    return {name: os.environ[name] for name in (*_KEPT, *more) if name in os.environ}


def _plan(args: argparse.Namespace, console: Console, say: _Log) -> Plan:
    """Return how to serve what is current now. Raises PackagerError."""
    from packager.deploy.install import current
    from packager.errors import UsageError
    from packager.server.process.supervisor import Plan

    release = current(args.directory)
    if not _is_supervised(release):
        raise UsageError(f"`{release.name}` was installed by an older packager", hint="restart `packager serve`")
    command, values = _command(release, args, console)
    say.form = str(values.get("log.format", "json"))
    grpc_port = values.get("server.grpc_port")
    return Plan(
        tuple(command),
        release.name,
        int(values.get("server.processes", 1)),
        str(values["server.host"]),
        int(values["server.port"]),
        None if grpc_port is None else int(grpc_port),
        float(values["server.drain"]),
        _clean(),
    )


def _command(release: Path, args: argparse.Namespace, console: Console) -> tuple[list[str], Mapping[str, JSON]]:
    from packager.deploy.install import server_command

    if trust.wants_trust(args):
        _verify(release, args, console)
    options, values = _options(release, args)
    return server_command(release, options), values


class _Log:
    """Writes what the supervisor says as the server writes its events."""

    form = "json"

    def __call__(self, name: str, level: int = 20, **fields: object) -> None:
        words = {20: "info", 30: "warning", 40: "error"}
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self.form == "json":
            line = json.dumps({"time": time, "level": words[level], "event": name, **fields}, separators=(",", ":"))
        else:
            line = " ".join(
                [time, words[level], name, *(f"{key}={json.dumps(value)}" for key, value in fields.items())]
            )
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _options(release: Path, args: argparse.Namespace) -> tuple[list[str], Mapping[str, JSON]]:
    """Return the arguments of the server, all knobs in one document and where its secrets are; and the values."""
    from packager.deploy import server_files
    from packager.deploy.install import KNOBS, installed_bundle, installed_wishes
    from packager.knobs.knobs import Override
    from packager.server.knobs import SECRETS

    given = {flag: getattr(args, flag.replace("-", "_")) for flag in _FLAGS}
    short = [Override(_FLAGS[flag], text, f"--{flag}") for flag, text in given.items() if text is not None]
    found = _knobs.resolve(
        args, installed_bundle(release), environment=True, before=installed_wishes(release), after=short
    )
    if not (release / KNOBS).is_file():  # its server is from before knobs
        words = [
            word
            for flag, knob in _FLAGS.items()
            if knob in found.values
            for word in (f"--{flag}", str(found.values[knob]))
        ]
        return words, found.values
    secrets = [
        f"{option}={_knobs.secret_file(knob, found.values[knob])}"
        for knob, option in SECRETS.items()
        if knob in found.values
    ]
    return [f"--knobs={server_files.document(found)}", *secrets], found.values


def _verify(release: Path, args: argparse.Namespace, console: Console) -> None:
    """Raise what is wrong with the files of an installed release."""
    from packager.bundle.bundle import medium_of, read
    from packager.cli._trust import verifier_of

    with console:
        verdict = verifier_of(args).verify(
            read(medium_of(str(release / "bundle"), lambda: trust.workspace(args).open_store())), console
        )
    if verdict.failure is not None:
        raise verdict.failure
