# SPDX-License-Identifier: Apache-2.0
"""What a delta costs: time and peak memory of `delta` and `apply`, which must not grow with the bundle.

    python tests/benchmarks/bench_delta.py [MEGABYTES …]

One file of random floats per run; in the new bundle every weight of its last tenth moved a little, and a few bytes
were inserted in the middle, so that all three forms of a segment occur.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from packager.store.store import Store  # noqa: E402
from packager.transport import copy  # noqa: E402
from tests.benchmarks import bench_transport as bench  # noqa: E402
from tests.support import bundles  # noqa: E402

MOST = 150.0  # MB of memory


def write(path: Path, size: int, *, changed: bool) -> None:
    """Write `size` MiB, the same on every call but for what `changed` says."""
    chance = random.Random(1)
    with path.open("wb") as file:
        for number in range(size):
            block = bytearray(chance.randbytes(1 << 20))
            if changed and number == size // 2:
                block = block[: 1 << 19] + b"inserted" + block[1 << 19 :]
            if changed and number >= size - size // 10:
                for at in range(0, len(block), 4):  # the lowest byte of every float
                    block[at] ^= number & 3
            file.write(block)


def main() -> None:
    for size in [int(text) for text in sys.argv[1:]] or [64, 256]:
        with tempfile.TemporaryDirectory(prefix="bench-delta-") as name:
            work = Path(name)
            store = Store(work / "store")
            for version, changed in (("1.0.0", False), ("1.0.1", True)):
                write(work / "weights", size, changed=changed)
                made = bundles.make(store, {"model/weights-0001.bin": work / "weights"}, version=version)
                copy.save(made, work / f"{version}.bundle.tar")
            (work / "weights").unlink()
            store.release()
            shutil.rmtree(work / "store")
            one = bench.Bench(work, work, {}, None)
            packager = [sys.executable, "-m", "packager"]
            old, new, file = work / "1.0.0.bundle.tar", work / "1.0.1.bundle.tar", work / "d.bundle-delta.tar"
            one.time("delta", [*packager, "delta", old, new, "-o", file])
            one.time("apply", [*packager, "apply", file, old, "-o", work / "made.bundle.tar"])
            assert (work / "made.bundle.tar").read_bytes() == new.read_bytes()
            for label, ((wall, cpu, memory),) in one.measured.items():
                word = "holds" if memory <= MOST else "MISSED"
                print(
                    f"{word}: {label} of {size} MiB: {wall:.1f} s, CPU {cpu:.1f} s, {memory:.0f} MB; "
                    f"delta {file.stat().st_size / 1e6:.1f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
