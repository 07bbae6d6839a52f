# SPDX-License-Identifier: Apache-2.0
"""Print the JSON Schema of recipes, so that an editor completes and checks `bundle.yaml`.

A recipe written by `packager init` names `recipe.schema.json` beside it in its first line.
"""

from __future__ import annotations

import argparse
import json

from packager.cli.render import Console

HELP = "print the JSON Schema of recipes, for editors"
EXAMPLES = """  packager schema > recipe.schema.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.init import schema

    text = schema().decode()
    console.result(json.loads(text), text.rstrip())
    return 0
