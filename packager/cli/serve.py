# SPDX-License-Identifier: Apache-2.0
"""Serve an installation: Open Inference Protocol v2 over HTTP and gRPC, health, Prometheus metrics.

This command replaces itself by the server of the installed release, which runs on that release's own environment.
SIGTERM drains and ends it. With --trust, --key or the like every file of the release is verified first.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from packager.cli import options as trust
from packager.cli.console import Console

HELP = "serve an installed bundle (Open Inference Protocol v2)"
EXAMPLES = """  packager serve /srv/digits
  packager serve /srv/digits --port 9000 --threads 4 --trust acme.trust
  packager serve /srv/digits --grpc-port 8001
  curl http://127.0.0.1:8000/v2/health/ready"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port (default: 8000)")
    parser.add_argument("--grpc-port", type=int, metavar="N", help="also serve gRPC on this port (default: off)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of one inference (default: 1)")
    trust.trust(parser, "whom to trust; without any of these nothing is verified again")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.install import current, server_command

    if trust.wants_trust(args):
        _verify(current(args.directory), args, console)
    options = ["--host", args.host, "--port", str(args.port), "--threads", str(args.threads)]
    if args.grpc_port is not None:
        options += ["--grpc-port", str(args.grpc_port)]
    command = server_command(current(args.directory), options)
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    os.execve(command[0], command, clean)


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
