# SPDX-License-Identifier: Apache-2.0
"""A server under 5,000 hostile requests: its memory, the slowest health answer meanwhile, and what it is afterwards.

    python tests/benchmarks/bench_hostile.py [--tree CHECKOUT] [--requests 5000] [--large 30] [--clients 8]

`--tree` is a checkout of another state of the program, for the figures before a change. The requests are those of
`tests/attacks/hostile_requests.py`, the same each time. Health is asked over HTTP by a process of its own, every 20 ms on
one connection; a second server, which has nothing to do, is asked in the same way, and tells what the machine adds. Then each crafted request is sent to a new server, to see what it costs by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.attacks import hostile_driver as driver
from tests.attacks import hostile_requests as hostile


def measure(config: Path, tree: Path, requests: int, large: int, clients: int) -> dict[str, Any]:
    with driver.served(config, tree) as (http, rpc, pid), driver.served(config, tree) as (idle, _, _):
        good = hostile.good_post().wire()
        assert driver.send_http(http, good) == "200"
        before, began = driver.settle(pid), time.perf_counter()
        with driver.watched(http) as seconds, driver.watched(idle) as others:
            answers = driver.attack(http, rpc, hostile.crowd(requests, large, 2 * hostile.MIB), clients)
        spent, peak = time.perf_counter() - began, driver.memory(pid, "VmHWM")
        began = time.perf_counter()
        statuses = Counter(driver.send_http(http, good) for _ in range(20))
        return {
            "memory before, MiB": round(before),
            "peak, MiB": round(peak),
            "after, MiB": round(driver.memory(pid, "VmRSS")),
            "requests, s": round(spent, 1),
            "health answers": len(seconds),
            "slowest health answer, ms": round(max(seconds) * 1000),
            "99 % of them, ms": round(sorted(seconds)[int(len(seconds) * 0.99)] * 1000),
            "the same of an idle server, ms": [
                round(max(others) * 1000),
                round(sorted(others)[int(len(others) * 0.99)] * 1000),
            ],
            "answers": dict(answers.most_common()),
            "20 good requests afterwards": dict(statuses),
            "they took, ms": round((time.perf_counter() - began) * 1000),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[2], help="the checkout that serves")
    parser.add_argument("--requests", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--large", type=int, default=30, help="MiB of the largest (%(default)s)")
    parser.add_argument("--crowd-only", action="store_true", help="without each request alone")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    arguments = parser.parse_args()
    large = arguments.large * hostile.MIB
    with tempfile.TemporaryDirectory() as folder:
        config = hostile.write_model(Path(folder))
        print(json.dumps(measure(config, arguments.tree, arguments.requests, large, arguments.clients), indent=1))
        alone = () if arguments.crowd_only else (("grpc", hostile.MESSAGES), ("http", hostile.POSTS))
        for way, makers in alone:
            for name in makers:
                size = min(large, hostile.JSON_SIZE) if "json" in name else large
                print(way, name, json.dumps(driver.alone(config, arguments.tree, way, name, size)), flush=True)
    print("load", os.getloadavg())
    return 0


if __name__ == "__main__":
    sys.exit(main())
