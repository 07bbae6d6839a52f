# SPDX-License-Identifier: Apache-2.0
"""Find knobs of an installation that serve an objective better than what is set, and write them as a values file.

Objectives: `most throughput`, `p99 <= 5 ms` (then the most throughput), `least p50`. The search tries threads,
processes and batching within the bounds of the bundle's schema, for --minutes at most; repeated, it goes on from its
trials. What it found is then measured in turn with what is set now: only a gain whose 95 % confidence interval excludes
none is written, with the evidence; else nothing is, and the exit code is 0 all the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

FOR = "site"
HELP = "find knobs that serve an objective, with evidence"
EXAMPLES = """  packager tune /srv/encoder --objective "p99 <= 20 ms" -o fast.yaml
  packager tune /srv/encoder --objective "most throughput" --clients 32 --minutes 30 -o fast.yaml
  packager serve /srv/encoder --values fast.yaml"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument(
        "--objective", default="most throughput", metavar="TEXT", help="what is wanted (default: most throughput)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the values file")
    parser.add_argument("--trials", type=Path, metavar="FILE", help="where trials are kept (default: FILE.trials)")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="connections (8)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each trial (3)")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="of the search (10)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the proof (5)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a request (default: the fewest there are)")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.api import performance
    from packager.errors import UsageError
    from packager.files import storage_errors, write_atomically

    if not (1 <= args.clients <= 1024 and 0.1 <= args.seconds <= 600 and 2 <= args.rounds <= 100):
        raise UsageError("expected 1 to 1024 --clients, 0.1 to 600 --seconds and 2 to 100 --rounds")
    if not 0 < args.minutes <= 10_000:
        raise UsageError("expected --minutes above 0")
    trials = args.trials or args.output.with_name(f"{args.output.name}.trials")
    with console:
        tuned = performance.tune_knobs(
            args.directory,
            args.objective,
            trials,
            clients=args.clients,
            seconds=args.seconds,
            minutes=args.minutes,
            rounds=args.rounds,
            rows=args.rows,
            on_event=console,
        )
    document = {**tuned.to_json(), "output": str(args.output) if tuned.better else None}
    lines = [f"{tuned.trials} values tried" + ("" if tuned.complete else "; the time is over, repeat it to go on")]
    if tuned.better:
        text = performance.format_values(tuned, api.utc_now().date().isoformat())
        with storage_errors(args.output.parent):
            write_atomically(args.output, text.encode())
        lines += [*text.splitlines(), f"wrote {args.output}"]
    else:
        if tuned.gain:
            shown = ", ".join(f"{name}={value}" for name, value in tuned.candidate.items())
            gain = f"{tuned.gain.mean:.3g} (95 %: {tuned.gain.low:.3g} to {tuned.gain.high:.3g})"
            lines.append(f"best of them: {shown}; no gain is shown over {args.rounds} rounds in turn: {gain}")
        lines.append("nothing better than what is set now was found")
    console.result(document, lines)
    return 0
