# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file per verb; this file finds them, runs one, and turns errors into exit codes.

A verb is a module with `HELP`, `EXAMPLES`, `arguments(parser)` and `main(args, console) -> int`. Only the verb that
was asked for is imported, so `packager verify` starts as fast as Python itself; `--help` imports the one-line helps.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from packager import __version__
from packager.errors import PackagerError, StorageError, UsageError, did_you_mean

if TYPE_CHECKING:
    from packager.cli.console import Console

INTERRUPTED = 130  # what shells report for Ctrl-C
_HELPERS = {"console", "options"}
_EXIT_CODES = (
    "exit codes: 0 ok, 1 the answer is no (policy, parity, verification), 2 usage, recipe or lock, "
    "3 source or network, 4 a step failed, 5 integrity, 6 nobody knows (compat, doctor), 70 a bug, 130 interrupted"
)


def entry() -> None:
    """Run as a program."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; this is the only place that handles our errors."""
    from packager.cli.console import Console

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(json="--json" in argv, quiet="--quiet" in argv)
    try:
        args = _parse(argv)
        return int(args.module.main(args, console))
    except PackagerError as error:
        console.fail(error)
        return error.code
    except KeyboardInterrupt:
        console.message("interrupted: nothing half-written is left; repeat the command to go on")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        console.fail(StorageError("out of memory", hint="close other programs, or lower --jobs"))
        return StorageError.code
    except OSError as error:
        from packager.oserrors import translated

        found = translated(error)
        if found is None:
            return _report_bug(console)
        console.fail(found)
        return found.code
    except Exception:
        return _report_bug(console)


def _report_bug(console: Console) -> int:
    """Say where whatever is not ours went wrong: it is a bug."""
    import traceback

    for row in traceback.format_exc().splitlines():
        console.message(row)
    console.message(f"this is a bug in packager {__version__}: please report the lines above")
    return PackagerError.code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def verbs() -> list[str]:
    """Return the names of all verbs, sorted; a verb is a file in this folder."""
    found = {info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")}
    return sorted(found - _HELPERS)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser(verbs()))
    named = next((word for word in argv if not word.startswith("-")), None)
    known = verbs()
    if named is not None and named not in known and not {"-h", "--help", "--version"} & set(argv[: argv.index(named)]):
        raise UsageError(f"`{named}` is not a command", hint=did_you_mean(named, known))
    return build_parser([named] if named in known else known).parse_args(argv)


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other error is reported."""

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
    commands = parser.add_subparsers(metavar="VERB", required=True)
    for name in names:
        module = load(name)
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
        options.common(command)
        command.set_defaults(module=module)
    return parser


def load(name: str) -> ModuleType:
    """Import one verb."""
    return importlib.import_module(f"packager.cli.{name}")
