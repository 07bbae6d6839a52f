# SPDX-License-Identifier: Apache-2.0
"""What judging costs: every profile of ours over facts with 500 components, and gathering the facts. Medians of 15."""

from __future__ import annotations

import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import SBOM
from packager.canonical import JSON
from packager.policy import engine, facts, testing
from packager.types import Blob, Tree

RUNS = 15
COMPONENTS = 500
BUDGET = 0.2  # seconds, of the issue
DAY = datetime.date(2026, 11, 21)


def median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def document() -> dict[str, JSON]:
    """Return the passing fixtures of all rules as one document, with 500 components and as many files."""
    found: dict[str, JSON] = {}
    for case in testing.load(Path(__file__).parents[1] / "policies"):
        found |= {} if case.finds else case.facts
    row = {"version": "1.2.3", "licence": "MIT OR (Apache-2.0 AND BSD-3-Clause)", "words": None}
    found["components"] = [{"name": f"package-{number}", **row} for number in range(COMPONENTS)]
    file = {"size": 1 << 20, "sha256": "sha256:" + "0" * 64, "looks": None}
    found["contents"]["files"] = [{"path": f"deps/{number}.txt", **file} for number in range(COMPONENTS)]
    return found


def gather(folder: Path) -> Callable[[], object]:
    """Return a call that reads an SBOM of 500 components."""
    row = {"type": "library", "version": "1", "licenses": [{"expression": "MIT"}], "description": "x" * 200}
    data = canonical.dump({"components": [{**row, "name": f"package-{number}"} for number in range(COMPONENTS)]})
    (folder / "sbom").write_bytes(data)
    tree = Tree.of({SBOM: Blob(canonical.sha256(data), len(data))})
    content = facts.Content("n", "1", tree, lambda path, blob: (folder / "sbom").open("rb"))
    return lambda: facts.of_build(content, {}, {"components"}, DAY)


def main() -> None:
    judged = document()
    for name in engine.list_profiles():
        profile = engine.load_profile(name, Path())
        asked = median(lambda profile=profile: engine.judge(profile, judged, DAY))  # type: ignore[misc]
        loaded = median(lambda name=name: engine.load_profile(name, Path()))  # type: ignore[misc]
        rules = len(profile.rules)
        print(
            f"{name:10} {rules:2} rules  load {1000 * loaded:5.1f} ms  judge {1000 * asked:5.1f} ms  "
            f"{(loaded + asked) / BUDGET:.2f} of the budget of 200 ms"
        )
    with tempfile.TemporaryDirectory() as folder:
        print(f"gather {COMPONENTS} components: {1000 * median(gather(Path(folder))):.1f} ms")


if __name__ == "__main__":
    main()
