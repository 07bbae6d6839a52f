# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line, built for the verb that is called, or for all of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from packager import __version__
from packager.cli._verbs import GROUPS, group_of, list_verbs, load_verb
from packager.errors import UsageError, did_you_mean

_BEFORE = {"--json": 1, "--quiet": 1, "--store": 2, "--jobs": 2}  # common options and the words they take
_EXIT_CODES = (
    "exit codes: 0 ok, 1 the answer is no (policy, parity, verification), 2 usage, recipe or lock, "
    "3 source or network, 4 a step failed, 5 integrity, 6 unknown (compat, doctor), 70 a bug, 130 interrupted"
)


def parse_words(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of one command, and its verb as `module`. Raises UsageError; SystemExit after help."""
    argv = _reordered(argv)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser(list_verbs()))
    named = next((word for word in argv if not word.startswith("-")), None)
    known = list_verbs()
    if named is not None and named not in known and not {"-h", "--help", "--version"} & set(argv[: argv.index(named)]):
        raise UsageError(f"`{named}` is not a command", hint=did_you_mean(named, known))
    return build_parser([named] if named in known else known).parse_args(argv)


def _reordered(argv: Sequence[str]) -> list[str]:
    """Put common options that stand before the verb behind it, where its parser knows them."""
    words, first = [*argv], 0
    while first < len(words) and (option := words[first]).split("=")[0] in _BEFORE:
        first += 1 if "=" in option else _BEFORE[option]
    return [*words[first : first + 1], *words[:first], *words[first + 1 :]] if first < len(words) else words


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other error is reported, and lists verbs by whose work they are."""

    grouped: Sequence[str] = ()

    def format_help(self) -> str:
        if not self.grouped:
            return super().format_help()
        listed = {name: load_verb(name) for name in self.grouped}
        width = max(map(len, listed))
        parts = [f"{self.format_usage()}\n{self.description}\n"]
        for group, title in GROUPS.items():
            found = {name: module.HELP for name, module in listed.items() if group_of(module) == group}
            rows = [f"  {name:{width}}  {text}\n" for name, text in found.items()]
            parts.append(f"\n{title}\n{''.join(rows)}" if rows else "")
        more = "`packager help VERB` explains a verb, with examples; all take --json, --quiet, --store and --jobs"
        return "".join([*parts, f"\n{more}\n{self.epilog}\n"])

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser for some verbs; with all of them it serves `--help` and completion."""
    from packager.cli import options

    parser = _Parser(
        prog="packager",
        description="Turn registered models into reproducible, signed bundles that say what they run on.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"packager {__version__}")
    parser.grouped = names if len(names) > 1 else ()
    commands = parser.add_subparsers(metavar="VERB", required=True)
    for name in names:
        module = load_verb(name)
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__ and "\n".join(module.__doc__.splitlines()),
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        if len(names) == 1 and hasattr(module, "own_arguments"):
            module.own_arguments(command)  # those that plug-ins declare: they are imported for their own verb only
        options.add_common(command)
        command.set_defaults(module=module)
    return parser


def help_of(name: str) -> str:
    """Return the help of one verb."""
    parser = build_parser([name])
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    text: str = commands.choices[name].format_help()
    return text


def format_overview() -> str:
    """Return the help that lists all verbs."""
    return build_parser(list_verbs()).format_help()
