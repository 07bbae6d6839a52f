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

from packager.cli import options
from packager.cli.console import Console

FOR = "everybody"
HELP = "write a page about a bundle that people read, and that checks itself"
EXAMPLES = """  packager report digits.bundle.tar --key release.pub
  packager report digits:1.4.0 --trust acme.trust --policy release --previous digits:1.3.0 -o digits.html
  packager report digits.bundle.tar --key release.pub --player node_modules/onnxruntime-web
  packager report digits.bundle.tar --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_trust(parser)
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
    from packager.api import passports
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError
    from packager.files import write_atomically

    trusts = options.wants_trust(args)
    if args.policy and not trusts:
        raise UsageError("--policy judges what trusted signers state", hint="give --key or --trust as well")
    with console:
        bundle = options.open_bundle(args, console)
        previous = options.open_reference(args.previous, args, console) if args.previous else None
        made = passports.make_passport(
            bundle,
            options.open_workspace(args, console),
            verifier_of(args) if trusts else None,
            args.policy,
            previous=previous,
            player=args.player,
        )
    code = 0 if made.ok else 1
    if args.json and args.output is None:
        console.result(made.document, "")
        return code
    target = args.output or Path(f"{bundle.name.replace('/', '-')}-{bundle.version}.html")
    data = made.page.encode()
    write_atomically(target, data)
    said = "checked" if made.checked else "not checked: give --key or --trust"
    text = f"wrote {target}, {len(data)} bytes; signatures {said}"
    console.result({**made.document, "page": str(target)}, [text])
    if made.failure is not None and not args.json:
        console.fail(made.failure)
    return code
