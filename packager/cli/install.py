# SPDX-License-Identifier: Apache-2.0
"""Verify a bundle and install it: files, an isolated environment from its own lock, the server.

The directory keeps every installed release; `current` points at the one that serves and is switched as the last
step. A bundle that carries wheels is installed from them alone. One that does not needs an index, or --wheelhouse with
the wheels that deps/<runtime>/requirements-<platform>.txt names.
An adapter of a language model is added to its base, which is installed in DIR: a running server serves it at the next
request that names it, and requests for others go on.
Knobs set here are recorded with the release; `packager serve` starts from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager import escape
from packager.cli import _knobs, options
from packager.cli.console import Console

FOR = "site"
HELP = "verify and install a bundle, ready to serve"
EXAMPLES = """  packager install digits.bundle.tar /srv/digits --key release.pub
  packager install digits.bundle.tar /srv/digits --trust acme.trust --wheelhouse wheels/
  packager install smollm-legal.bundle.tar /srv/smollm --key release.pub
  packager install digits:1.4.0 /srv/digits --key release.pub --values berlin.yaml --set server.port=9000"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("directory", metavar="DIR", type=Path, help="where releases are kept")
    options.add_trust(parser)
    _knobs.arguments(parser)
    parser.add_argument("--target", metavar="NAME", help="target to serve (default: the most exact one)")
    parser.add_argument("--allow-downgrade", action="store_true", help="over a newer version, too")
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="take wheels from here, not from the bundle or a network"
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.cli._trust import verifier_of

    judge = verifier_of(args)
    with console:
        bundle = options.open_bundle(args)
        done = api.install_bundle(
            bundle,
            args.directory,
            judge,
            options.open_workspace(args, console),
            knobs=_knobs.read_sources(args),
            target=args.target,
            wheelhouse=args.wheelhouse,
            allow_downgrade=args.allow_downgrade,
        )
    value = {
        "name": done.name,
        "version": done.version,
        "digest": done.digest,
        "target": done.target,
        "knobs": done.knobs,
        "release": str(done.directory),
    }
    text = f"installed {done.name}:{done.version} ({escape.line(done.target)}) in {done.directory}"
    if done.base is not None:
        console.result(value, f"{text}\nrequests choose it with `model: {done.name}`")
        return 0
    console.result(value, f"{text}\nserve it with `packager serve {args.directory}`")
    return 0
