# SPDX-License-Identifier: Apache-2.0
"""What confinement adds to a build with an empty store: three models, with `sandbox: none` and as always, interleaved.

    python tests/benchmarks/bench_sandbox.py [ROUNDS]

Printed are the least wall times and their ratio. Processor time would say more on a busy machine, but what confined
workers used is not counted with what waited for them: the process between may be gone first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = {
    "random forest of 50 trees (`.skops`)": """
import numpy, skops.io, sys
from sklearn.ensemble import RandomForestClassifier
x = numpy.random.RandomState(0).randn(400, 8)
skops.io.dump(RandomForestClassifier(50, random_state=0).fit(x, (x[:, 0] > x[:, 1]).astype(int)), sys.argv[1] + "/model.skops")
""",
    "convolution, 0.5 MB (`.pt2`)": """
import sys, torch
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 192, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))
shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
torch.export.save(torch.export.export(net.eval(), (torch.randn(2, 3, 32, 32),), dynamic_shapes=shapes), sys.argv[1] + "/model.pt2")
""",
    "six layers of 4096 × 4096, 403 MB (`.pt2`)": """
import sys, torch
from torch import nn
net = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(6)))
shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
torch.export.save(torch.export.export(net.eval(), (torch.randn(2, 4096),), dynamic_shapes=shapes), sys.argv[1] + "/model.pt2")
""",
}
WAYS = {"sandbox: none": "sandbox: none\n", "confined": ""}
RECIPE = "name: m\nversion: 1.0.0\nsource: ./model\nplatforms: [linux_x86_64-cp311]\npolicy: dev\n"


def spent(command: list[str], folder: Path) -> float:
    """Return the seconds that a command takes."""
    variables, started = {**os.environ, "PACKAGER_STORE": str(folder / "store")}, time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def build(folder: Path, way: str) -> float:
    """Build once with an empty store, what is locked being locked."""
    packager = [sys.executable, "-m", "packager"]
    (folder / "bundle.yaml").write_text(RECIPE + WAYS[way])
    spent([*packager, "lock"], folder)
    shutil.rmtree(folder / "store")
    found = spent([*packager, "build", "--locked"], folder)
    shutil.rmtree(folder / "store")
    return found


def main() -> None:
    """Print a row for each model."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for title, code in MAKE.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model").mkdir()
            subprocess.run([sys.executable, "-c", code, folder / "model"], check=True, capture_output=True)
            runs = [(way, build(folder, way)) for _ in range(rounds) for way in WAYS]
        without, confined = (min(seconds for how, seconds in runs if how == way) for way in WAYS)
        print(f"| {title} | {without:.1f} | {confined:.1f} | {confined / without:.2f} |", flush=True)
    print("load", os.getloadavg())


if __name__ == "__main__":
    main()
