# SPDX-License-Identifier: Apache-2.0
"""Which system calls confined workers make: the traces that the filter's list rests on (`packager.sandbox.seccomp`).

    python -m tests.matrix.calls                     every source of the table, for the targets of `MATRIX_TARGETS`
    python -m tests.matrix.calls "XGBoost" …         some of them
    python -m tests.matrix.calls -- packager build   any command

Each is run under strace, and what processes do after they put themselves under a filter is counted, with the arguments that
the filter looks at. Printed are the calls, those that were refused, and those that the list lacks; the table's are kept in
`docs/measurements/system-calls.json`. A build that a new library breaks is looked at here before the list grows.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.matrix.sources import SOURCES, Source

RECORD = Path(__file__).parents[2] / "docs" / "measurements" / "system-calls.json"
_ROW = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)")
_LOOKED_AT = {  # where in the call's text the argument stands that the filter looks at
    "ioctl": re.compile(r"[^,]*, (\w+(?:\([^)]*\))?)"),
    "prctl": re.compile(r"(\w+)"),
    "socket": re.compile(r"(\w+)"),
    "socketpair": re.compile(r"(\w+)"),
    "personality": re.compile(r"(\w+)"),
}
_CHILD = re.compile(r"= (\d+)(?: /\* (\d+) in strace's PID NS \*/)?")
_REFUSED = re.compile(r"= -1 (EPERM|ENOSYS) ")


@dataclass(slots=True)
class _Process:
    """What one process did, before and after it put itself under a filter."""

    filtered: bool = False
    calls: Counter[str] = field(default_factory=Counter)
    children: dict[bool, set[str]] = field(default_factory=lambda: defaultdict(set))
    seen: Counter[str] = field(default_factory=Counter)  # before; its parent may have been filtered


def read(rows: Iterable[str]) -> Counter[str]:
    """Return the calls of filtered processes in a trace of strace: `ioctl TCGETS`, and `mount: EPERM` where refused."""
    processes: dict[str, _Process] = defaultdict(_Process)
    for row in rows:
        if not (found := _ROW.match(row)):
            continue
        number, call, form, rest = found.groups()
        process = processes[number]
        told = process.calls if process.filtered else process.seen
        if form == "(":
            looked = _LOOKED_AT[call].match(rest) if call in _LOOKED_AT else None
            name = f"{call} {looked[1]}" if looked else call
            told[name] += 1
            if call == "prctl" and rest.startswith("PR_SET_SECCOMP"):
                process.filtered = True
        if refused := _REFUSED.search(rest):
            told[f"{call}: {refused[1]}"] += 1
        if call in ("clone", "clone3", "fork", "vfork") and (child := _CHILD.search(rest)):
            process.children[process.filtered].add(child[2] or child[1])
    inside: set[str] = set()
    pending = [(number, True) for number, process in processes.items() if process.filtered]
    total: Counter[str] = Counter()
    while pending:
        number, own = pending.pop()
        if number in inside:
            continue
        inside.add(number)
        process = processes[number]
        total += process.calls if own else process.calls + process.seen
        pending += [(child, False) for child in process.children[True] | (set() if own else process.children[False])]
    return total


def trace(command: Sequence[str | Path]) -> Counter[str]:
    """Run a command under strace; return the calls of its confined workers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace"
        options = ["--follow-forks", "--decode-pids=pidns", "-qqq", "--string-limit=0", "-e", "signal=none"]
        done = subprocess.run(["strace", *options, "-o", file, *command], check=False)
        if done.returncode:
            raise SystemExit(f"the command ended with status {done.returncode}")
        with file.open(errors="replace") as rows:
            return read(rows)


def _build(title: str, model: Path) -> None:
    """Build a source for each target alone, as the table's test does: what is traced."""
    from tests.matrix.test_sources_and_targets import CHOSEN, bench, cell, consented

    source = _named(title)
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(source.at(model))
        place = bench(source, found, model, model.parent / "bench")
        place = consented(place) if source.own_code else place
        for target in CHOSEN:
            print(f"  {target.title}: {cell(place, target).get('reason', 'built')}", flush=True)


def _named(title: str) -> Source:
    return next(source for source in SOURCES if source.title == title)


def _of_source(source: Source) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "made"
        source.make(model)
        return trace([sys.executable, "-m", "tests.matrix.calls", "--build", source.title, model])


def _tell(calls: Counter[str]) -> None:
    for name, count in sorted(calls.items()):
        print(f"{count:9} {name}")


def main(words: Sequence[str]) -> None:
    """Trace what the command line says."""
    if words[:1] == ["--build"]:
        return _build(words[1], Path(words[2]))
    if not shutil.which("strace"):
        raise SystemExit("strace is not installed (`apt-get install strace`)")
    if words[:1] == ["--"]:
        return _tell(trace(words[1:]))
    for source in [_named(title) for title in words] or SOURCES:
        print(source.title, flush=True)
        calls = _of_source(source)
        _tell(calls)
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        known[source.title] = dict(sorted(calls.items()))
        RECORD.write_text(json.dumps(known, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
