# SPDX-License-Identifier: Apache-2.0
"""Print a JSON Schema: of recipes, so that an editor completes and checks `bundle.yaml`, of contracts, trust or facts.

A recipe written by `packager init` names `recipe.schema.json` beside it in its first line.
"""

from __future__ import annotations

import argparse
import json

from packager.cli.console import Console

FOR = "everybody"
HELP = "print the JSON Schema of recipes, contracts, trust files or facts"
EXAMPLES = """  packager schema > recipe.schema.json
  packager schema contract > contract.schema.json
  packager schema trust > trust.schema.json
  packager schema facts > facts.schema.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", metavar="DOCUMENT", nargs="?", choices=("recipe", "contract", "trust", "facts"),
                        default="recipe", help="recipe, contract, trust or facts (default: recipe)")  # fmt: skip


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import contract, init
    from packager.policy import factschema
    from packager.trust import trust

    module = {"recipe": init, "contract": contract, "trust": trust, "facts": factschema}[args.document]
    text = module.schema().decode()
    console.result(json.loads(text), text.rstrip())
    return 0
