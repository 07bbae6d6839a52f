# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, into the local store, where it is `name:version`.

Every byte is hashed on the way. With --trust, --key or the like a bundle without a trusted signature is refused.
Without them its name is not verified: it lies in quarantine, where it is called by its digest, until
`packager import sha256:… --key PUB` lets it in, or `packager cache gc` removes it. Another bundle of the same name and
version only gives way with --replace.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "site"
HELP = "copy a bundle into the local store"
EXAMPLES = """  packager import digits-1.4.0.bundle.tar
  packager import sha256:… --key release.pub
  packager import /media/usb/digits-layout --trust acme.trust"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_admission(parser)
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.cli._trust import explain_unverified, verifier_for_admission

    judge = verifier_for_admission(args)
    with console:
        bundle = options.open_bundle(args, console)
        stored = api.import_bundle(bundle, options.open_workspace(args, console), judge, replace=args.replace)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "stored": stored,
        "size": bundle.size,
        "vouched": judge is not None,
    }
    text = f"imported {bundle.name}:{bundle.version} {bundle.digest} ({format_size(stored)} were new)"
    console.result(value, text if judge else f"{text}\n{explain_unverified(bundle)}")
    return 0
