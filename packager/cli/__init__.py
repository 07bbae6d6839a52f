# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file per verb (`_verbs.py`); this file runs one, and turns errors into exit codes.

Only the verb that is called is imported, so `packager verify` starts as fast as Python itself; `--help` imports the
one-line helps.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from packager import api
from packager.cli._verbs import GROUPS, group_of, list_verbs, load_verb
from packager.errors import PackagerError, StorageError, UsageError, did_you_mean

if TYPE_CHECKING:
    from packager.cli.console import Console

INTERRUPTED = 130  # what shells report for Ctrl-C
CUT_OFF = 141  # and for a program whose reader has gone
_BEFORE = {"--json": 1, "--quiet": 1, "--store": 2, "--jobs": 2}  # common options and the words they take
_EXIT_CODES = (
    "exit codes: 0 ok, 1 the answer is no (policy, parity, verification), 2 usage, recipe or lock, "
    "3 source or network, 4 a step failed, 5 integrity, 6 unknown (compat, doctor), 70 a bug, 130 interrupted"
)


def entry() -> None:
    """Run as a program."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code, also when stdout is closed."""
    from packager.cli.console import Console

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _answer(argv, Console(json="--json" in argv, quiet="--quiet" in argv))
        sys.stdout.flush()  # here, so that a reader who has gone is met where it is handled
    except BrokenPipeError:
        return _cut_off()
    return code


def _answer(argv: Sequence[str], console: Console) -> int:
    """Run one command; this is the only place that handles our errors."""
    try:
        code = _run(argv, console)
        sys.stdout.flush()  # a disk that is full is an error like any other
        return code
    except PackagerError as error:
        console.fail(error)
        return error.code
    except KeyboardInterrupt:
        console.message("interrupted: nothing half-written is left; repeat the command to go on")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except MemoryError:
        console.fail(StorageError("out of memory", hint="close other programs, or lower --jobs"))
        return StorageError.code
    except (OSError, RuntimeError) as error:
        found = api.translate_error(error)
        if found is None:
            return _report_bug(console)
        console.fail(found)
        return found.code
    except Exception:
        return _report_bug(console)


def _run(argv: Sequence[str], console: Console) -> int:
    if not argv and "_ARGCOMPLETE" not in os.environ:
        print(build_parser(list_verbs()).format_help(), end="")
        return 0
    if argv and argv[0] == "--version":  # without a parser, and so without the verbs
        print(f"packager {api.__version__}")
        return 0
    try:
        args = _parse(_reordered(argv))
    except SystemExit:  # it has printed help or a version
        sys.stdout.flush()
        raise
    console.json, console.quiet = args.json, args.quiet
    return int(args.module.main(args, console))


def _cut_off() -> int:
    """End quietly when stdout is closed, with what shells report of programs that do not handle it.

    Not with 0: a pipe that closes early has not read the answer of `verify`.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    return CUT_OFF


def _reordered(argv: Sequence[str]) -> list[str]:
    """Put common options that stand before the verb behind it, where its parser knows them."""
    words, first = [*argv], 0
    while first < len(words) and (option := words[first]).split("=")[0] in _BEFORE:
        first += 1 if "=" in option else _BEFORE[option]
    return [*words[first : first + 1], *words[:first], *words[first + 1 :]] if first < len(words) else words


def _report_bug(console: Console) -> int:
    """Say where whatever is not ours went wrong: it is a bug."""
    import traceback

    for row in traceback.format_exc().splitlines():
        console.message(row)
    console.message(f"this is a bug in packager {api.__version__}: please report the lines above")
    return PackagerError.code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser(list_verbs()))
    named = next((word for word in argv if not word.startswith("-")), None)
    known = list_verbs()
    if named is not None and named not in known and not {"-h", "--help", "--version"} & set(argv[: argv.index(named)]):
        raise UsageError(f"`{named}` is not a command", hint=did_you_mean(named, known))
    return build_parser([named] if named in known else known).parse_args(argv)


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
    parser.add_argument("--version", action="version", version=f"packager {api.__version__}")
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
