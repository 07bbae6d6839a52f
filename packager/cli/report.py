# SPDX-License-Identifier: Apache-2.0
"""Write the passport of a bundle: one self-contained page for people, with the evidence to check it.

The page says what the bundle is, who signed it and whether that holds, what it needs, where it runs, how exact it is,
how it was made and of what. It asks nothing of any network. Opened in a browser it checks the signatures of keys again
by itself, and any `.bundle.tar` that is dropped onto it; with --player it runs the model on its reference inputs there.

Exit code 1: a trusted signer was demanded and the bundle does not hold; the page is written and says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.passport.contents import Judgement

FOR = "everybody"
HELP = "write a page about a bundle that people read, and that checks itself"
EXAMPLES = """  packager report digits.bundle.tar --key release.pub
  packager report digits:1.4.0 --trust acme.trust --policy release --previous digits:1.3.0 -o digits.html
  packager report digits.bundle.tar --key release.pub --player node_modules/onnxruntime-web
  packager report digits.bundle.tar --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    options.trust(parser)
    parser.add_argument("--policy", metavar="P", help="judge it too: the name of one of our profiles, or a .yaml file")
    previous = parser.add_argument("--previous", metavar="BUNDLE", help="the release before, to say what changed")
    options.a_bundle(previous)
    parser.add_argument(
        "--player",
        type=Path,
        metavar="DIR",
        help="folder of the npm package `onnxruntime-web`: the page runs the model",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: NAME-VERSION.html")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.files import write_atomically
    from packager.passport.contents import describe_bundle
    from packager.passport.page import write_page
    from packager.passport.player import parts

    with console:
        bundle = options.open_bundle(args, console)
        previous = options.open_reference(args.previous, args, console) if args.previous else None
        found = judge_bundle(bundle, args, console)
        facts = describe_bundle(
            bundle, found, previous=previous, advisory_folder=options.workspace(args).advisories_to_read
        )
        page = write_page(facts, parts(bundle, args.player) if args.player else None)
    failure = found.verification.failure if found.verification else None
    refused = failure is not None or (found.verdict is not None and not found.verdict.ok)
    told = {key: value for key, value in facts.items() if key != "evidence"}  # bytes for the page's own script
    if args.json and args.output is None:
        console.result(told, "")
        return 1 if refused else 0
    target = args.output or Path(f"{bundle.name.replace('/', '-')}-{bundle.version}.html")
    write_atomically(target, page.encode())
    said = "checked" if found.verification else "not checked: give --key or --trust"
    console.result({**told, "page": str(target)}, [f"wrote {target}, {len(page.encode())} bytes; signatures {said}"])
    if failure is not None and not args.json:
        console.fail(failure)
    return 1 if refused else 0


def judge_bundle(bundle: Bundle, args: argparse.Namespace, console: Console) -> Judgement:
    """Verify a bundle, and judge it by a policy, as far as the options say how."""
    from packager.errors import UsageError
    from packager.passport.contents import Judgement
    from packager.policy import engine, facts
    from packager.trust.model import KeySigner

    if not options.wants_trust(args):
        if args.policy:
            raise UsageError("--policy judges what trusted signers state", hint="give --key or --trust as well")
        return Judgement()
    from packager.cli._trust import verifier_of

    verifier = verifier_of(args)
    verification = verifier.verify(bundle, console)
    keys = [signer.key for signer in verifier.trust.signers if isinstance(signer, KeySigner)]
    verdict = None
    if args.policy and verification.ok:
        profile = engine.profile(args.policy, Path())
        known = facts.of_bundle(
            bundle,
            verification.evidence,
            profile.facts,
            verifier.now.date(),
            options.workspace(args).advisories_to_read,
        )
        verdict = engine.judge(profile, known, verifier.now.date())
    return Judgement(verification, verdict, keys, verifier.now.date())
