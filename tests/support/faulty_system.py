# SPDX-License-Identifier: Apache-2.0
"""Runs verbs while the operating system refuses one call: `python -m tests.support.faulty_system`, a line of JSON per case.

Python tells an audit hook of every file it opens, every name it makes, moves or removes, and every program it starts;
the hook raises the error in the place of the N-th. Each case runs in a process of its own, forked from one that has
imported everything, in a fresh copy of its folder, and once more without a fault.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from packager import cli
from tests.support import forks

WATCHED = {
    "open",
    "os.link",
    "os.listdir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.scandir",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "os.chmod",
    "shutil.copyfile",
    "subprocess.Popen",
    "tempfile.mkdtemp",
    "tempfile.mkstemp",
}
_OF_PYTHON = (sys.prefix, sys.base_prefix, str(Path(cli.__file__).parents[2]), "/proc/", "/sys/", "/dev/", "/etc/")


def run(arguments: list[str], place: int | None, code: int) -> tuple[int, int, str]:
    """Run a verb here; return its exit code, how many calls it made, and what it said."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in WATCHED or (isinstance(args[0], str | bytes) and os.fsdecode(args[0]).startswith(_OF_PYTHON)):
            return
        count += 1
        if count - 1 == place:
            name = args[0] if isinstance(args[0], str | bytes) else None
            raise OSError(code, os.strerror(code), name)

    said = io.StringIO()
    sys.addaudithook(hook)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, count, said.getvalue()


def apart(arguments: list[str], folder: Path, place: int | None = None, code: int = 0) -> tuple[int, int, str]:
    """Run a verb in a process of its own that works in `folder`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ["HOME"] = str(folder)
        try:
            found = run(arguments, place, code)
        except BaseException as error:
            found = (70, 0, f"{type(error).__name__} left main: {error}")
        os.write(writer, json.dumps([found[0], found[1], found[2][-3000:]]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    status, count, said = json.loads(data)
    return status, count, said


def refuse_calls(wanted: dict[str, Any], out: IO[str]) -> None:
    """Write a row for a verb as it is, and one for each call refused: exit codes, also of a repetition, and what was said."""

    def say(**row: object) -> None:
        print(json.dumps(row), file=out)

    chance, verb = random.Random(wanted["seed"]), wanted["verb"]
    with tempfile.TemporaryDirectory() as there:
        first = shutil.copytree(wanted["folder"], Path(there, "w"), symlinks=True)
        status, count, said = apart(verb, first)
        twice, _, _ = apart(verb, first)
        say(verb=verb, calls=count, status=status, said=said, twice=twice)
    for name in wanted["errors"]:
        for place in sorted({chance.randrange(count) for _ in range(wanted["places"] if count else 0)}):
            with tempfile.TemporaryDirectory() as there:
                copy = shutil.copytree(wanted["folder"], Path(there, "w"), symlinks=True)
                status, _, said = apart(verb, copy, place, getattr(errno, name))
                again, _, told = apart(verb, copy)
            say(verb=verb, error=name, place=place, status=status, said=said, again=again, told=told)


def main() -> None:
    """Answer each case of standard input with its rows and an empty line."""
    forks.prepare()
    for line in sys.stdin:
        refuse_calls(json.loads(line), sys.stdout)
        print(flush=True)


if __name__ == "__main__":
    main()
