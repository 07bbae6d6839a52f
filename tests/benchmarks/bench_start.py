# SPDX-License-Identifier: Apache-2.0
"""How fast verbs start and answer, against `python -c pass`; medians of 15 runs, bytecode cached for all.

Seconds of the clock, and of the processor: on a busy machine only the latter mean anything. PYTHON names the interpreter
of an environment that has packager installed (default: this one, which has it as an editable package).
"""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
PYTHON = os.environ.get("PYTHON", sys.executable)
DATA = Path(__file__).parents[1] / "data" / "bundles"
KEY = str(DATA / "words.pub")
HEAVY = ("torch", "onnx", "numpy", "mlflow")


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is timed; the bundle has 23 files and 84 kB."""
    bundle = folder / "words.bundle.tar"
    bundle.write_bytes(gzip.decompress((DATA / "words-contract-1.bundle.tar.gz").read_bytes()))
    verbs = {
        "--version": ["--version"],
        "--help": ["--help"],
        "verify --help": ["verify", "--help"],
        "verify": ["verify", str(bundle), "--key", KEY],
        "inspect": ["inspect", str(bundle)],
        "compat": ["compat", str(bundle)],
        "unpack": ["unpack", str(bundle), str(folder / "out"), "--key", KEY],
        "import": ["import", str(bundle), "--key", KEY],
    }
    return {"python -c pass": ["-c", "pass"]} | {name: ["-m", "packager", *words] for name, words in verbs.items()}


def seconds(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run a command once; return the seconds of the clock and of the processor."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PACKAGER_STORE"] = str(folder / "store")
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [PYTHON, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, spent


def main() -> None:
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        timed = commands(folder)
        for arguments in timed.values():
            seconds(arguments, folder)
        rounds = [{name: seconds(arguments, folder) for name, arguments in timed.items()} for _ in range(RUNS)]
        print(f"{'':16} {'clock':>8} {'processor':>10}  modules")
        for name, arguments in timed.items():
            clock, processor = (statistics.median(row[name][kind] for row in rounds) for kind in (0, 1))
            count, heavy = modules(arguments, folder) if arguments[0] == "-m" else ("", "")
            print(f"{name:16} {1000 * clock:5.0f} ms {1000 * processor:7.0f} ms  {count} {heavy}")


def modules(arguments: list[str], folder: Path) -> tuple[str, str]:
    """Return how many modules a verb imports, and which of them are heavy."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    code = (
        "import sys\nbefore = len(sys.modules)\nfrom packager.cli import main\n"
        f"try: main({arguments[2:]!r})\nexcept SystemExit: pass\n"
        f"print(len(sys.modules) - before, *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    environment = os.environ | {"PACKAGER_STORE": str(folder / "store")}
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, env=environment)
    count, *heavy = done.stderr.splitlines()[-1].split()
    return count, " ".join(heavy)


if __name__ == "__main__":
    main()
