# SPDX-License-Identifier: Apache-2.0
"""What huge pages do to a run: ONNX Runtime in a process of its own as it is, and with `packager.server.execution.huge_pages`.

    python tests/benchmarks/bench_huge_pages.py [--rounds 8] [--seconds 2] [--models encoder cnn]

Each round is a fresh process for each kind, in turn; figures are medians of the rounds, and the ratio that of the pairs.
`moved` is what is in huge pages afterwards, `took` how long that lasted: `serve` does it while it answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "conformance"), str(Path(__file__).parent)]

from bench_peers import case  # noqa: E402
from packager.runtimes.onnxruntime.session import open_session  # noqa: E402

from packager.server.execution import huge_pages  # noqa: E402


def measure(model: str, huge: bool, seconds: float) -> dict[str, float]:
    """Return the median milliseconds of a run in this process."""
    with tempfile.TemporaryDirectory() as folder:
        made = case(model, Path(folder))
        session = open_session(made.model, threads=1)
        session.run(made.feeds)
        began = time.perf_counter()
        moved = huge_pages.collapse() if huge else 0
        took = time.perf_counter() - began
        times, end = [], time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            session.run(made.feeds)
            times.append((time.perf_counter() - began) * 1000)
    return {"p50": statistics.median(times), "moved": moved / 2**20, "took": took}


def apart(model: str, huge: bool, seconds: float) -> dict[str, float]:
    """Do `measure` in a fresh process."""
    words = [sys.executable, __file__, "--one", model, "huge" if huge else "plain", "--seconds", str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["encoder", "cnn"], help="(%(default)s)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], arguments.one[1] == "huge", arguments.seconds)))
        return 0
    for model in arguments.models:
        pairs = [[apart(model, huge, arguments.seconds) for huge in (False, True)] for _ in range(arguments.rounds)]
        plain, huge = (statistics.median(pair[side]["p50"] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[1]["p50"] / pair[0]["p50"] for pair in pairs)
        moved, took = (statistics.median(pair[1][key] for pair in pairs) for key in ("moved", "took"))
        print(
            f"{model}: plain {plain:.3f} ms, huge pages {huge:.3f} ms, ratio {ratio:.3f}; "
            f"moved {moved:.0f} MiB, took {took:.2f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
