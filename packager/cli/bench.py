# SPDX-License-Identifier: Apache-2.0
"""Measure how fast an installation or a bundle answers on this machine; compare two.

Each round starts a server on a port of its own, sends the reference inputs of the bundle on more and more connections,
and stops it: cold start, memory, latency and throughput. Two are measured in turn; what is said of them holds with a
95 % confidence interval over rounds, or no difference is shown. A bundle is verified and installed in a scratch
directory first. Nothing else on this machine should be busy meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.performance import Subject

FOR = "site"
HELP = "measure how fast a bundle answers here, or compare two"
EXAMPLES = """  packager bench /srv/encoder
  packager bench /srv/encoder --clients 1,4,16 --plot curves.svg
  packager bench encoder-1.0.0.bundle.tar encoder-1.1.0.bundle.tar --key release.pub
  packager bench encoder.bundle.tar --key release.pub --target onnxruntime-cpu-fp32 --target onnxruntime-cpu-int8"""


def arguments(parser: argparse.ArgumentParser) -> None:
    for name, count in (("place", None), ("other", "?")):
        parser.add_argument(
            name, metavar="PLACE", nargs=count, help="directory given to `packager install`, or a BUNDLE"
        )
    parser.add_argument("--target", action="append", metavar="NAME", help="target of the bundle; repeat for another")
    parser.add_argument("--clients", default="1,2,4,8,16", metavar="N,N,…", help="numbers of connections (1,2,4,8,16)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each load (3)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="each with a server of its own (5)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a request (default: the fewest there are)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KNOB=VALUE", dest="knobs", help="set a knob meanwhile"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the curves as an SVG")
    options.add_trust(parser, "whom to trust; an installation was verified when it was made")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import performance
    from packager.errors import UsageError
    from packager.files import storage_errors, write_atomically

    words = args.clients.split(",")
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= 1024 for word in words):
        raise UsageError(f"`--clients {args.clients:.60}`: expected numbers from 1 to 1024, such as 1,4,16")
    if not 0.1 <= args.seconds <= 600 or not 1 <= args.rounds <= 100:
        raise UsageError("expected 0.1 to 600 --seconds and 1 to 100 --rounds")
    plan = performance.Plan(tuple(sorted({int(word) for word in words})), args.seconds, args.rounds)
    with console, contextlib.ExitStack() as stack:
        subjects = [item for name in (args.place, args.other) if name for item in _open(name, args, console, stack)]
        document = performance.measure_curves(subjects, plan, console).to_json()
    if args.plot:
        with storage_errors(args.plot.parent):
            write_atomically(args.plot, performance.draw_curves(document).encode())
    console.result(document, performance.format_curves(document))
    return 0


def _open(name: str, args: argparse.Namespace, console: Console, stack: contextlib.ExitStack) -> list[Subject]:
    from packager import api
    from packager.api import deploy, performance
    from packager.cli._trust import verifier_of

    values = values_of(args.knobs)
    if deploy.is_installation(Path(name)):
        return [performance.open_subject(name, Path(name), values, rows=args.rows)]
    workspace, found = options.open_workspace(args, console), []
    bundle, verifier = api.open_bundle(name, workspace), verifier_of(args)
    for target in args.target or [None]:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="packager-bench-")))
        api.install_bundle(bundle, directory, verifier, workspace, target=target)
        label = f"{name} {target}" if target else name
        found.append(performance.open_subject(label, directory, values, rows=args.rows))
    return found


def values_of(pairs: list[str]) -> dict[str, str]:
    """Return the values of --set options. Raises UsageError."""
    from packager.errors import UsageError

    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(found) != len(pairs):
        raise UsageError("`--set`: expected KNOB=VALUE, each knob once")
    return found
