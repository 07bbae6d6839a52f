# SPDX-License-Identifier: Apache-2.0
"""Release the same models on one node of a Ray cluster, and on two: wall seconds, and the speed-up.

Nodes are network namespaces of this machine; each is pinned to a processor of its own and may run one step at a time.
The release itself, with the registry between them, takes what is left of all processors, so two nodes want four. Locks
are made before, with an index. Needs root, `ip` and docker-registry; arguments: the number of models (default: 8).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import helper

from tests.benchmarks.bench_release import models
from tests.support import ray_clusters


def write_models(folder: Path, count: int) -> None:
    """Write toy graphs that have no step in common."""
    models(folder, count)
    for number in range(count):
        x, y = (helper.make_tensor_value_info(name, 1, ["batch", number + 1]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(made, folder / f"m{number:04}" / "m.onnx")


def lock(folder: Path, store: Path) -> None:
    command = [sys.executable, "-m", "packager", "release", "--until", "lock", "--quiet", "--json"]
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PACKAGER_STORE": str(store)}, check=True, capture_output=True
    )


def measure(base: Path, nodes: int) -> tuple[float, dict[str, str], list[int]]:
    """Return the seconds of a release on fresh nodes, the digests, and how many actions each node performed."""
    own = base / f"nodes{nodes}"
    shutil.copytree(base / "models", own / "project")
    shutil.copytree(base / "locked", own / "store")
    (own / "ray").mkdir()
    pins = [str(number % (os.cpu_count() or 1)) for number in range(nodes)]
    with ray_clusters.cluster(own / "ray", [1] * nodes, pins) as cluster:
        started = time.perf_counter()
        process = cluster.release(own / "project", own / "store", "--jobs", str(2 * nodes))
        code = process.wait()
        seconds = time.perf_counter() - started
        if code:
            sys.exit((own / "project" / "err").read_text())
        rows = json.loads((own / "project" / "out.json").read_text())["models"]
        shares = [len(machine.actions()) for machine in cluster.machines]
    return seconds, {row["name"]: row["digest"] for row in rows}, shares


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "models").mkdir()
        write_models(base / "models", count)
        lock(base / "models", base / "locked")
        print(f"{count} models; load before: {os.getloadavg()[0]:.1f}; {os.cpu_count()} processors", flush=True)
        found = {}
        for nodes in (1, 2):
            found[nodes] = measure(base, nodes)
            print(f"  {nodes} nodes: {found[nodes][0]:7.1f} s, actions by node: {found[nodes][2]}", flush=True)
        same = found[1][1] == found[2][1]
        print(f"  speed-up {found[1][0] / found[2][0]:.2f}; digests {'equal' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
