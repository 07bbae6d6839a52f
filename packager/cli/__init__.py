# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file per verb (`_verbs.py`); this file runs one, and turns errors into exit codes.

Only the verb that is called is imported, so `packager verify` starts as fast as Python itself; `--help` imports the
one-line helps.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from packager import __version__
from packager.errors import PackagerError, StorageError

if TYPE_CHECKING:
    from packager.cli.console import Console

INTERRUPTED = 130  # what shells report for Ctrl-C
CUT_OFF = 141  # and for a program whose reader has gone


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
        from packager import api

        found = api.translate_error(error)
        if found is None:
            return _report_bug(console)
        console.fail(found)
        return found.code
    except Exception:
        return _report_bug(console)


def _run(argv: Sequence[str], console: Console) -> int:
    if argv and argv[0] == "--version":  # without a parser, and so without the verbs
        print(f"packager {__version__}")
        return 0
    from packager.cli import _parser

    if not argv and "_ARGCOMPLETE" not in os.environ:
        print(_parser.format_overview(), end="")
        return 0
    try:
        args = _parser.parse_words(argv)
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


def _report_bug(console: Console) -> int:
    """Say where whatever is not ours went wrong: it is a bug."""
    import traceback

    for row in traceback.format_exc().splitlines():
        console.message(row)
    console.message(f"this is a bug in packager {__version__}: please report the lines above")
    return PackagerError.code


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
