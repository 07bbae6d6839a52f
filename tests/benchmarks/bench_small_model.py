# SPDX-License-Identifier: Apache-2.0
"""What a small model costs from recipe to signed bundle: processor seconds by phase, verb by verb and in a release.

The model is a scaler and a logistic regression of scikit-learn, a `.skops` file of 24 kB; four of them, seeded. What
does not depend on the model (answers of the index) is cached before. The floor is what importing the source's libraries
costs in a confined worker; what is left is ours. The last rows are the same import with the adapters for other array
libraries in sight, as it was, and hidden, as it is.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from packager import api
from packager.events import Event, Finished, Started
from packager.formats import platforms
from packager.sandbox.sandbox import Limits, Step, find_confinement, host_interpreter, run_confined
from packager.trust import keys

MODELS = 4
TRAIN = """
import sys
from pathlib import Path
import numpy as np, skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
for number in range(int(sys.argv[2])):
    rows = np.random.RandomState(number).randn(60, 4)
    made = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, (rows[:, 0] > 0).astype(int))
    folder = Path(sys.argv[1]) / f"m{number}"
    folder.mkdir()
    (folder / "model.skops").write_bytes(skops.io.dumps(made))
"""
IMPORTS = "import sklearn.base, onnx"
SKOPS = "import skops.io"
HIDDEN = "from packager.exporters._tables import skops as s\nwith s.hidden(*s.NEVER_USED): import skops.io"


def used() -> float:
    """Return the processor seconds of this process and of all children that have ended."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in found)


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Return the processor and wall seconds of some work."""
    before, started = used(), time.perf_counter()
    work()
    return used() - before, time.perf_counter() - started


def packager(folder: Path, *words: str) -> tuple[float, float]:
    environment = {**os.environ, "PACKAGER_STORE": str(folder / "store")}
    command = [sys.executable, "-m", "packager", *words]
    return cost(lambda: subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True))


def confined(code: str) -> tuple[float, float]:
    """Return what code costs in a worker's sandbox."""
    with tempfile.TemporaryDirectory() as scratch:
        step = Step(Path(scratch), host_interpreter(), ("-c", code), Limits(0, 120), {"HOME": "/tmp"})
        return cost(lambda: run_confined(step, find_confinement(), set()))


def steps(folder: Path) -> dict[str, float]:
    """Build a model in this process; return the processor seconds of every step, and of what is between them."""
    found: dict[str, float] = {}
    begun = [0.0]

    def note(event: Event) -> None:
        if isinstance(event, Started):
            begun[0] = used()
        if isinstance(event, Finished):
            found[event.label] = used() - begun[0]

    workspace = api.Workspace.default(folder / "store", on_event=note)
    project = api.open_project(folder / f"m{MODELS - 1}" / "bundle.yaml", workspace)
    lock = project.make_lock()
    found.clear()
    total, _ = cost(lambda: api.build_bundle(project, lock))
    return {**found, "between the steps": total - sum(found.values())}


def row(name: str, seconds: tuple[float, float]) -> None:
    print(f"  {name:34} {seconds[0]:6.2f} s of processor {seconds[1]:7.2f} s of wall", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", TRAIN, str(folder), str(MODELS)], check=True)
        for number in range(MODELS):
            text = f"name: m{number}\nversion: 1.0.0\nsource: ./model.skops\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
            (folder / f"m{number}" / "bundle.yaml").write_text(text)
        keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
        packager(folder, "lock", "m0")  # the index is asked once
        print("verb by verb, one model")
        parts = [packager(folder, *words) for words in (("lock", "m0"), ("build", "--locked", "m0"))]
        parts += [packager(folder, "sign", "m0:1.0.0", "--key", "release.pem")]
        parts += [packager(folder, "policy", "check", "m0:1.0.0", "--profile", "dev", "--key", "release.pub")]
        for verb, seconds in zip(("lock", "build", "sign", "policy check"), parts, strict=True):
            row(verb, seconds)
        row("together", (sum(p for p, _ in parts), sum(w for _, w in parts)))
        print(f"in a release of {MODELS - 2}, one at a time, per model")
        (folder / "release.yaml").write_text(
            f"recipes: ['m[1-{MODELS - 2}]/bundle.yaml']\ndefaults: {{policy: dev, sign: 'key:release.pem'}}\n"
        )
        whole = packager(folder, "release", "--jobs", "1")
        row("all tasks", (whole[0] / (MODELS - 2), whole[1] / (MODELS - 2)))
        again = packager(folder, "release", "--jobs", "1")
        row("nothing changed", (again[0] / (MODELS - 2), again[1] / (MODELS - 2)))
        print("one build, by step (processor seconds)")
        found = steps(folder)
        for label, seconds in found.items():
            print(f"  {label:34} {seconds:6.2f}")
        confined("pass")
        floor, _ = confined(IMPORTS)
        total = sum(found.values())
        print(f"  importing scikit-learn and onnx takes {floor:.2f} in a worker, in two of the five: ", end="")
        print(f"{2 * floor:.2f} of {total:.2f} s are not ours, {total - 2 * floor:.2f} s are")
        print("importing skops in a worker")
        before, after = confined(SKOPS), confined(HIDDEN)
        row("with torch in sight (before)", before)
        row("hidden (after)", after)
        print(f"  {before[0] / after[0]:.1f} x, twice for every model in a `.skops` file")


if __name__ == "__main__":
    main()
