# SPDX-License-Identifier: Apache-2.0
"""Grow the tables that ship: measure versions of a runtime and write them behind those in `runtimes/<name>/`.

    python -m tests.make_kernels onnxruntime 1.32.0

The rows of versions measured before stay, byte for byte; with `--anew` the kernels hold only the versions named. Each
version is installed in an environment of its own, like `packager runtimes probe` does. With `--blocks` only products
whose weights are in blocks are tried, on the versions named, or on all that the table has, and join it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from packager.runtimes import _kernels
from packager.runtimes.onnxruntime import probe

from packager.conform import probing
from packager.runtime import load_prober

ROOT = Path(__file__).parent.parent / "runtimes"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager" / "environments"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime")
    parser.add_argument("versions", nargs="*")
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--blocks", action="store_true")
    args = parser.parse_args(arguments)
    folder = ROOT / args.runtime.replace("-", "_")
    if args.blocks:
        known = json.loads((folder / "kernels.json").read_bytes())
        found = {version: measure_blocks(version) for version in args.versions or known["over"]}
        (folder / "kernels.json").write_text(_kernels.format_kernels(_kernels.fill_kernels(known, found)))
        return 0
    measured = {version: measure(args.runtime, version) for version in args.versions}
    outcomes = {version: found for version, (_, found) in measured.items()}
    if args.anew:
        kernels = _kernels.tabulate_kernels(outcomes)
    else:
        kernels = json.loads((folder / "kernels.json").read_bytes())
        for version, found in outcomes.items():
            kernels = _kernels.extend_kernels(kernels, version, found)
    (folder / "kernels.json").write_text(_kernels.format_kernels(kernels))
    for version, (row, _) in measured.items():
        write_row(folder / "versions.json", version, row)
    return 0


def measure_blocks(version: str) -> _kernels.Kernels:
    """Return what ONNX Runtime does with products whose weights are in blocks."""
    python, _ = probing.make_environment("onnxruntime", version, sys.executable, CACHE)
    found = probe.measure_blocks(python)
    print(version, {letter: [*found.values()].count(letter) for letter in {*found.values()}}, flush=True)
    return found


def measure(runtime: str, version: str) -> tuple[Any, _kernels.Kernels]:
    """Return the row of a version and what each probe did."""
    program = load_prober(runtime)
    python, said = probing.make_environment(runtime, version, sys.executable, CACHE)
    limits, outcomes = program.measure(python)
    pythons = probing.list_pythons(program.candidates(version)[0])
    table = program.table(said["version"], said, limits, outcomes, pythons)
    print(version, {letter: [*outcomes.values()].count(letter) for letter in {*outcomes.values()}}, flush=True)
    return table["versions"][said["version"]], outcomes


def write_row(path: Path, version: str, row: Any) -> None:
    """Write a row on a line of its own, over the one of the same version or behind the last."""
    lines = path.read_text().splitlines()
    line = f"    {json.dumps(version)}: {json.dumps(row)}"
    known = [i for i, text in enumerate(lines) if text.startswith(f"    {json.dumps(version)}:")]
    if known:
        lines[known[0]] = line + "," * lines[known[0]].endswith(",")
    else:
        rows = [i for i, text in enumerate(lines) if re.match(r'    "[0-9]', text)]
        last = rows[-1] if rows else lines.index('  "versions": {')
        lines[last : last + 1] = [lines[last] + "," * bool(rows), line]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
