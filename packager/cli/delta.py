# SPDX-License-Identifier: Apache-2.0
"""Write what turns OLD into NEW: blobs OLD lacks, as patches where those are smaller.

`packager apply` makes NEW from it, byte for byte, with its signatures. A delta is no bundle and is not verified by
itself: what it makes is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "release"
HELP = "write the difference between two bundles"
EXAMPLES = """  packager delta digits:1.4.0 digits:1.4.1 -o digits-1.4.1.bundle-delta.tar"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.a_bundle(parser.add_argument("old", metavar="OLD", help="the bundle the other side has"))
    options.a_bundle(parser.add_argument("new", metavar="NEW", help="the bundle it shall get"))
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="the file to write")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    with console:
        old, new = (options.open_reference(text, args, console) for text in (args.old, args.new))
        made = bundles.write_delta(old, new, args.output, console)
    value = {
        "old": old.digest,
        "new": new.digest,
        "size": made.size,
        "full": made.full,
        "reused": made.reused,
        "patched": made.patched,
        "saved": made.full - made.size,
        "output": str(args.output),
    }
    share = 100 * made.size / made.full
    console.result(
        value,
        f"wrote {args.output}: {format_size(made.size)} instead of {format_size(made.full)} ({share:.1f} %), "
        f"{format_size(made.full - made.size)} saved",
    )
    return 0
