# SPDX-License-Identifier: Apache-2.0
"""A release of many small models of several kinds for three targets each: time, memory, a second run, and kills.

    python -m tests.benchmarks.release_fleet 200            one unbroken release, and one in which nothing changed
    python -m tests.benchmarks.release_fleet 40 --gates     with conformance of two runtimes, and promoted by its outcome
    python -m tests.benchmarks.release_fleet 60 --kills 50  killed at random moments, then run to its end

Models are seeded: estimators of scikit-learn, ONNX graphs, torch programs. Each is locked, built for ONNX Runtime (as it
is and optimised) and OpenVINO, judged, signed and pushed to a registry on this machine. Memory is the sum over all
processes of the release (PSS, pages that several share are counted once), sampled every two seconds. With kills, what
the registry names must never change, and must in the end be what the store holds.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packager.formats import oci, platforms
from packager.trust import edit, file, keys
from tests.support import registry_server
from tests.support.registry_server import Registry
from tests.support.tools import tool

TRAIN = """
import sys
from pathlib import Path
import numpy as np, onnx, skops.io, torch
from onnx import helper, numpy_helper
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def estimator(number, random, folder):
    rows = random.randn(80, 3 + number % 5)
    last = [LogisticRegression(), Ridge(), MLPRegressor(hidden_layer_sizes=8, max_iter=20, random_state=number)][number % 3]
    answers = (rows[:, 0] > 0).astype(int) if number % 3 == 0 else rows @ random.randn(rows.shape[1])
    (folder / "model.skops").write_bytes(skops.io.dumps(make_pipeline(StandardScaler(), last).fit(rows, answers)))

def graph(number, random, folder):
    width = 4 + number % 7
    weights = [numpy_helper.from_array(random.randn(*s).astype("float32"), n) for n, s in (("a", (width, 8)), ("b", (8, 2)))]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("MatMul", ["r", "b"], ["y"])]
    x, y = helper.make_tensor_value_info("x", 1, ["batch", width]), helper.make_tensor_value_info("y", 1, ["batch", 2])
    made = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")

def program(number, random, folder):
    torch.manual_seed(number)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2 + number % 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    batch = torch.export.Dim("batch", min=1, max=64)
    model(torch.zeros(2, 1, 8, 8))
    torch.export.save(torch.export.export(model.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},)), folder / "model.pt2")

for number in range(int(sys.argv[2])):
    folder = Path(sys.argv[1]) / f"m{number:04}"
    folder.mkdir()
    (program if number % 10 == 9 else graph if number % 10 > 6 else estimator)(number, np.random.RandomState(number), folder)
"""
RECIPE = """name: {name}
version: 1.0.0
source: ./{file}
policy: dev
platforms: [{platform}]
runs-on:
  onnxruntime: {{versions: ">=1.17", precision: [fp32, fp32_optimised]}}
  openvino: ">=2025.4.1,!=2026.0.0,!=2026.2.0"
"""
RELEASE = """recipes: ["*/bundle.yaml"]
defaults:
  policy: dev
  sign: key:release.pem
  push: oci://{host}/models/{{name}}:{{version}}
"""
GATES = """  conform: {{runtimes: ["onnxruntime=={onnxruntime}", "openvino=={openvino}"], level: L3}}
  promote: {{stage: staging, profile: gate.yaml, trust: fleet.trust, sign: key:gate.pem}}
"""
PROFILE = "rules: [formats, parity, provenance, signature, conformance]\n"
SEED = 19
_ACCEPT = f"{oci.MANIFEST}, application/vnd.oci.image.index.v1+json"  # a registry denies what is not accepted


def write_models(folder: Path, count: int, host: str) -> None:
    """Train and save `count` models, each with its recipe, and write the release file and a key."""
    folder.mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", TRAIN, folder, str(count)], check=True)
    for own in sorted(folder.iterdir()):
        (file,) = own.iterdir()
        text = RECIPE.format(name=own.name, file=file.name, platform=platforms.name_host())
        (own / "bundle.yaml").write_text(text)
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
    (folder / "release.yaml").write_text(RELEASE.format(host=host))


def add_gates(folder: Path) -> None:
    """Have every model conform to two runtimes, and promote it where a profile finds that it does."""
    root, gate = keys.generate_key("p256"), keys.generate_key("p256")
    keys.save(gate, folder / "gate.pem", folder / "gate.pub", None)
    content = edit.new_content("fleet", [root.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    for role in ("release", "gate"):
        content = edit.with_signer(content, role, {"key": (folder / f"{role}.pub").read_text()})
    (folder / "fleet.trust").write_bytes(file.write(content, [root]).to_bytes())
    (folder / "gate.yaml").write_text(PROFILE)
    versions = {name: importlib.metadata.version(name) for name in ("onnxruntime", "openvino")}
    versions["openvino"] = ".".join(versions["openvino"].split(".")[:3])
    with (folder / "release.yaml").open("a") as text:
        text.write(GATES.format(**versions))


@contextmanager
def releasing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a release in a session of its own; what is left of it is killed in the end."""
    command = [sys.executable, "-m", "packager", "release", "--jobs", "2", "--json", "--quiet", "--report", "report"]
    environment = {**os.environ, "PACKAGER_STORE": str(folder / "store"), "XDG_STATE_HOME": str(folder / "state")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def measure_memory(leader: int) -> int:
    """Return the bytes that the processes of a session take together."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or (
                os.getsid(int(entry.name)) != leader and not _is_below(int(entry.name), leader)
            ):
                continue
            rows = (entry / "smaps_rollup").read_text().splitlines()
            total += next(int(row.split()[1]) << 10 for row in rows if row.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended
            continue
    return total


def _is_below(process: int, leader: int) -> bool:
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        if process == leader:
            return True
    return False


def run_whole(folder: Path) -> tuple[float, float, list[tuple[float, int]], Any]:
    """Run a release to its end; return wall and processor seconds, samples of memory, and its result."""
    started, before = time.monotonic(), os.times()
    samples: list[tuple[float, int]] = []
    with releasing(folder) as process, tempfile.TemporaryFile() as sink:
        output = process.stdout
        assert output
        os.set_blocking(output.fileno(), False)
        while process.poll() is None:
            sink.write(output.read() or b"")
            samples.append((time.monotonic() - started, measure_memory(process.pid)))
            time.sleep(2)
        os.set_blocking(output.fileno(), True)
        sink.write(output.read() or b"")
        sink.seek(0)
        result = json.loads(sink.read())
        if process.returncode:
            bad = [
                (row["name"], task["problem"])
                for row in result["models"]
                for task in row["tasks"]
                if task.get("problem")
            ]
            sys.exit("\n".join(f"{name}: {problem}" for name, problem in bad))
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - started, used, samples, result


def digests_of(registry: Registry, count: int) -> dict[str, str]:
    """Return what the registry names, by model."""
    found = {}
    for number in range(count):
        name = f"m{number:04}"
        address = f"http://{registry.host}/v2/models/{name}/manifests/1.0.0"
        request = urllib.request.Request(address, method="HEAD", headers={"accept": _ACCEPT})
        try:
            with urllib.request.urlopen(request) as answer:
                found[name] = answer.headers["docker-content-digest"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
    return found


def print_whole(folder: Path, count: int, plot: Path | None) -> None:
    """Print what an unbroken release takes, by kind and task, how it grows, and what a second one takes."""
    wall, used, samples, result = run_whole(folder)
    rows = result["models"]
    totals = result["totals"]
    print(
        f"{count} models: {wall:.0f} s wall, {used:.0f} s processor, {totals['executed']} steps, {totals['cached']} cached"
    )
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for task in row["tasks"]:
            seconds[Path(folder / row["name"]).glob("model.*").__next__().suffix][task["task"]].append(task["seconds"])
    tasks = [task["task"] for task in rows[0]["tasks"]]
    print("| kind | models | " + " | ".join(tasks) + " |\n| --- | ---: |" + " ---: |" * len(tasks))
    for kind, own in sorted(seconds.items()):
        cells = " | ".join(f"{statistics.median(own[task]):.2f}" for task in tasks)
        print(f"| `{kind}` | {len(own[tasks[0]])} | {cells} |")
    ends = sorted(max(task["began"] + task["seconds"] for task in row["tasks"] if task["began"]) for row in rows)
    first = min(task["began"] for row in rows for task in row["tasks"] if task["began"])
    print(
        "| models done | s | s per model since | MB, median since | MB, most since |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    before, last, drawn = 0, 0.0, [(0.0, 0.0, 0.0)]
    for mark in [mark for mark in (10, 25, 50, 100, 150, 200) if mark <= count]:
        now = ends[mark - 1] - first
        part = [size for at, size in samples if last <= at <= now] or [0]
        print(
            f"| {mark} | {now:.0f} | {(now - last) / (mark - before):.2f} | {statistics.median(part) / 1e6:.0f} | "
            f"{max(part) / 1e6:.0f} |"
        )
        before, last = mark, now
        drawn.append((mark, now, statistics.median(part) / 1e6))
    if plot:
        plot.write_text(draw_growth(drawn))
    wall, used, _, result = run_whole(folder)
    print(f"again: {wall:.1f} s wall, {used:.1f} s processor, {result['totals']['executed']} steps")


def draw_growth(rows: Sequence[tuple[float, float, float]]) -> str:
    """Return an SVG of seconds and megabytes over the number of models that are done."""
    width, height, most = 640, 300, max(row[0] for row in rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 30}" font-family="sans-serif">']
    parts += [f'<rect width="{width}" height="{height + 30}" fill="#ffffff"/>']
    for column, colour, unit, beside in ((1, "#1f5fa8", "s", 18), (2, "#b3541e", "MB", -6)):
        top = max(row[column] for row in rows) * 1.1
        points = [(50 + row[0] / most * (width - 130), height - row[column] / top * (height - 30)) for row in rows]
        points = points if column == 1 else points[1:]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = points[-1]
        parts.append(f'<text x="{x + 6:.1f}" y="{y + beside:.1f}" fill="{colour}">{rows[-1][column]:.0f} {unit}</text>')
    for row in rows[1:]:
        x = 50 + row[0] / most * (width - 130)
        parts.append(f'<text x="{x:.1f}" y="{height + 20}" text-anchor="middle" font-size="12">{row[0]:.0f}</text>')
    parts.append(f'<text x="{width - 4}" y="{height + 20}" text-anchor="end" font-size="12">models</text></svg>')
    return "\n".join(parts) + "\n"


def print_kills(folder: Path, count: int, kills: int, registry: Registry) -> None:
    """Kill a release at random moments, run it to its end, and say whether anything was lost or given away twice."""
    drawn, named, ended = random.Random(SEED), {}, 0
    for _ in range(kills):
        with releasing(folder) as process:
            try:
                process.communicate(timeout=drawn.uniform(0.2, 8.0))
                ended += 1
            except subprocess.TimeoutExpired:
                kill(process)
        now = digests_of(registry, count)
        changed = {name for name in named if now.get(name) != named[name]}
        assert not changed, f"the registry names another bundle, or none, for {sorted(changed)}"
        named = now
    print(f"{kills} kills, {ended} releases ended before theirs; {len(named)} of {count} models were pushed by then")
    _, _, _, result = run_whole(folder)
    final = digests_of(registry, count)
    built = {row["name"]: row["digest"] for row in result["models"]}
    assert final == built and all(final[name] == digest for name, digest in named.items())
    print(f"after it: {len(final)} models, the registry names what the store holds, and nothing that it named changed")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--gates", action="store_true", help="conformance and promotion too")
    parser.add_argument("--plot", type=Path, help="write the growth of seconds and memory as SVG")
    args = parser.parse_args(words)
    with (
        tempfile.TemporaryDirectory() as name,
        registry_server.registry(tool("docker-registry"), Path(name) / "registry") as registry,
    ):
        folder = Path(name) / "fleet"
        write_models(folder, args.count, registry.host)
        if args.gates:
            add_gates(folder)
        if args.kills:
            print_kills(folder, args.count, args.kills, registry)
        else:
            print_whole(folder, args.count, args.plot)


if __name__ == "__main__":
    main(sys.argv[1:])
