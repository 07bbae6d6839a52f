# SPDX-License-Identifier: Apache-2.0
"""Answer every row of a file with an installed bundle: JSON lines, CSV, Parquet, or a folder of images, audio or texts.

Each row keeps its columns and gets an `answer`; rows that are refused go to OUT.refused.jsonl with the reason, and
OUT.run.json names the bundle. Columns are those of the bundle: `text`, or the names of its inputs. An interrupted run
goes on where it was when the same command is repeated, and gives the same bytes. IN and OUT may be in a bucket
(s3://bucket/rows.parquet, or a prefix of images): IN is fetched first and OUT sent at the end, through OUT.work here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

FOR = "site"
HELP = "answer every row of a file with an installed bundle"
EXAMPLES = """  packager run /srv/encoder reviews.jsonl -o vectors.parquet
  packager run /srv/moods reviews.csv -o moods.csv --column text=review
  packager run /srv/animals photos/ -o labels.jsonl --processes 8
  packager run /srv/moods s3://data/reviews.parquet -o s3://data/moods.parquet"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="directory given to `packager install`")
    parser.add_argument(
        "input", metavar="IN", help=".jsonl, .csv, .parquet, or a folder of images, .wav, .txt; also s3://…"
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=".jsonl, .csv or .parquet; also s3://…")
    parser.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help="take COLUMN of the input as NAME"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="worker processes (one per whole CPU allowed)")
    parser.add_argument(
        "--chunk", type=int, metavar="ROWS", help="rows of a chunk, which is done or is not (1024 to 8192)"
    )
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted run did")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.errors import UsageError

    pairs = [text.partition("=") for text in args.column]
    if wrong := [pair for pair in pairs if not (pair[0] and pair[2])]:
        raise UsageError(f"`--column {''.join(wrong[0])}`: expected NAME=COLUMN")
    with console:
        done = deploy.answer_rows(
            args.directory,
            args.input,
            args.output,
            columns={name: column for name, _, column in pairs},
            processes=args.processes,
            chunk=args.chunk,
            restart=args.restart,
            on_event=console,
        )
    words = f"{done['rows']} rows answered in {done['output']}, {done['refused']} refused"
    console.result(done, words if not done["resumed"] else f"{words}; {done['resumed']} chunks were done before")
    return 0
