# SPDX-License-Identifier: Apache-2.0
"""The memory that a contract states, held against what a process with ONNX Runtime takes, for 29 models.

    python -m tests.benchmarks.bench_memory make FOLDER [NAME …]      exports the models, seeded
    python -m tests.benchmarks.bench_memory run FOLDER                measures them, writes the record and its page

Each is opened as an installation opens it, in a process of its own, and runs with the largest sizes of its interface:
three times, or until every token was in an input, because pages of a table in a file are taken when they are read. What
it takes is the peak of its resident memory above that of the same process before it opened the model (`VmHWM`, set back
through `clear_refs`); with the library imported and a graph of one node run, so that what is measured is the model's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from packager.knobs import catalogue

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "matrix" / "results" / "memory.json"
PAGE = ROOT / "docs" / "measurements" / "memory.md"
LEVEL = {"opset": 18, "ir": 8, "seed": 0}
MIB = 1 << 20
Made = tuple[str, str, dict[str, Any]]  # kind and payload of a source, and its bounds


def table_model(
    make: Callable[[], Any], rows: int, columns: int, batch: int, *, whole: bool = False, classes: int = 2
) -> Any:
    """Fit an estimator on drawn rows."""

    def save(folder: Path) -> Made:
        import skops.io

        draw = np.random.default_rng(0)
        data = draw.standard_normal((rows, columns))
        target = data[:, 0] * 2 + np.sin(data[:, 1]) if whole else (data[:, 0] + data[:, 1] ** 2 > 0.7).astype(int)
        if classes > 2:
            target = np.digitize(data[:, 0] + data[:, 1], np.linspace(-2, 2, classes - 1))
        skops.io.dump(make().fit(data, target), folder / "model.skops")
        return "sklearn", "model.skops", {"batch": [1, batch]}

    return save


def of_sklearn(address: str, **options: Any) -> Callable[[], Any]:
    module, _, name = address.rpartition(".")
    return lambda: getattr(importlib.import_module(f"sklearn.{module}"), name)(**options)


def network(make: Callable[[Any], Any], shape: tuple[int, ...], batch: int) -> Any:
    """Capture a module of torch, its first axis free."""

    def save(folder: Path) -> Made:
        import torch

        torch.manual_seed(0)
        dims = ({0: torch.export.Dim("batch", min=1, max=batch)},)
        program = torch.export.export(make(torch.nn).eval(), (torch.randn(2, *shape),), dynamic_shapes=dims)
        torch.export.save(program, folder / "model.pt2")
        return "pt2", "model.pt2", {"batch": [1, batch]}

    return save


def pretrained(model: str, config: str, options: dict[str, Any], bounds: dict[str, list[int]]) -> Any:
    """Save a model of transformers with seeded weights."""

    def save(folder: Path) -> Made:
        import torch
        import transformers

        torch.manual_seed(0)
        made = getattr(transformers, model)(getattr(transformers, config)(**options)).eval()
        made.save_pretrained(folder)
        return "transformers", ".", bounds

    return save


def plain_cnn(nn: Any) -> Any:
    layers: list[Any] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def deep_cnn(nn: Any) -> Any:
    layers: list[Any] = []
    for before, after in ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if before == after else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 8 * 8, 1024), nn.ReLU(), nn.Linear(1024, 100))


def narrow_cnn(nn: Any) -> Any:
    layers: list[Any] = [nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.Hardswish()]
    for before, after in ((32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(before, before, 3, padding=1, groups=before), nn.BatchNorm2d(before), nn.Hardswish()]
        layers += [nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), nn.Hardswish()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def waves(nn: Any) -> Any:
    layers: list[Any] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv1d(before, after, 9, stride=2, padding=4), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 10))


def upscaler(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 48, 3, padding=1), nn.PixelShuffle(4), nn.Sigmoid()
    )


def recurrent(name: str, size: int) -> Callable[[Any], Any]:
    """Two layers over a sequence, and classes from its last step."""

    def make(nn: Any) -> Any:
        class Recurrent(nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.layers = getattr(nn, name)(64, size, num_layers=2, batch_first=True)
                self.head = nn.Linear(size, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.layers(x)[0][:, -1])

        return Recurrent()

    return make


def u_net(nn: Any) -> Any:
    """Three halvings and three doublings, each with the values of its size from before."""
    import torch

    def pair(before: int, after: int) -> Any:
        first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        return nn.Sequential(first, nn.BatchNorm2d(after), nn.ReLU(), second, nn.BatchNorm2d(after), nn.ReLU())

    class UNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([pair(3, 32), pair(32, 64), pair(64, 128), pair(128, 256)])
            self.up = nn.ModuleList([nn.ConvTranspose2d(size, size // 2, 2, stride=2) for size in (256, 128, 64)])
            self.join = nn.ModuleList([pair(size, size // 2) for size in (256, 128, 64)])
            self.head = nn.Conv2d(32, 2, 1)

        def forward(self, x: Any) -> Any:
            kept = []
            for number, block in enumerate(self.down):
                x = block(nn.functional.max_pool2d(x, 2) if number else x)
                kept.append(x)
            for up, join, beside in zip(self.up, self.join, kept[-2::-1], strict=True):
                x = join(torch.cat([up(x), beside], dim=1))
            return self.head(x)

    return UNet()


def queries(nn: Any) -> Any:
    """Encoder and decoder, the latter over learned queries."""
    import torch

    class Queries(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(1, 50, 256))
            self.body = nn.Transformer(256, 8, 4, 4, 1024, batch_first=True)
            self.head = nn.Linear(256, 20)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x, self.queries.expand(x.shape[0], -1, -1)))

    return Queries()


def wide_perceptron(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))


TEXT = {"batch": [1, 8], "sequence": [1, 128]}
BERT = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1024}
MODELS: dict[str, Callable[[Path], Made]] = {
    "logistic regression, 100 columns": table_model(of_sklearn("linear_model.LogisticRegression"), 2000, 100, 1024),
    "random forest, 200 trees": table_model(
        of_sklearn("ensemble.RandomForestClassifier", n_estimators=200, random_state=0), 2000, 20, 1024
    ),
    "boosted trees, 300": table_model(
        of_sklearn("ensemble.HistGradientBoostingRegressor", max_iter=300, random_state=0), 4000, 20, 1024, whole=True
    ),
    "extra trees, 100, of ten classes": table_model(
        of_sklearn("ensemble.ExtraTreesClassifier", n_estimators=100, random_state=0), 3000, 30, 512, classes=10
    ),
    "nearest neighbours, 4000 rows": table_model(of_sklearn("neighbors.KNeighborsClassifier"), 4000, 50, 256),
    "support vectors": table_model(of_sklearn("svm.SVC", probability=False), 2000, 50, 256),
    "perceptron of scikit-learn": table_model(
        of_sklearn("neural_network.MLPRegressor", hidden_layer_sizes=(512, 512), max_iter=3, random_state=0),
        2000,
        200,
        1024,
        whole=True,
    ),
    "wide perceptron": network(wide_perceptron, (1024,), 64),
    "plain CNN, 128²": network(plain_cnn, (3, 128, 128), 8),
    "deep CNN, 64²": network(deep_cnn, (3, 64, 64), 8),
    "depthwise CNN, 224²": network(narrow_cnn, (3, 224, 224), 8),
    "convolutions over waves": network(waves, (1, 16000), 8),
    "upscaler, 128²": network(upscaler, (3, 128, 128), 4),
    "ResNet-50": pretrained("ResNetForImageClassification", "ResNetConfig", {}, {"batch": [1, 4]}),
    "ViT": pretrained(
        "ViTForImageClassification",
        "ViTConfig",
        {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
        {"batch": [1, 8]},
    ),
    "ConvNeXt": pretrained("ConvNextForImageClassification", "ConvNextConfig", {}, {"batch": [1, 4]}),
    "U-Net, 128²": network(u_net, (3, 128, 128), 4),
    "U-Net, 128², sixteen": network(u_net, (3, 128, 128), 16),
    "LSTM, 200 steps": network(recurrent("LSTM", 512), (200, 64), 16),
    "GRU, 200 steps": network(recurrent("GRU", 256), (200, 64), 64),
    "encoder and decoder, 300 places": network(queries, (300, 256), 8),
    "MobileNetV2": pretrained("MobileNetV2ForImageClassification", "MobileNetV2Config", {}, {"batch": [1, 8]}),
    "RegNet": pretrained("RegNetForImageClassification", "RegNetConfig", {}, {"batch": [1, 4]}),
    "SegFormer": pretrained("SegformerForImageClassification", "SegformerConfig", {}, {"batch": [1, 4]}),
    "BERT, 6 layers": pretrained("BertModel", "BertConfig", BERT, TEXT),
    "BERT-base": pretrained("BertModel", "BertConfig", {}, TEXT),
    "DistilBERT for classes": pretrained(
        "DistilBertForSequenceClassification", "DistilBertConfig", {"dim": 384, "n_heads": 6, "hidden_dim": 1536}, TEXT
    ),
    "MPNet": pretrained("MPNetModel", "MPNetConfig", BERT, TEXT),
    "ELECTRA for tokens": pretrained("ElectraForTokenClassification", "ElectraConfig", {**BERT, "num_labels": 9}, TEXT),
}


def make(folder: Path, name: str) -> None:
    """Export a model as a build does; what a contract would state goes beside it."""
    from packager.steps import export

    home = folder / name.replace(" ", "-")
    if (home / "facts.json").is_file():
        return
    (home / "source").mkdir(parents=True, exist_ok=True)
    kind, payload, bounds = MODELS[name](home / "source")
    params = {"kind": kind, "payload": payload, "inputs": None, "dynamic": bounds, **LEVEL}
    (home / "graph").mkdir(exist_ok=True)
    facts = export.run({"source": home / "source"}, home / "graph", params)
    (home / "facts.json").write_text(json.dumps(facts))


def measure(home: Path) -> dict[str, float]:
    """Open and run a model in this process; return bytes above what it had: after opening, and at most."""
    session = importlib.import_module("packager.runtimes.onnxruntime.session")
    facts = json.loads((home / "facts.json").read_text())
    batches = given(facts)
    import onnx
    from onnx import helper

    ports = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    small = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    path = home / "small.onnx"
    onnx.save(helper.make_model(small, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    session.open_session(path, threads=1).run({"x": np.ones(2, "float32")})
    before = reset_peak()
    opened = session.open_session(home / "graph" / "model" / "model.onnx", threads=1)
    loading, loaded = peak() - before, resident() - before
    reset_peak()
    for batch in batches:
        opened.run(batch)
    return {"loading": loading, "loaded": loaded, "running": peak() - before}


def given(facts: Any) -> list[dict[str, np.ndarray]]:
    """Return inputs of the largest sizes, with every token among them."""
    largest = {name: bounds["max"] for name, bounds in facts["interface"]["dimensions"].items()}
    found: list[dict[str, np.ndarray]] = []
    tokens = int(max((high + 1 for _, high in facts["ranges"].values()), default=1))
    while len(found) < 3 or (len(found) * found[0][facts["interface"]["inputs"][0]["name"]].size < tokens):
        feeds = {}
        for port in facts["interface"]["inputs"]:
            shape = [size if isinstance(size, int) else largest[size] for size in port["shape"]]
            count, high = int(np.prod(shape)), facts["ranges"].get(port["name"], (0, 1))[1]
            drawn = (len(found) * count + np.arange(count)) % (int(high) + 1) if high > 1 else np.ones(count)
            feeds[port["name"]] = drawn.reshape(shape).astype(port["dtype"])
        found.append(feeds)
    return found


def reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def resident() -> int:
    return _status("VmRSS")


def peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(f"{name}:"))
    return int(row.split()[1]) << 10


def run(folder: Path) -> list[dict[str, Any]]:
    """Measure every model that was made, in a process each."""
    found = []
    for name in MODELS:
        home = folder / name.replace(" ", "-")
        if (home / "facts.json").is_file():
            command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "one", str(home)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            graph = json.loads((home / "facts.json").read_text())["graph"]
            stated = {"weights": graph["bytes"], "activations": graph["activations"]["bytes"]}
            stated |= {name: graph["activations"][name] for name in ("unknown", "working")}
            found.append({"model": name, **stated, **json.loads(done.stdout.splitlines()[-1])})
    return found


def bounds_of(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return in bytes what `compat` asks a host for, the estimate, and what a deployment allows a loaded model."""
    peak = row["weights"] + row["working"]
    needs = {"memory": {"weights": row["weights"], "activations": row["activations"], "peak": peak}}
    most = catalogue.model_memory({"targets": {"only": {"needs": needs}}})
    return row["weights"] + row["activations"], peak, most


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in MiB."""
    lines = ["| model | weights | at least | **peak** | opening | **running** | at most | running ÷ peak |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        least, peak, most = bounds_of(row)
        sizes = (row["weights"], least, peak, row["loading"], row["running"], most)
        cells = [*(f"{size / MIB:.1f}" for size in sizes), f"{row['running'] / peak:.2f}"]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("make", "run", "one"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.action == "one":
        print(json.dumps(measure(args.folder)))
    elif args.action == "make":
        for name in args.names or MODELS:
            make(args.folder, name)
            print(name, flush=True)
    else:
        rows = run(args.folder)
        RECORD.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        head, _, rest = PAGE.read_text().partition("| model |")
        PAGE.write_text(head + table(rows) + "\n" + rest.partition("\n\n")[2])
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
