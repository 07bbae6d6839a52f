# SPDX-License-Identifier: Apache-2.0
"""Decide, offline, whether a bundle is whole and signed by a key you trust.

BUNDLE may also be an unpacked or installed tree. Exit code 0: every check holds. 1: not signed, or not by a trusted
key. 5: bytes, names, modes or a signature are not what was signed; the message names the place.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.render import Console

HELP = "check integrity and signature, offline"
EXAMPLES = """  packager verify digits.bundle.tar --key release.pub
  packager verify /srv/digits/current/bundle --key release.pub --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    options.trust(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.verify import verify

    keys = options.trusted_keys(args)
    with console:
        verdict = verify(options.open_bundle(args), keys, console)
    rows = [f"{'ok  ' if check.ok else 'FAIL'}  {check.name:10} {check.detail}" for check in verdict.checks]
    summary = f"{verdict.name}:{verdict.version} {verdict.digest}"
    if verdict.failure is None:
        console.result(verdict.to_json(), "\n".join([*rows, f"verified {summary}"]))
        return 0
    if console.json:
        console.result(verdict.to_json(), "")
    else:
        print("\n".join(rows))
        console.fail(verdict.failure)
    return verdict.failure.code
