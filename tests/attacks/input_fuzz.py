# SPDX-License-Identifier: Apache-2.0
"""Every input file, also an untrusted one, gives a result or a packager error: no bug, no hang.

    python -m tests.attacks.input_fuzz CASES [SEED]      the larger run; a failing case is written to the working directory

Cases are made by changing sound files: bytes, lines, values in the tree, and what is known to break readers of YAML.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import canonical, strictyaml
from packager.conform import results
from packager.contract import fleet, runtime_tables
from packager.contract.contract import parse as parse_contract
from packager.deploy.triton import pipeline
from packager.errors import PackagerError
from packager.exporters._files import mlflow
from packager.formats import project_locks
from packager.knobs import catalogue, knobs
from packager.lock import draft, lock, origins
from packager.policy import engine
from packager.recipe import recipe
from packager.trust import file as trustfile
from packager.trust import seen
from tests.support import bundles

SECONDS = 20  # of processor time for one case, far more than any needs
DEEP = 6000


class Hung(BaseException):
    """A case that did not end."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: sound ones, and what reads it."""

    seeds: tuple[str, ...]
    read: Callable[[Path], object]


def _mlmodel(path: Path) -> None:
    """Ask everything that is asked of a directory before it is opened: kind, origin, flavors, signature, a draft."""
    folder = path.parent / "model"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "model.pkl").write_bytes(b"\x80\x04N.")
    (folder / "MLmodel").write_bytes(path.read_bytes())
    _each(
        lambda: mlflow.read_flavors({"MLmodel"}, lambda _: path.read_bytes()),
        lambda: mlflow.trusted_types(folder, "sklearn"),
        lambda: mlflow.read_signature(folder),
        lambda: mlflow.read_columns(folder),
        lambda: draft.draft(str(folder), draft.inspect_source(str(folder), Path())),
        lambda: origins.read(
            ["MLmodel", "data/model.pkl"], lambda name: (folder / name).read_bytes(), "data/model.pkl"
        ),
    )


def _requirements(path: Path) -> None:
    folder = path.parent / "model"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "model.pkl").write_bytes(b"\x80\x04N.")
    (folder / "MLmodel").write_text(MLMODEL)
    for name in ("requirements.txt", "python_env.yaml", "conda.yaml"):
        (folder / name).write_bytes(path.read_bytes())
    draft.inspect_source(str(folder), Path())


def _each(*calls: Callable[[], object]) -> None:
    for call in calls:
        try:
            call()
        except PackagerError:
            continue


def _profile(path: Path) -> None:
    file = path.with_suffix(".yaml")
    file.write_bytes(path.read_bytes())
    engine.load_profile(str(file), path.parent)


MLMODEL = """artifact_path: model
flavors:
  python_function: {env: {conda: conda.yaml}, loader_module: mlflow.sklearn, model_path: data/model.pkl, python_version: 3.11.7}
  sklearn: {code: null, pickled_model: data/model.pkl, serialization_format: cloudpickle, sklearn_version: 1.5.2,
    skops_trusted_types: [a.B]}
mlflow_version: 3.1.0
model_uuid: 0123
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}, {"name": "a", "type": "double"}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
utc_time_created: '2026-01-01 00:00:00'
"""
RECIPE = """name: digits
version: 1.4.0
source: model.onnx
license: Apache-2.0
inputs: {image: {dtype: float32, shape: [batch, 1, 8, 8], range: [0, 1]}}
dynamic: {batch: [1, 64]}
runs-on: {onnxruntime: ">=1.17", openvino: {versions: ">=2024.6", precision: [fp32, int8]}}
tolerance: {default: {atol: 1.0e-5, rtol: 1.0e-4}}
slo: {p99_ms: 5, at_rps: 200, memory: 1GiB}
vendor: [linux_x86_64-cp311]
policy: release
"""
VALUES = "server: {port: 9000, host: 0.0.0.0}\nbatch: {max: 4}\nmetrics: {labels: {site: berlin}}\nlog.level: debug\n"
FLEET = """sites:
  berlin:
    runtimes: {onnxruntime: "1.20.0", triton: "24.10"}
    python: "3.11"
    cpu: [avx2]
    memory: 2GiB
    devices: [{name: L4, capability: "8.9", memory: 24GiB}]
"""
PIPELINE = """name: support
steps:
  - {model: embed, inputs: {text: text}, outputs: {vector: vector}}
  - {model: rate, inputs: {vector: vector}, outputs: {score: score}}
"""
PROFILE = """rules:
  parity: {}
  licences: {allow: [Apache-2.0]}
waivers:
  - {rule: parity, subject: x, reason: known, owner: a@b.example, expires: 2030-01-01}
"""
REQUIREMENTS = "scikit-learn==1.5.2\nnumpy>=1,<3 ; python_version > '3'\npandas[all]==2.2\n# x\n"
SCHEMA = knobs.parse(catalogue.schema_bytes(bundles.CONTRACT_OF_TINY))
KINDS: dict[str, Kind] = {
    "MLmodel": Kind((MLMODEL,), _mlmodel),
    "requirements": Kind((REQUIREMENTS, "python: 3.11.7\nbuild_dependencies: [pip==1]\n"), _requirements),
    "recipe": Kind((RECIPE,), lambda path: recipe.load(path, ("onnxruntime", "openvino")).to_json()),
    "values": Kind(
        (VALUES,),
        lambda path: knobs.resolve(
            SCHEMA, "sha256:" + "0" * 64, [*knobs.from_values(strictyaml.load(path), "v", SCHEMA)]
        ),
    ),
    "fleet": Kind((FLEET,), lambda path: [fleet.write(site) for site in fleet.load(path)]),
    "pipeline": Kind((PIPELINE,), lambda path: pipeline.parse(path.read_bytes(), "p.yaml")),
    "profile": Kind((PROFILE, "rules: [parity, sbom]\n"), _profile),
    "lock": Kind(
        ('{"format": 1, "source": {"uri": "x", "kind": "file"}, "toolchain": {}, "dependencies": {}}',),
        lambda path: lock.load(path),
    ),
    "contract": Kind((json.dumps(bundles.CONTRACT_OF_TINY),), lambda path: parse_contract(path.read_bytes())),
    "knobs": Kind(
        (catalogue.schema_bytes(bundles.CONTRACT_OF_TINY).decode(),), lambda path: knobs.parse(path.read_bytes())
    ),
    "trust": Kind(
        ('{"payload": "e30=", "payloadType": "x", "signatures": []}',),
        lambda path: trustfile.parse(path.read_bytes(), "t"),
    ),
    "seen": Kind(
        ('{"format": 1, "trusts": {"a": {"file": null, "bundles": {"b": ["1.0.0", "sha256:%s"]}}}}' % ("0" * 64),),
        lambda path: seen.load(path, "a"),
    ),
    "knowledge": Kind(
        ('{"format": 1, "runtime": "onnxruntime", "serial": 1, "versions": {}}',),
        lambda path: runtime_tables.parse(path.read_bytes(), "k"),
    ),
    "result": Kind(('{"format": 1, "bundle": {}, "cells": [], "level": 5}',), lambda path: results.read(path)),
    "own-lock": Kind(
        (REQUIREMENTS, '[[package]]\nname = "a"\nversion = "1"\n'),
        lambda path: _each(
            *(
                lambda name=name: project_locks.parse(path.read_bytes(), name)
                for name in ("requirements.txt", "uv.lock", "pylock.toml")
            )
        ),
    ),
}
BOMBS: dict[str, str] = {
    "nested lists": "[" * DEEP,
    "closed nested lists": "[" * DEEP + "]" * DEEP,
    "nested mappings": "{a: " * DEEP + "1" + "}" * DEEP,
    "nested JSON": '{"a":' * DEEP + "1" + "}" * DEEP,
    "nested blocks": "".join(f"{' ' * n}a:\n" for n in range(1500)),
    "nested sequences": "- " * DEEP + "a",
    "laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "laughing flavors": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(f"b{n}: &b{n} [{', '.join(['*a' if n == 0 else '*b' + str(n - 1)] * 8)}]\n" for n in range(10))
    + "flavors: {sklearn: {sklearn_version: *b9, pickled_model: *b9}, python_function: {python_version: *b9, loader_module: *b9}}\n"
    "signature: {inputs: *b9}\nmlflow_version: *b9\nname: *b9\nsites: *b9\nrules: *b9\nsteps: *b9\nserver: *b9\n",
    "itself": "&a [*a]",
    "itself by key": "&a {b: *a}",
    "merge of itself": "a: &a {<<: *a}",
    "merge of text": "<<: text",
    "key that is a list": "? [a]\n: b",
    "key that is a mapping": "{{a: b}: c}",
    "no number key": ".nan: 1\n.inf: 2",
    "twice": "a: 1\na: 2",
    "date": "a: 2001-99-99",
    "date key": "2001-01-01: 1",
    "time": "a: 2001-12-14t21:59:43.10-99:00",
    "sexagesimal": "a: 190:20:30",
    "object": "a: !!python/object/apply:os.system [x]",
    "set": "a: !!set {b, c}",
    "ordered": "a: !!omap [b: 1]",
    "binary": "a: !!binary x",
    "unknown tag": "a: !x y",
    "number of digits": "a: " + "9" * 5000,
    "octal": "a: 0o" + "7" * 5000,
    "huge float": "a: 1e999999999",
    "name of digits": "name: x\nversion: " + "9" * 5000 + ".0.0\nsource: m",
    "nothing": "",
    "null": "null",
    "number": "7",
    "text": "a",
    "false": "false",
    "nul": "a: \x00",
    "bell": "a: \x07",
    "bom": "\ufeffa: b",
    "astral": "a: \U0010ffff",
    "nel": "a: b\x85c: d",
    "tab": "\ta: b",
    "documents": "a: 1\n---\nb: 2",
    "directive": "%YAML 9.9\n---\na: b",
    "long key": "a" * 70000 + ": b",
    "long text": "a: " + "b" * 3_000_000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(20000)),
    "anchors": "a: &" + "x" * 5000 + " 1",
    "escape": 'a: "\\ud800"',
    "zeros": "a: -0.0",
}
SCRAPS = (
    "null",
    "[]",
    "{}",
    "-1",
    "1e400",
    "''",
    "\x1b[2J",
    "../../etc/passwd",
    "!!set {}",
    "&a *a",
    "{<<: 1}",
    "true",
    "~",
    ": ",
    "- ",
    "\n",
    "\t",
    "\u202e",
    "9" * 400,
    "a" * 3000,
    "[[[[[[]]]]]]",
    "2001-99-99",
    ".nan",
    "*x",
    "sha256:",
    "1.0.0",
    "__proto__",
    "\ud7ff",
    "%",
    "@",
    "`",
)


def cases(kind: Kind, chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield every bomb, then sound files that were changed."""
    yield from (text.encode() for text in BOMBS.values())
    for _ in range(count):
        yield changed(chance.choice(kind.seeds), chance)


def changed(text: str, chance: random.Random) -> bytes:
    """Change a file in one to four places."""
    for _ in range(chance.randint(1, 4)):
        way = chance.randrange(6)
        at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        if way == 0:
            text = text[:at] + chance.choice(SCRAPS) + text[at:]
        elif way == 1:
            text = text[:at] + chance.choice(SCRAPS) + text[min(end, at + 12) :]
        elif way == 2:
            text = text[:at] + text[min(end, at + 20) :]
        elif way == 3:
            rows = text.split("\n")
            row = chance.randrange(len(rows))
            rows[row] = rows[row].partition(":")[0] + ": " + chance.choice([*SCRAPS, *list(BOMBS.values())[:4]])
            text = "\n".join(rows)
        elif way == 4:
            text = text[:at] + text[at:end] * chance.randint(2, 4) + text[end:]
        else:
            text = _revalued(text, chance)
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.15 and data:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    return data


def _revalued(text: str, chance: random.Random) -> str:
    """Replace a value in a tree by another kind of value."""
    import yaml

    try:
        tree: Any = yaml.safe_load(text)
    except Exception:
        return text
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            if len(places) < 500:
                places.append((node, key))
                walk(child)

    try:
        walk(tree)
        if not places:
            return text
        holder, key = chance.choice(places)
        holder[key] = chance.choice(
            [
                None,
                True,
                -1,
                2**80,
                1.5,
                float("inf"),
                "",
                "x",
                [],
                {},
                [[]],
                {"a": {"b": []}},
                "\x1b",
                ["x"] * 50,
                {1: 2},
            ]
        )
        return json.dumps(tree, default=str)
    except (RecursionError, ValueError, TypeError):
        return text


def attempt(kind: Kind, data: bytes, folder: Path) -> str | None:
    """Read one case; return what went wrong, if anything did."""

    def over(number: int, frame: object) -> None:
        raise Hung

    path = folder / "input.yaml"
    path.write_bytes(data)
    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        kind.read(path)
    except PackagerError as error:
        if "\n" in error.message or len(error.message) > 3000:
            return f"a message of {len(error.message)} characters: {error.message[:200]!r}"
    except Hung:
        return "it hung"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return None


def main(count: int, seed: int) -> int:
    chance, failed = random.Random(seed), 0
    seen_reasons: set[str] = set()
    for name, kind in KINDS.items():
        tried = 0
        with tempfile.TemporaryDirectory() as folder:
            for data in cases(kind, chance, count):
                tried += 1
                if why := attempt(kind, data, Path(folder)):
                    failed += 1
                    last = "\n".join(why.strip().splitlines()[-3:])
                    if last not in seen_reasons:
                        seen_reasons.add(last)
                        file = Path(f"fuzz-{name}-{canonical.sha256(data)[7:15]}")
                        file.write_bytes(data)
                        print(f"{name}: {file}\n{last}", flush=True)
        print(f"{name}: {tried} cases", flush=True)
    print(f"{failed} failures, seed {seed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
