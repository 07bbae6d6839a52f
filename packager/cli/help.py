# SPDX-License-Identifier: Apache-2.0
"""Explain a verb, with its options and examples; without one, list all verbs by whose work they are."""

from __future__ import annotations

import argparse

from packager.cli import _completers, _parser, _verbs
from packager.cli.console import Console

FOR = "everybody"
HELP = "explain a verb, or list all"
EXAMPLES = """  packager help
  packager help verify
  packager help --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    verb = parser.add_argument("verb", metavar="VERB", nargs="?", help="what is explained")
    _completers.complete_with(verb, _completers.list_verbs)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.errors import UsageError, did_you_mean

    names = _verbs.list_verbs()
    if args.verb is not None and args.verb not in names:
        raise UsageError(f"`{args.verb}` is not a command", hint=did_you_mean(args.verb, names))
    text = _parser.help_of(args.verb) if args.verb else _parser.format_overview()
    listed = [args.verb] if args.verb else names
    about = {
        name: {"for": _verbs.group_of(_verbs.load_verb(name)), "help": _verbs.load_verb(name).HELP} for name in listed
    }
    console.result({"verbs": about, "text": text}, text.rstrip())
    return 0
