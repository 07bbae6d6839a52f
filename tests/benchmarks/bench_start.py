# SPDX-License-Identifier: Apache-2.0
"""How fast the command line starts, against `python -c pass`; medians of 15 runs, bytecode cached for both."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

RUNS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "packager --help": ["-m", "packager", "--help"],
    "packager verify --help": ["-m", "packager", "verify", "--help"],
    "packager inspect --help": ["-m", "packager", "inspect", "--help"],
}
HEAVY = ("torch", "onnx", "numpy", "mlflow")


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    for arguments in COMMANDS.values():
        seconds(arguments)
    rounds = [{name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(RUNS)]
    medians = {name: statistics.median(row[name] for row in rounds) for name in COMMANDS}
    base = medians["python -c pass"]
    for name, value in medians.items():
        print(f"{name:24} {1000 * value:6.0f} ms   {1000 * (value - base):+6.0f} ms   x{value / base:.2f}")
    for name, arguments in COMMANDS.items():
        if name.startswith("packager"):
            code = f"import sys, runpy; sys.argv={['packager', *arguments[2:]]!r}\ntry: runpy.run_module('packager', run_name='__main__')\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            print(f"{name:24} imports of {', '.join(HEAVY)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
