# SPDX-License-Identifier: Apache-2.0
"""What a small model costs from its file to a signed bundle, with workers that start afresh and with forks, in one run.

    python tests/benchmarks/bench_forks.py [KIND …]

Kinds are `sklearn` (a `.skops` file of a scaler and a logistic regression), `cnn` (a `.pt2` file) and `bert` (two
layers, with transformers). Everything is cached but the model: answers of the index come from another model that is
locked before. Printed are processor seconds of lock, build and signature, with those of the server and its forks, for
a program that builds one model and for each further one, and their ratios; then what the libraries alone cost in one
confined worker, of which a build has two. Digests of both ways are compared.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from packager import api
from packager.formats import platforms
from packager.sandbox import warm
from packager.sandbox.sandbox import Limits, Step, build_environment, find_confinement, host_interpreter, run_confined
from packager.trust import keys

MODELS = 3
MAKE = {
    "sklearn": """
import numpy, skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
rows = numpy.random.RandomState(number).randn(60, 4)
made = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, (rows[:, 0] > 0).astype(int))
skops.io.dump(made, folder / "model.skops")
""",
    "cnn": """
import torch
from torch import nn
torch.manual_seed(number)
layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
shapes = ({0: torch.export.Dim("batch", min=1, max=8)},)
made = torch.export.export(nn.Sequential(*layers).eval(), (torch.randn(2, 1, 28, 28),), dynamic_shapes=shapes)
torch.export.save(made, folder / "model.pt2")
""",
    "bert": """
import torch, transformers
torch.manual_seed(number)
shape = dict(vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
transformers.BertForSequenceClassification(transformers.BertConfig(**shape)).eval().save_pretrained(folder)
""",
}
LIBRARIES = {
    "sklearn": "from packager.exporters._tables import skops; skops.preload(); import onnx",
    "cnn": "import torch, onnx, onnxscript",
    "bert": "import torch, onnx, onnxscript, transformers",
}


def used() -> float:
    """Return the processor seconds of this process and of all children that have ended."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in found)


def make(kind: str, folder: Path) -> None:
    """Write models of a kind, each with a recipe; the last one is only locked."""
    head = "import sys; from pathlib import Path; folder, number = Path(sys.argv[1]), int(sys.argv[2])\n"
    for number in range(MODELS + 1):
        place = folder / f"m{number}" / "model"
        place.mkdir(parents=True)
        words = [sys.executable, "-c", head + MAKE[kind], str(place), str(number)]
        subprocess.run(words, check=True, capture_output=True)
        recipe = (
            f"name: m{number}\nversion: 1.0.0\nsource: ./model\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
        )
        (place.parent / "bundle.yaml").write_text(recipe)


def build(folder: Path, count: int, forked: bool) -> tuple[float, float, list[str]]:
    """Lock, build and sign so many models with an empty store; return processor and wall seconds, and digests."""
    os.environ[warm.SWITCH] = "1" if forked else "0"
    with tempfile.TemporaryDirectory(dir=folder) as store:
        workspace = api.Workspace.default(Path(store))
        api.open_project(folder / f"m{MODELS}" / "bundle.yaml", workspace).make_lock()
        signer = api.open_signer(f"key:{folder / 'release.pem'}", lambda: b"")
        before, started, digests = used(), time.perf_counter(), []
        for number in range(count):
            project = api.open_project(folder / f"m{number}" / "bundle.yaml", workspace)
            made = api.build_bundle(project, project.make_lock())
            assert made.bundle is not None
            digests.append(made.bundle.digest)
            api.sign_bundle(made.bundle, signer)
        wall = time.perf_counter() - started
        warm.stop_servers()  # what its forks used is known when it has ended
        return used() - before, wall, digests


def confined(code: str) -> float:
    """Return the processor seconds of code in a worker that starts afresh."""
    with tempfile.TemporaryDirectory() as scratch:
        variables = build_environment(Path(scratch), {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        step, before = Step(Path(scratch), host_interpreter(), ("-c", code), Limits(0, 300), variables), used()
        done = run_confined(step, find_confinement(), set())
        assert done.code == 0, done.log
        return used() - before


def main() -> None:
    """Print a row for each kind."""
    print("| | one model, afresh | forks | ratio | each further, afresh | forks | ratio | libraries, once |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for kind in sys.argv[1:] or MAKE:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(kind, folder)
            keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
            runs = {(count, forked): build(folder, count, forked) for count in (1, MODELS) for forked in (False, True)}
        for count in (1, MODELS):
            assert runs[count, False][2] == runs[count, True][2], "forks change no byte"
        one, more = ([runs[count, forked][0] for forked in (False, True)] for count in (1, MODELS))
        further = [(many - single) / (MODELS - 1) for many, single in zip(more, one, strict=True)]
        cells = [*one, one[0] / one[1], *further, further[0] / further[1], confined(LIBRARIES[kind])]
        print(f"| {kind} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)
        walls = ", ".join(f"{runs[1, forked][1]:.1f}" for forked in (False, True))
        print(f"  wall seconds of one model: {walls}; load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
