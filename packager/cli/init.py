# SPDX-License-Identifier: Apache-2.0
"""Write a commented `bundle.yaml` for a source, to be edited by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli.console import Console

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
    from packager.api import recipes
    from packager.errors import UsageError
    from packager.files import write_atomically

    if args.output.exists() and not args.force:
        raise UsageError(f"`{args.output}` exists already", hint="give another name with -o, or --force")
    with console:
        draft = recipes.draft_recipe(
            args.source, args.output, options.open_workspace(args, console), look=not args.no_look
        )
    found = draft.found
    seen = "".join(f"{line}\n" for line in draft.describe())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, draft.text.encode())
    consent = "opening this source runs its author's code: decide about `allow-pickle`\n" if "executes" in found else ""
    if "blocks" in found:
        consent += "its weights may be in blocks of fewer bits: decide about `dequantize`\n"
    if "code" in found:
        consent += "it brings code of its own along, which the draft lists: read it, and decide about `allow-code`\n"
    console.result(
        {"recipe": str(args.output), **found},
        f"{seen}wrote {args.output}; edit it, then run `packager build {args.output}`\n{consent}"
        "for completion in an editor: packager schema > recipe.schema.json",
    )
    return 0
