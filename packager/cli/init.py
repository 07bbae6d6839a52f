# SPDX-License-Identifier: Apache-2.0
"""Write a commented `bundle.yaml` for a source, to be edited by hand."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from packager.canonical import JSON
    from packager.lock.draft import Inside

FOR = "release"
HELP = "write a commented bundle.yaml from a source"
EXAMPLES = """  packager init models:/digits@champion
  packager init ./sentence-encoder -o encoder/bundle.yaml
  packager init model.onnx
  packager init bentoml:iris:latest
  packager init s3://models/digits/v7
  packager init oci://registry.example.com/models/digits:1.4.0"""


def arguments(parser: argparse.ArgumentParser) -> None:
    forms = "models:/name@alias, runs:/…, bentoml:name:version, oci://…, s3://…, a directory, a file"
    parser.add_argument("source", metavar="SOURCE", help=forms)
    parser.add_argument("-o", "--output", type=Path, default=Path("bundle.yaml"), metavar="FILE", help="where to write")
    parser.add_argument("--no-look", action="store_true", help="do not run the model to find the sizes it takes")
    parser.add_argument("--force", action="store_true", help="replace an existing recipe")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.errors import UsageError
    from packager.files import write_atomically
    from packager.lock.draft import draft, inspect_source, name_from, relative_source
    from packager.lock.inspection import lines

    if args.output.exists() and not args.force:
        raise UsageError(f"`{args.output}` exists already", hint="give another name with -o, or --force")
    inside = None if args.no_look else _looker(args, console)
    with console:
        found = inspect_source(args.source, Path(), os.environ.get("MLFLOW_TRACKING_URI"), inside)
    found |= {"name": name_from(str(Path(args.source).absolute()))} if Path(args.source).is_file() else {}
    text = draft(relative_source(args.source, args.output.parent), found)
    seen = "".join(f"{line}\n" for line in lines(found["inside"])) if "inside" in found else ""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, text.encode())
    consent = "opening this source runs its author's code: decide about `allow-pickle`\n" if "executes" in found else ""
    if "code" in found:
        consent += "it brings code of its own along, which the draft lists: read it, and decide about `allow-code`\n"
    console.result(
        {"recipe": str(args.output), **found},
        f"{seen}wrote {args.output}; edit it, then run `packager build {args.output}`\n{consent}"
        "for completion in an editor: packager schema > recipe.schema.json",
    )
    return 0


def _looker(args: argparse.Namespace, console: Console) -> Inside:
    """Return what opens a source in a confined worker."""
    from packager.actions.runner import Runner
    from packager.lock.inspection import LIMITS, run_look

    def inside(files: Mapping[str, Path], kind: str, payload: str) -> JSON:
        return run_look(files, kind, payload, Runner(options.workspace(args).open_store(), LIMITS, console))

    return inside
