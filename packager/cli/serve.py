# SPDX-License-Identifier: Apache-2.0
"""Serve an installation over HTTP: Open Inference Protocol v2, health, Prometheus metrics.

This command replaces itself by the server of the installed release, which runs on that release's own environment.
SIGTERM drains and ends it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from packager.cli.render import Console

HELP = "serve an installed bundle (Open Inference Protocol v2)"
EXAMPLES = """  packager serve /srv/digits
  packager serve /srv/digits --port 9000 --threads 4
  curl http://127.0.0.1:8000/v2/health/ready"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port (default: 8000)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of one inference (default: 1)")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.install import current, server_command

    options = ["--host", args.host, "--port", str(args.port), "--threads", str(args.threads)]
    command = server_command(current(args.directory), options)
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    os.execve(command[0], command, clean)
