# SPDX-License-Identifier: Apache-2.0
"""Serve an installation: Open Inference Protocol v2 over HTTP and gRPC, health, Prometheus metrics.

This command replaces itself by the server of the installed release, which runs on that release's own environment.
SIGTERM drains and ends it. With --trust, --key or the like every file of the release is verified first.
Knobs come from the bundle, the installation, --values, PACKAGER_KNOB__…, --set, the later over the earlier;
GET /v2/knobs shows them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from packager.cli import _knobs
from packager.cli import options as trust
from packager.cli.console import Console

HELP = "serve an installed bundle (Open Inference Protocol v2)"
EXAMPLES = """  packager serve /srv/digits
  packager serve /srv/digits --port 9000 --threads 4 --trust acme.trust
  packager serve /srv/digits --grpc-port 8001
  packager serve /srv/digits --values berlin.yaml --set log.level=debug
  PACKAGER_KNOB__SERVER__MAX_IN_FLIGHT=32 packager serve /srv/digits
  curl http://127.0.0.1:8000/v2/health/ready"""

_KEPT = ("PATH", "HOME", "LANG", "TZ", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
_FLAGS = {"host": "server.host", "port": "server.port", "grpc-port": "server.grpc_port", "threads": "runtime.threads"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    _knobs.arguments(parser)
    for flag, knob in _FLAGS.items():
        parser.add_argument(f"--{flag}", metavar=flag.upper(), help=f"short for --set {knob}={flag.upper()}")
    trust.trust(parser, "whom to trust; without any of these nothing is verified again")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.install import current, server_command

    release = current(args.directory)
    if trust.wants_trust(args):
        _verify(release, args, console)
    command = server_command(release, _options(release, args))
    clean = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.execve(command[0], command, clean)


def _options(release: Path, args: argparse.Namespace) -> list[str]:
    """Return what the server is told: all knobs in one document, and where its secrets are."""
    from packager import serving
    from packager.install import KNOBS, installed_bundle, installed_wishes
    from packager.knobs import Wish

    given = {flag: getattr(args, flag.replace("-", "_")) for flag in _FLAGS}
    short = [Wish(_FLAGS[flag], text, f"--{flag}") for flag, text in given.items() if text is not None]
    found = _knobs.resolve(
        args, installed_bundle(release), environment=True, before=installed_wishes(release), after=short
    )
    if not (release / KNOBS).is_file():  # its server is from before knobs
        return [
            word
            for flag, knob in _FLAGS.items()
            if knob in found.values
            for word in (f"--{flag}", str(found.values[knob]))
        ]
    secrets = [f"{option}={_knobs.secret_file(knob, found.values[knob])}" for knob, option in serving.SECRETS.items()
               if knob in found.values]  # fmt: skip
    return [f"--knobs={serving.document(found)}", *secrets]


def _verify(release: Path, args: argparse.Namespace, console: Console) -> None:
    """Raise what is wrong with the files of an installed release."""
    from packager.bundle import medium_of, read
    from packager.cli._trust import Judge

    with console:
        verdict = Judge.of(args).verify(
            read(medium_of(str(release / "bundle"), lambda: trust.open_store(args))), console
        )
    if verdict.failure is not None:
        raise verdict.failure
