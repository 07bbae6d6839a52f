# SPDX-License-Identifier: Apache-2.0
"""What an older revision and this one take for the same work, in one run, turn by turn.

    python tests/benchmarks/bench_before_after.py 2e8534e [--rounds 5] [--requests 200]

Both revisions are laid out as they are installed, with this environment's libraries. Rows: `--help`, a build
that has nothing to do, `verify` and the writing of a bundle of 4 MB, and inference over HTTP. A figure is the least of
all rounds: processor time of the command and what it started, and the clock; of the server, milliseconds beyond the
runtime's own. Needs a package index for one lock of each revision.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from packager.formats import platforms

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"packager": "packager"} | {
    name: f"packager/{name}" for name in ("runtimes", "policies", "templates", "conformance")
}
RECIPE = "name: net\nversion: 1.0.0\nsource: ./model.onnx\nplatforms: [%s]\n"
KEY = ("--key", "release.pub")


def lay_out(revision: str, folder: Path) -> Path:
    """Make `env` below `folder`: this environment, as hard links, with a revision's packages as pip installs them.

    Returns its interpreter. `bench` are the benchmarks of that revision.
    """
    archive = folder / "revision.tar"
    subprocess.run(["git", "archive", "-o", archive, revision, *PARTS, "tests/benchmarks"], cwd=ROOT, check=True)
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "tree", filter="data")
    subprocess.run(["cp", "--archive", "--link", sys.prefix, folder / "env"], check=True)
    site = folder / "env" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    for link in site.glob("__editable__*model_packager*"):
        link.unlink()
    for name, place in PARTS.items():
        shutil.copytree(folder / "tree" / name, site / place, dirs_exist_ok=True)
    shutil.move(folder / "tree" / "tests" / "benchmarks", folder / "bench")
    return folder / "env" / "bin" / "python"


class Revision:
    """A revision laid out in a folder, with a project and a store of its own."""

    def __init__(self, revision: str, folder: Path, model: Path) -> None:
        folder.mkdir()
        self.python = str(lay_out(revision, folder))
        self.folder, self.project = folder, folder / "project"
        self.project.mkdir()
        shutil.copy(model, self.project / "model.onnx")
        (self.project / "bundle.yaml").write_text(RECIPE % platforms.name_host())
        self.variables = {**os.environ, "PACKAGER_STORE": str(folder / "store")}
        for words in (("lock",), ("build", "--locked"), ("keygen", "release"), self.writing("net.bundle.tar")):
            self.run(*words)

    def writing(self, name: str) -> tuple[str, ...]:
        return "sign", "net:1.0.0", "--key", "release.pem", "-o", name

    def run(self, *words: str) -> tuple[float, float]:
        """Run the command line; return seconds of the processor and of the clock."""
        return self.start(self.python, "-m", "packager", *words)[:2]

    def start(self, *command: str) -> tuple[float, float, str]:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=self.project, env=self.variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} at {self.folder.name}: {done.stdout}{done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return used, time.perf_counter() - began, done.stdout

    def serve(self, requests: int) -> dict[str, float]:
        """Return the milliseconds that serving adds to a run, by model, as this revision's own benchmark says."""
        bench = str(self.folder / "bench" / "bench_serve.py")
        lines = self.start(self.python, bench, "--requests", str(requests), "--rounds", "1")[2].splitlines()
        cells = [line.replace("|", " ").split() for line in lines[1:]]
        return {row[0]: float(row[5]) for row in cells}


def write_model(path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1024]) for name in "xy"]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("revision")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--requests", type=int, default=200, help="of each model in a round (%(default)s)")
    arguments = parser.parse_args()
    used: dict[str, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    (ROOT / "build").mkdir(exist_ok=True)  # on the file system of this environment, for the links
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        Path(name).chmod(0o755)  # root's workers are another user
        write_model(Path(name, "model.onnx"))
        pair = {
            label: Revision(revision, Path(name, label), Path(name, "model.onnx"))
            for label, revision in (("before", arguments.revision), ("after", "HEAD"))
        }
        for _ in range(arguments.rounds):
            for label, revision in pair.items():
                used["--help"][label].append(revision.run("--help"))
                used["build, nothing to do"][label].append(revision.run("build", "--locked"))
                used["verify"][label].append(revision.run("verify", "net.bundle.tar", *KEY))
                used["write a signed file"][label].append(revision.run(*revision.writing("again.tar")))
                for model, added in revision.serve(arguments.requests).items():
                    used[f"serve {model}"][label].append((added,))
    print(f"{'':22} {'before':>16} {'after':>16}  (processor s, clock s; serving: added ms)")
    for row, found in used.items():
        least = {label: [min(column) for column in zip(*rows, strict=True)] for label, rows in found.items()}
        print(f"{row:22}", *(f"{' '.join(f'{figure:.3f}' for figure in least[label]):>16}" for label in pair))


if __name__ == "__main__":
    main()
