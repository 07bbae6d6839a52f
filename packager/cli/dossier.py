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
    from packager.passport.dossier import FORMS

    options.bundle(parser)
    options.trust(parser)
    parser.add_argument("--form", choices=FORMS, default="annex-iv", help="default: annex-iv")
    parser.add_argument("--policy", metavar="P", help="judge it too: the name of one of our profiles, or a .yaml file")
    previous = parser.add_argument("--previous", metavar="BUNDLE", help="the release before, to say what changed")
    options.a_bundle(previous)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="a `.md` or `.html` file (default: Markdown on stdout)"
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli.report import judge_bundle
    from packager.errors import UsageError
    from packager.files import write_atomically
    from packager.passport import dossier
    from packager.passport.contents import describe_bundle
    from packager.passport.page import style

    if not options.wants_trust(args):
        raise UsageError("a dossier is made of signed evidence", hint="give --key, --trust or another trusted signer")
    if args.output is not None and args.output.suffix not in (".md", ".html"):
        raise UsageError(f"`{args.output}` is neither `.md` nor `.html`", hint="choose the form by the file's ending")
    with console:
        bundle = options.open_bundle(args, console)
        previous = options.open_reference(args.previous, args, console) if args.previous else None
        found = judge_bundle(bundle, args, console)
        if found.verification is not None:
            found.verification.raise_for_failure()
        folder = options.workspace(args).advisories_to_read
        facts = describe_bundle(bundle, found, previous=previous, advisory_folder=folder)
        made = dossier.write_dossier(facts, args.form)
    text = dossier.to_markdown(made)
    if args.output is None:
        console.result(made.to_json(), text.rstrip())
        return 0
    page = dossier.to_html(made, style()) if args.output.suffix == ".html" else text
    write_atomically(args.output, page.encode())
    counts = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    console.result({**made.to_json(), "page": str(args.output)}, [f"wrote {args.output}: {counts}"])
    return 0
