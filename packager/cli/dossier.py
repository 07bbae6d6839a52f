# SPDX-License-Identifier: Apache-2.0
"""Write technical documentation for regulators from what is signed about a bundle.

Each sentence is marked declared, measured or verified, with the digest of its evidence; what the form asks and the
bundle does not answer is listed as a gap. The forms are Annex IV of the EU AI Act (nine sections) and Annex XI for
general-purpose models. It is a draft for the people who are responsible, not legal advice, and equal for equal bundles.

The bundle must hold for a trusted signer: nothing is written for one that does not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

FOR = "release"
HELP = "write technical documentation for regulators from signed evidence"
EXAMPLES = """  packager dossier digits.bundle.tar --key release.pub
  packager dossier digits:1.4.0 --trust acme.trust --policy regulated --previous digits:1.3.0 -o annex-iv.html
  packager dossier digits:1.4.0 --key release.pub --form gpai --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_trust(parser)
    parser.add_argument("--form", choices=("annex-iv", "gpai"), default="annex-iv", help="default: annex-iv")
    parser.add_argument("--policy", metavar="P", help="judge it too: the name of one of our profiles, or a .yaml file")
    previous = parser.add_argument("--previous", metavar="BUNDLE", help="the release before, to say what changed")
    options.a_bundle(previous)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="a `.md` or `.html` file (default: Markdown on stdout)"
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import passports
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError
    from packager.files import write_atomically

    if not options.wants_trust(args):
        raise UsageError("a dossier is made of signed evidence", hint="give --key, --trust or another trusted signer")
    if args.output is not None and args.output.suffix not in (".md", ".html"):
        raise UsageError(f"`{args.output}` is neither `.md` nor `.html`", hint="choose the form by the file's ending")
    with console:
        bundle = options.open_bundle(args, console)
        previous = options.open_reference(args.previous, args, console) if args.previous else None
        workspace = options.open_workspace(args, console)
        made = passports.make_dossier(bundle, workspace, verifier_of(args), args.form, args.policy, previous=previous)
    if args.output is None:
        console.result(made.to_json(), made.to_markdown().rstrip())
        return 0
    page = made.to_html() if args.output.suffix == ".html" else made.to_markdown()
    write_atomically(args.output, page.encode())
    counts = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    console.result({**made.to_json(), "page": str(args.output)}, [f"wrote {args.output}: {counts}"])
    return 0
