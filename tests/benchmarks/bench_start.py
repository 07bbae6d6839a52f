# SPDX-License-Identifier: Apache-2.0
"""How fast verbs start and answer, against `python -c pass`; medians of 15 runs (or RUNS), bytecode cached for all.

Seconds of the clock, and of the processor: on a busy machine only the latter mean anything. PYTHON names the interpreter
of an environment that has packager installed (default: this one, which has it as an editable package), or several with
`:` between them, such as those of two versions, which take turns. `pull` and `push` use docker-registry, where it is
installed; beside them runs the least that a pull in Python can be: `http.client`, SHA-256, one connection, no bundle.
"""

from __future__ import annotations

import contextlib
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

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import registry_server

RUNS = int(os.environ.get("RUNS", "15"))
PYTHONS = os.environ.get("PYTHON", sys.executable).split(":")
DATA = Path(__file__).parents[1] / "data" / "bundles"
KEY = str(DATA / "words.pub")
LEAST = """
import hashlib, http.client, json, os, sys
host, name, folder = sys.argv[1:]; os.makedirs(folder); there = http.client.HTTPConnection(host)
def get(path):
    there.request("GET", f"/v2/{name}/{path}", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    return there.getresponse().read()
manifest = json.loads(get("manifests/1.0.0"))
for row in [manifest["config"], *manifest["layers"]]:
    data = get("blobs/" + row["digest"]); assert "sha256:" + hashlib.sha256(data).hexdigest() == row["digest"]
    with open(os.path.join(folder, row["digest"][7:]), "wb") as file: file.write(data); os.fsync(file.fileno())
"""
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


def remote(folder: Path, host: str) -> dict[str, list[str]]:
    """Return what is timed with a registry that has the bundle."""
    bundle, there = str(folder / "words.bundle.tar"), f"oci://{host}/words"
    seconds(PYTHONS[0], ["-m", "packager", "push", bundle, f"{there}:1.0.0"], folder)
    return {
        "least pull": ["-c", LEAST, host, "words", str(folder / "out")],
        "pull": ["-m", "packager", "pull", f"{there}:1.0.0", "--store", str(folder / "out")],
        "pull --key": ["-m", "packager", "pull", f"{there}:1.0.0", "--store", str(folder / "out"), "--key", KEY],
        "push": ["-m", "packager", "push", bundle, f"oci://{host}/FRESH/words:1.0.0"],
    }


def seconds(python: str, arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run a command once; return the seconds of the clock and of the processor."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PACKAGER_STORE"] = str(folder / "store")
    fresh = f"fresh{time.time_ns()}"
    command = [python, *(word.replace("FRESH", fresh) for word in arguments)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode not in (0, 6):  # 6: `compat` cannot say
        raise SystemExit(f"{arguments}: {done.stderr}")
    return time.perf_counter() - started, spent


def main() -> None:
    program = shutil.which("docker-registry")
    with tempfile.TemporaryDirectory() as there, contextlib.ExitStack() as stack:
        folder = Path(there)
        timed = commands(folder)
        if program:
            timed |= remote(folder, stack.enter_context(registry_server.registry(program, folder / "registry")).host)
        runs = [(python, name) for name in timed for python in PYTHONS]
        rounds = [{run: seconds(run[0], timed[run[1]], folder) for run in runs} for _ in range(RUNS + 1)][1:]
        print(f"load {os.getloadavg()[0]:.0f}  {'clock':>13} {'least':>8} {'processor':>12} {'least':>8}  modules")
        for python, name in runs:
            found = [[row[python, name][kind] * 1000 for row in rounds] for kind in (0, 1)]
            figures = "".join(f"{statistics.median(row):8.0f} ms {min(row):5.0f} ms" for row in found)
            loaded = modules(python, timed[name], folder) if timed[name][0] == "-m" else ("", "")
            print(f"{name:16}{figures}  {' '.join(loaded)}  {python if len(PYTHONS) > 1 else ''}")


def modules(python: str, arguments: list[str], folder: Path) -> tuple[str, str]:
    """Return how many modules a verb imports, and which of them are heavy."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    code = (
        "import sys\nbefore = len(sys.modules)\nfrom packager.cli import main\n"
        f"try: main({[word.replace('FRESH', f'counted{time.time_ns()}') for word in arguments[2:]]!r})\nexcept SystemExit: pass\n"
        f"print(len(sys.modules) - before, *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    environment = os.environ | {"PACKAGER_STORE": str(folder / "store")}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=folder)
    count, *heavy = done.stderr.splitlines()[-1].split()
    return count, " ".join(heavy)


if __name__ == "__main__":
    main()
