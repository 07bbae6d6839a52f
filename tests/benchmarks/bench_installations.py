# SPDX-License-Identifier: Apache-2.0
"""Installations of one model side by side: seconds and disk of each, with environments of their own and with shared ones.

`python tests/benchmarks/bench_installations.py [COUNT]`: three of their own, then COUNT (default 50) that share. The
bundle is built here from a small graph; its locked wheels come from the index and pip's cache, for both alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from packager.bundle.bundle import Bundle, no_network, open_bundle
from packager.deploy.install import Index, install
from packager.store.store import Store

OWN = 3


def build(folder: Path) -> Bundle:
    """Build a bundle of a graph with one node in a store of its own."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "small.onnx")
    for verb in (["init", "small.onnx"], ["lock"], ["build"]):
        command = [sys.executable, "-m", "packager", *verb, "--quiet", "--store", str(folder / "store")]
        subprocess.run(command, cwd=folder, check=True)
    store = Store(folder / "store")
    ((name, version),) = store.bundles()
    return open_bundle(f"{name}:{version}", lambda: store, no_network)


def measure(bundle: Bundle, root: Path, count: int, shared: Path | None) -> tuple[list[float], int]:
    """Install `count` times; return the seconds of each, and the bytes of all."""
    taken = []
    for number in range(count):
        started = time.monotonic()
        install(bundle, root / f"site-{number}", None, Index(None, shared), dict(os.environ))
        taken.append(time.monotonic() - started)
    return taken, used(root)


def used(root: Path) -> int:
    """Return the bytes that a directory takes on the disk; a file with several links counts once."""
    seen = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(Path(folder, name))
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(Path(folder))
        own, own_size = measure(bundle, Path(folder, "own"), OWN, None)
        shared, size = measure(bundle, Path(folder, "shared"), count, Path(folder, "shared", "served"))
    usual, rest = statistics.median(own), statistics.median(shared[1:])
    print(f"own environments:  {usual:6.2f} s and {own_size / OWN / 1e6:6.1f} MB each")
    print(
        f"shared, {count:4}:      {rest:6.2f} s after the first ({shared[0]:.2f} s), {size / count / 1e6:6.1f} MB each"
    )
    print(f"ratio:             {rest / usual:6.3f} of the time, {size * OWN / count / own_size:.3f} of the disk")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
