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
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _knobs
from packager.cli import options as trust
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api import Bundle

FOR = "site"
HELP = "serve an installed bundle (Open Inference Protocol v2)"
EXAMPLES = """  packager serve /srv/digits
  packager serve /srv/digits --port 9000 --threads 4 --trust acme.trust
  packager serve /srv/digits --grpc-port 8001
  packager serve /srv/digits --set server.processes=4 --set auth.tokens=file:/etc/digits/tokens
  packager serve /srv/digits --values berlin.yaml --set log.level=debug
  PACKAGER_KNOB__SERVER__MAX_IN_FLIGHT=32 packager serve /srv/digits
  curl http://127.0.0.1:8000/v2/health/ready"""

_FLAGS = {"host": "server.host", "port": "server.port", "grpc-port": "server.grpc_port", "threads": "runtime.threads"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    _knobs.arguments(parser)
    for flag, knob in _FLAGS.items():
        parser.add_argument(f"--{flag}", metavar=flag.upper(), help=f"short for --set {knob}={flag.upper()}")
    trust.add_trust(parser, "whom to trust; without any of these nothing is verified again")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.api import deploy

    given = {knob: (getattr(args, flag.replace("-", "_")), f"--{flag}") for flag, knob in _FLAGS.items()}
    short = [deploy.Override(knob, text, flag) for knob, (text, flag) in given.items() if text is not None]
    service = deploy.Service(
        args.directory,
        _knobs.read_sources(args, environment=os.environ, after=short),
        dict(os.environ),
        (lambda bundle: _verify(bundle, args, console)) if trust.wants_trust(args) else None,
    )
    if not deploy.Installation.open(args.directory).is_supervised:  # its server is from before there was a supervisor
        command, environment = service.command()
        os.execve(command[0], command, environment)
    without = deploy.hold_secrets(service.secret_references(), os.environ)
    if without is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], without)
    return service.run(deploy.ServiceLog(sys.stderr, api.utc_now))


def _verify(bundle: Bundle, args: argparse.Namespace, console: Console) -> None:
    """Raise what is wrong with the files of an installed release."""
    from packager.cli._trust import verifier_of

    with console:
        verdict = verifier_of(args).verify(bundle, console)
    verdict.raise_for_failure()
