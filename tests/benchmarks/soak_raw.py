# SPDX-License-Identifier: Apache-2.0
"""Mangled pictures, sound and multipart bodies to two servers: what they answer, their memory, and health meanwhile.

    python -m tests.benchmarks.soak_raw [--requests 10000] [--clients 8] [--seed 0] [--tree CHECKOUT]

Half of the requests go to a classifier of pictures, half to one of sound; they are those of `tests/attacks/raw_fuzz.py`
for the seed. A server that ends, an answer of 500 or none at all is an error; at the end each server answers an honest
request as at its beginning. `--tree` is a checkout of another state of the program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from packager.server.pipeline.document import digest_of
from tests.attacks import hostile_driver as driver
from tests.attacks import raw_fuzz
from tests.support.raw_models import MODELS, Made

TREE = Path(__file__).parents[2]
TASKS = {
    "image": ("pictures_model", "image-classification", [raw_fuzz.grey(8)]),
    "audio": ("spectral", "audio-classification", raw_fuzz.sounds()[:1]),
}


def configured(made: Made, folder: Path) -> Path:
    """Write what a server of the pipeline in a directory reads."""
    digest = digest_of((folder / "pipeline.json").read_bytes())
    config = {
        "name": "model",
        "version": "1.0.0",
        "digest": f"sha256:{'0' * 64}",
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": str(made.graph / "model" / "model.onnx"),
        "interface": made.interface,
        "pipeline": {"path": "pipeline.json", "digest": digest},
    }
    (folder / "serve.json").write_text(json.dumps(config))
    return folder / "serve.json"


def send_all(port: int, requests: Iterable[bytes], clients: int) -> tuple[Counter[str], list[float]]:
    """Send every request; return how often each status came, and the seconds of each."""
    seconds: list[float] = []

    def send(raw: bytes) -> str:
        began = time.perf_counter()
        status = driver.send_http(port, raw)
        seconds.append(time.perf_counter() - began)
        return status

    found: Counter[str] = Counter()
    left = iter(requests)
    with ThreadPoolExecutor(clients) as pool:
        while some := list(islice(left, 8 * clients)):  # no more in memory
            found.update(pool.map(send, some))
    return found, seconds


def measure(member: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one server. Raises SystemExit for an answer of 5xx that is not a full server."""
    name, task, honest = TASKS[member]
    made = MODELS[name](folder / "made")
    made.step(folder / "pipeline", {"task": task})
    with driver.served(configured(made, folder / "pipeline"), arguments.tree) as (http, _, pid):
        good = [raw_fuzz.wire({"Content-Type": raw_fuzz.TYPES[member][-1]}, file) for file in honest]
        first = [driver.send_http(http, raw) for raw in good]
        before = driver.settle(pid)
        requests = raw_fuzz.requests(member, arguments.seed, arguments.requests // 2)
        with driver.watched(http) as health:
            began = time.perf_counter()
            statuses, seconds = send_all(http, requests, arguments.clients)
            spent = time.perf_counter() - began
        peak, after = driver.memory(pid, "VmHWM"), driver.memory(pid, "VmRSS")
        last = [driver.send_http(http, raw) for raw in good]
    wrong = {status for status in statuses if not (status[0] in "24" or status == "503")}
    if wrong or first != ["200"] * len(good) or first != last:
        raise SystemExit(f"{member}: {statuses}, honest requests {first} and {last}")
    return {
        "requests": member,
        "statuses": dict(sorted(statuses.items())),
        "memory before, peak, after, MiB": [round(before), round(peak), round(after)],
        "seconds": round(spent, 1),
        "slowest answer, s": round(max(seconds), 2),
        "slowest health answer, ms": round(max(health) * 1000),
        "99 % of them, ms": round(sorted(health)[int(len(health) * 0.99)] * 1000),
    }


def main() -> int:
    """Print a line for each server."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=10_000, help="(%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--tree", type=Path, default=TREE, help="the checkout that serves")
    parser.add_argument("--only", choices=TASKS)
    arguments = parser.parse_args()
    for member in [arguments.only] if arguments.only else TASKS:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(member, Path(folder), arguments)), flush=True)
    print("load", os.getloadavg())
    return 0


if __name__ == "__main__":
    sys.exit(main())
