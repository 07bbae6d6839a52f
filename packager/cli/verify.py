# SPDX-License-Identifier: Apache-2.0
"""Decide, offline, whether a bundle is whole and signed by somebody you trust.

BUNDLE may also be an unpacked or installed tree. Exit code 0: every check holds. 1: not signed, not by anybody
trusted, revoked, too old, or a required statement is missing. 5: bytes, names, modes or a signature are not what was
signed; the message names the place.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.console import Console

HELP = "check integrity and signature, offline"
EXAMPLES = """  packager verify digits.bundle.tar --key release.pub
  packager verify digits.bundle.tar --trust acme.trust --json
  packager verify digits.bundle.tar --ca corp-root.pem --identity release@corp.example --tsa-ca tsa.pem
  packager verify digits.bundle.tar --issuer https://token.actions.githubusercontent.com \\
      --identity https://github.com/acme/models/.github/workflows/release.yml@refs/tags/v1"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    options.trust(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli._trust import Judge

    judge = Judge.of(args)
    with console:
        verdict = judge.verify(options.open_bundle(args), console)
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
