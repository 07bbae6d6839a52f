# SPDX-License-Identifier: Apache-2.0
"""Does the time per gigabyte stay flat as bundles grow? Measures, and draws the answer.

    python tests/benchmarks/growth_transport.py OUT.svg [ROUNDS [GIGABYTES …]]

For every size: hash limit, verify, copy limit, export, import, push and pull of incompressible data in 8 files, one
after the other in the same minutes, so that a ratio means something on a busy machine; the median of the rounds. What
is drawn is the CPU time per GB, because wall time on a shared machine says how busy it was; the table has both. Needs
about five times the largest size of free disk. Rows go to stdout as a Markdown table, the drawing to OUT.svg; it is
text, and readable on white and on black.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks import bench_transport as bench  # noqa: E402
from tests.support import registry_server  # noqa: E402

SIZES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # GB
VERBS = {  # what is drawn: label of the measurement
    "limit: parallel SHA-256": "limit-hash",
    "verify": "verify",
    "limit: SHA-256 + one copy": "limit-copy",
    "export (.tar)": "export",
    "import": "import",
    "push": "push",
    "pull": "pull",
}
COLOURS = ("#8c8c8c", "#2a9d8f", "#b0894f", "#e76f51", "#c77dff", "#4c8dff", "#e0a100")
Point = tuple[float, float]  # GB, CPU seconds per GB


def measure(size: float, rounds: int, where: Path) -> dict[str, bench.Sample]:
    """Return (seconds per GB, CPU seconds per GB, peak MB) of every verb for one size."""
    work = where / f"size-{size}"
    work.mkdir()
    bench.incompressible(round(size * 1e9 / (1 << 20) / 8) * 8, work / "data")
    bench.prepare(work, work / "data")
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry is not installed")
    with registry_server.registry(program, work / "registry") as registry:
        one = bench.Bench(work, work / "data", {}, registry)
        for _ in range(rounds):
            round_of(one, registry)
    gigabytes = one.size / 1e9
    shutil.rmtree(work)
    found = {}
    for label, samples in one.measured.items():
        wall, cpu = (statistics.median(sample[at] for sample in samples) / gigabytes for at in (0, 1))
        found[label] = wall, cpu, max(sample[2] for sample in samples)
    return found


def round_of(one: bench.Bench, registry: registry_server.Registry) -> None:
    """Run everything once. Whatever was written goes at once: the disk need not hold two copies."""
    python, files, out = sys.executable, sorted(one.data.iterdir()), one.fresh("growth")
    packager = [python, "-m", "packager"]
    one.time("limit-hash", [python, "-c", bench.PARALLEL_SHA256, *files])
    one.time("verify", [*packager, "verify", one.work / "lay", "--key", one.work / "k.pub"])
    one.time("limit-copy", [python, "-c", bench.LIMIT, out / "limit", *files])
    (out / "limit").unlink()
    one.time("export", [*packager, "export", "tiny:1.0.0", out / "b.bundle.tar"])
    (out / "b.bundle.tar").unlink()
    one.time("import", [*packager, "import", one.work / "lay", "--store", out / "import"])
    shutil.rmtree(out / "import")
    one.time("push", [*packager, "push", "tiny:1.0.0", f"oci://{registry.host}/{out.name}/tiny"])
    one.time("pull", [*packager, "pull", f"oci://{registry.host}/{out.name}/tiny:1.0.0", "--store", out / "pull"])
    shutil.rmtree(out)
    bench.forget(registry)


def draw(points: dict[str, list[Point]]) -> str:
    """Return an SVG: sizes evenly spaced, CPU seconds per GB from zero."""
    wide, high, left, top, right, bottom = 860, 420, 70, 30, 220, 60
    top_value = max(value for rows in points.values() for _, value in rows) * 1.1
    sizes = sorted({size for rows in points.values() for size, _ in rows})

    def x(size: float) -> float:
        span = max(len(sizes) - 1, 1)
        return left + (wide - left - right) * sizes.index(size) / span

    def y(value: float) -> float:
        return high - bottom - (high - top - bottom) * value / top_value

    text = 'font-family="sans-serif" font-size="13" fill="#808080"'
    rows = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">']
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if top_value / s <= 7)
    for number in range(int(top_value / step) + 1):
        at = y(number * step)
        rows.append(f'<path d="M{left} {at:.1f}H{wide - right}" stroke="#808080" stroke-opacity=".35"/>')
        rows.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" {text}>{number * step:g}</text>')
    for size in sizes:
        rows.append(f'<text x="{x(size):.1f}" y="{high - bottom + 20}" text-anchor="middle" {text}>{size:g}</text>')
    rows.append(f'<text x="{(left + wide - right) / 2}" y="{high - 12}" text-anchor="middle" {text}>GB</text>')
    rows.append(f'<text x="{left - 8}" y="18" text-anchor="end" {text}>CPU s / GB</text>')
    for number, (name, label) in enumerate(VERBS.items()):
        colour, line = COLOURS[number], [(x(size), y(value)) for size, value in points[label]]
        dashes = ' stroke-dasharray="6 4"' if name.startswith("limit") else ""
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in line)
        rows.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dashes}/>')
        rows += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in line]
        at = top + 20 + 22 * number
        rows.append(f'<path d="M{wide - right + 20} {at}h26" stroke="{colour}" stroke-width="2.5"{dashes}/>')
        rows.append(f'<text x="{wide - right + 54}" y="{at + 4}" {text}>{name}</text>')
    return "\n".join([*rows, "</svg>", ""])


def main() -> None:
    target, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    sizes = [float(text) for text in sys.argv[3:]] or list(SIZES)
    points: dict[str, list[Point]] = {label: [] for label in VERBS.values()}
    print(f"wall (CPU) seconds per GB, peak MB; load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| GB | " + " | ".join(VERBS) + " | verify ÷ limit | export ÷ limit | load |")
    print("| --- |" + " ---: |" * (len(VERBS) + 3), flush=True)
    with tempfile.TemporaryDirectory(prefix="growth-transport-") as name:
        for size in sizes:
            found = measure(size, rounds, Path(name))
            for label, (_, cpu, _) in found.items():
                points[label].append((size, cpu))
            cells = ["{:.1f} ({:.2f}), {:.0f}".format(*found[label]) for label in VERBS.values()]
            ratios = [
                found[ours][0] / found[limit][0] for ours, limit in (("verify", "limit-hash"), ("export", "limit-copy"))
            ]
            row = [*cells, *(f"{ratio:.2f}" for ratio in ratios), f"{os.getloadavg()[0]:.0f}"]
            print(f"| {size:g} | " + " | ".join(row) + " |", flush=True)
            target.write_text(draw(points))


if __name__ == "__main__":
    main()
