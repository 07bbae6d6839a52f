# SPDX-License-Identifier: Apache-2.0
"""Judge a bundle by a policy over signed statements only, and sign that it may enter a stage.

The bundle is verified with the trust file first; facts count if their signer may state them. The outcome is a SLSA
verification summary about the bundle's digest, attached where the bundle lies. A deployment asks for it:
`packager trust add FILE --require-stage production --by GATE`. Exit code 1: the policy says no, nothing is attached.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _signer, options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api import Verdict, Verifier

FOR = "release"
HELP = "let a bundle into a stage, by policy over signed statements"
EXAMPLES = """  packager promote digits:1.4.0 --to staging --profile release --trust acme.trust --key gate.pem
  packager promote oci://registry.example.org/models/digits:1.4.0 --to production --profile prod.yaml \\
      --trust acme.trust --keyless"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("--to", metavar="STAGE", required=True, help="for example staging or production")
    parser.add_argument("--profile", default="release", help="policy: the name of one of ours, or a .yaml file")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="signed trust file: whose statements count")
    parser.add_argument("--state", type=Path, metavar="FILE", help="where the newest versions seen are kept")
    parser.add_argument("--verifier", metavar="URI", help="who this gate is (default: as --builder of build)")
    _signer.arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="write the bundle there, a directory or .tar file; a BUNDLE that is a file stays as it is",
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing

    judge, here = _judge(args), options.open_workspace(args, console)
    gate = signing.open_gate(args.to, args.profile, here, verifier=args.verifier)
    signer = _signer.open_signer(_signer.choose_uri(args), args)
    with console:
        bundle = options.open_bundle(args, console)
        made = signing.promote_bundle(bundle, gate, judge, signer, args.output, console)
    verdict = made.verdict
    _say(verdict, console)
    word = "promoted" if verdict.ok else f"not promoted: {len(verdict.findings)} findings,"
    value = {
        "promoted": verdict.ok,
        "stage": args.to,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "verdict": verdict.to_json(),
    }
    console.result(value, f"{word} {bundle.name}:{bundle.version} {bundle.digest} to {args.to}")
    return 0 if verdict.ok else 1


def _judge(args: argparse.Namespace) -> Verifier:
    """Return the judge of the trust file alone: --key names who signs here, not whom to trust."""
    if args.trust is None:
        raise UsageError("a gate needs --trust FILE", hint="it says whose statements count; see `packager trust`")
    from packager.cli import _trust

    return _trust.verifier_of(argparse.Namespace(**{**vars(args), "key": [], "ca": None, "identity": None}))


def _say(verdict: Verdict, console: Console) -> None:
    for finding in verdict.findings:
        hint = f"\n  hint: {finding.hint}" if finding.hint else ""
        console.message(f"{finding.level}: {finding.message}{hint}")
