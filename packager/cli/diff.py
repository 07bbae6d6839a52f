# SPDX-License-Identifier: Apache-2.0
"""Compare two bundles by what they mean: interface, promises, exactness, operators, weights, dependencies.

Every difference is judged as a step of semantic versioning. Exit code 1: B's version is too small a step from A's.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.console import Console

FOR = "release"
HELP = "compare two bundles and judge the version step"
EXAMPLES = """  packager diff digits:1.3.0 digits:1.4.0
  packager diff old.bundle.tar new.bundle.tar --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.a_bundle(parser.add_argument("before", metavar="A", help="the older bundle, as every BUNDLE"))
    options.a_bundle(parser.add_argument("after", metavar="B", help="the newer bundle"))
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    before, after = (options.open_reference(text, args, console) for text in (args.before, args.after))
    found = bundles.compare_bundles(before, after, options.open_workspace(args))
    rows = [f"{change.level:5}  {change.area}: {change.subject}: {change.message}" for change in found.changes]
    rows = rows or ["no visible difference"]
    step = f"{before.name} {found.before} → {found.after} is a step of `{found.taken}`, `{found.needed}` is needed"
    verdict = "ok" if found.ok else f"release it as {found.suggestion}"
    console.result(found.to_json(), [*rows, f"{step}: {verdict}"])
    return 0 if found.ok else 1
