# SPDX-License-Identifier: Apache-2.0
"""Releases of a growing number of models: seconds and memory of the first run, and of one in which nothing changed.

Every model is a toy graph with a name of its own; five share one source, as variants of a model do, so that equal steps
run once. Lock, build, policy and sign. Sizes are arguments (default: 10 40).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from packager.formats import platforms
from packager.trust import keys

RELEASE = "recipes: ['*/bundle.yaml']\ndefaults: {policy: dev, sign: 'key:release.pem'}\n"


def models(folder: Path, count: int) -> None:
    for number in range(count):
        width = number // 5 + 1
        x, y = (helper.make_tensor_value_info(name, 1, ["batch", width]) for name in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        own = folder / f"m{number:04}"
        own.mkdir()
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), own / "m.onnx")
        text = (
            f"name: m{number:04}\nversion: 1.0.0\nsource: ./m.onnx\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
        )
        (own / "bundle.yaml").write_text(text)
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
    (folder / "release.yaml").write_text(RELEASE)


def release(folder: Path, jobs: int) -> tuple[float, float, int, Any]:
    """Return wall and processor seconds, the largest process in bytes, and the result."""
    command = [sys.executable, "-m", "packager", "release", "--jobs", str(jobs), "--json", "--quiet"]
    environment = {**os.environ, "PACKAGER_STORE": str(folder / "store")}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1)]
        child = os.posix_spawn(
            "/bin/sh", ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command], environment, file_actions=actions
        )
        _, status, usage = os.wait4(child, 0)
        wall = time.perf_counter() - started
        out.seek(0)
        result = json.loads(out.read())
    if status:
        sys.exit(json.dumps(result, indent=1)[-2000:])
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, result


def main(sizes: list[int]) -> None:
    print("  models  run      wall s  processor s  per model  largest process MB  steps run  cached")
    for count in sizes:
        with tempfile.TemporaryDirectory() as name:
            models(Path(name), count)
            for label in ("first", "second"):
                wall, used, largest, result = release(Path(name), 2)
                totals = result["totals"]
                print(
                    f"  {count:6}  {label:6} {wall:8.1f} {used:12.1f} {used / count:10.3f} {largest / 1e6:19.0f} "
                    f"{totals['executed']:10} {totals['cached']:7}",
                    flush=True,
                )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [10, 40])
