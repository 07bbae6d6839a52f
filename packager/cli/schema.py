# SPDX-License-Identifier: Apache-2.0
"""Print a JSON Schema: of recipes, so that an editor completes and checks `bundle.yaml`, of release files and others.

A recipe written by `packager init` names `recipe.schema.json` beside it in its first line.
"""

from __future__ import annotations

import argparse
import json

from packager.cli import _completers
from packager.cli.console import Console

FOR = "everybody"
HELP = "print the JSON Schema of recipes, release files, contracts, trust files, facts or what verbs print"
EXAMPLES = """  packager schema > recipe.schema.json
  packager schema release > release.schema.json
  packager schema contract > contract.schema.json
  packager schema trust > trust.schema.json
  packager schema facts > facts.schema.json
  packager schema output > output.schema.json      # of every verb with --json
  packager schema output verify                    # of one"""
_DOCUMENTS = ("recipe", "release", "contract", "trust", "facts", "output")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "document",
        metavar="DOCUMENT",
        nargs="?",
        choices=_DOCUMENTS,
        default="recipe",
        help=f"{', '.join(_DOCUMENTS)} (default: recipe)",
    )
    verb = parser.add_argument("verb", metavar="VERB", nargs="?", help="with output: of this verb alone")
    _completers.complete_with(verb, _completers.list_verbs)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.cli import _output_schemas
    from packager.errors import UsageError

    if args.verb is not None and args.document != "output":
        raise UsageError(f"`{args.verb}` is one argument too many", hint="a verb goes with `packager schema output`")
    if args.verb is not None:
        value = _output_schemas.of_verb(args.verb)
        text = json.dumps(value, indent=1, ensure_ascii=False)
    else:
        found = _output_schemas.build_schema() if args.document == "output" else api.read_schema(args.document)
        text = found.decode()
    console.result(json.loads(text), text.rstrip())
    return 0
