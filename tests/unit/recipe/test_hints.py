# SPDX-License-Identifier: Apache-2.0
"""Every hint about a recipe is pasted by a machine, and the next build gets past what it was about."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from packager import plugins
from packager.actions.runner import _facts, _wider
from packager.cli import _fixes
from packager.edits import Edit
from packager.errors import MissingToolError, StepError
from packager.policy import engine
from packager.recipe import recipe
from packager.sandbox.process import Outcome
from packager.sandbox.sandbox import Limits
from tests.support.refusals import TODAY, pasted, refusal

HEAD = "name: net\nversion: 1.0.0\nsource: ./model.onnx\n"
_ROUNDS = 6


def saved(folder: Path, model: Any) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder


def network(axis: Any = "batch", outputs: str = "y") -> Any:
    """One matrix: x of (axis, 4) to (axis, 2)."""
    weights = numpy_helper.from_array(np.arange(8, dtype="float32").reshape(4, 2) / 8, "w")
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [axis, 4])],
        [helper.make_tensor_value_info(outputs, TensorProto.FLOAT, [axis, 2])],
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], [outputs])], "g", *ends, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def parsed(text: str) -> Any:
    return onnx.parser.parse_model(text)


PAIR = """<ir_version: 8, opset_import: ["" : 17]> net (float[batch, 4] left, float[batch, 4] right) => (float[batch, 4] y)
{ y = Add(left, right) }"""
GELU = '<ir_version: 9, opset_import: ["" : 20]> net (float[N, 4] x) => (float[N, 4] y) { y = Gelu(x) }'
NEWER = '<ir_version: 10, opset_import: ["" : 21]> net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }'
DOMAIN = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> net (float[N, 4] x) => (float[N, 4] y)
{ y = com.microsoft.BiasGelu(x, b) }"""
TREE = """<ir_version: 9, opset_import: ["" : 19, "ai.onnx.ml" : 5]> net (float[N, 1] x) => (float[N, 1] y)
{ y = ai.onnx.ml.TreeEnsemble <n_targets = 1, aggregate_function = 1, post_transform = 0, tree_roots = [0],
  nodes_modes = uint8[1] {0}, nodes_splits = float[1] {0.5}, nodes_featureids = [0], nodes_truenodeids = [0],
  nodes_trueleafs = [1], nodes_falsenodeids = [1], nodes_falseleafs = [1], leaf_targetids = [0, 0],
  leaf_weights = float[2] {1.0, 2.0}> (x) }"""
TOKENS = """<ir_version: 8, opset_import: ["" : 17]> net (int64[rows, columns] ids) => (int64[columns, rows] y)
{ y = Einsum <equation = "ij->ji"> (ids) }"""


def biased() -> Any:
    model = parsed(DOMAIN)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, "float32"), "b"))
    return model


MODELS = {
    "net": network,
    "pair": lambda: parsed(PAIR),
    "gelu": lambda: parsed(GELU),
    "newer": lambda: parsed(NEWER),
    "domain": biased,
    "tree": lambda: parsed(TREE),
    "tokens": lambda: parsed(TOKENS),
}

WORDS = [  # keys and values that are nearly right: found while reading
    *(
        f"{HEAD}{line}\n"
        for line in (
            "dynamc: {batch: [1, 8]}",
            "toleranse: {default: {atol: 1e-5}}",
            "polciy: dev",
            "licence: MIT",
            'runs_on: {onnxruntime: ">=1.18"}',
            "sanbox: required",
            "descripton: a net",
            "autors: [me]",
            "platfroms: [linux_x86_64-cp311]",
            "limts: {minutes: 3}",
            "inputs: {x: {dtpye: float32, shape: [batch, 4]}}",
            "inputs: {x: {dtype: float32, shpae: [batch, 4]}}",
            "inputs: {x: {dtype: float32, shape: [batch, 4], rnage: [0, 1]}}",
            "inputs: {x: {dtype: float23, shape: [batch, 4]}}",
            "export: {sed: 3}",
            "limits: {minuts: 3}",
            "limits: {memroy: 4GiB}",
            "tolerance: {default: {atoll: 1e-5}}",
            "slo: {p99_m: 5}",
            "toolchain: hosts",
            "sandbox: requierd",
            'runs-on: {onnxruntme: ">=1.18"}',
            "runs-on: {onnxruntime: 1.18}",
            'runs-on: {onnxruntime: "1.18"}',
            'runs-on: {onnxruntime: {versions: ">=1.18", devises: [cpu]}}',
            "license: Apache 2.0",
            "description: 12",
            "description: true",
            "authors: [12]",
            "datasets: [{nmae: a}]",
            "dynamic: {DynamicDimension.0: [1, 6]}",
            'dynamic: {"?": [1, 6]}',
            "dynamic: {unk-1: [1, 6]}",
        )
    ),
    "name: My Net\nversion: 1.0.0\nsource: ./model.onnx\n",
    "name: 12\nversion: 1.0.0\nsource: ./model.onnx\n",
    "name: net\nversion: 1\nsource: ./model.onnx\n",
    "name: net\nversion: 1.2\nsource: ./model.onnx\n",
    "name: net\nversion: v1.2.3\nsource: ./model.onnx\n",
    "nmae: net\nversion: 1.0.0\nsource: ./model.onnx\n",
]
BUILT = [  # what a build finds: the model, the recipe, and what is said
    ("net", "dynamic: {bacth: [1, 8]}", "no input of the source has the free dimension `bacth`"),
    ("net", "dynamic: {rows: [1, 8]}", "no input of the source has the free dimension `rows`"),
    ("net", "dynamic: {batch: [1, 8], rows: [1, 8]}", "no input of the source has the free dimension `rows`"),
    ("net", "inputs: {X: {dtype: float32, shape: [batch, 5]}}", "is fixed at 4 in the graph, got `5`"),
    (
        "net",
        "inputs: {x: {dtype: float32, shape: [batch, width]}}\ndynamic: {width: [1, 8]}",
        "is fixed at 4 in the graph",
    ),
    ("net", "inputs: {x: {dtype: float64, shape: [batch, 4]}}", "input `x` is float32"),
    ("net", "inputs:\n  x: {dtype: float32, shape: [batch]}", "input `x` is float32"),
    (
        "pair",
        "inputs: {left: {dtype: float32, shape: [batch, 4]}, wright: {dtype: float32, shape: [batch, 4]}}",
        "expected the inputs `left`, `right`",
    ),
    ("pair", "inputs: {wright: {range: [0, 1]}}", "the source has no input `wright`"),
    ("net", "inputs: {x: {shape: [batch, 5]}}", "input `x` is float32 ['batch', 4]"),
    (
        "pair",
        "inputs:\n  a: {dtype: float32, shape: [batch, 4]}\n  left: {dtype: float32, shape: [batch, 4]}\n  right: {dtype: float32, shape: [batch, 4]}",
        "expected the inputs `left`, `right`",
    ),
    ("net", "tolerance: {scores: {atol: 0.1}}", "`tolerance` names `scores`"),
    ("net", "tolerance:\n  # of the output\n  Y: {atol: 0.1}", "`tolerance` names `Y`"),
    (
        "net",
        'runs-on: {onnxruntime: {versions: ">=1.17", precision: [fp32, int8]}}',
        "`int8` is promised without a tolerance",
    ),
    ("net", "export: {opset: 99}", "`export.opset` is 99"),
    ("net", "export: {signature: serve}", "a source of kind `onnx` has no signatures"),
    ("gelu", 'runs-on: {onnxruntime: ">=1.15"}', "`Gelu` (opset 20) needs onnxruntime >= 1.17.0"),
    (
        "gelu",
        'runs-on:\n  onnxruntime:\n    versions: ">=1.15"  # old',
        "`Gelu` (opset 20) needs onnxruntime >= 1.17.0",
    ),
    ("gelu", "export: {opset: 17}", "`Gelu` (opset 20) has no form at opset 17"),
    ("domain", "", "which is not ONNX's own"),
    ("domain", "custom-domains: []", "which is not ONNX's own"),
    ("tree", 'runs-on: {onnxruntime: ">=1.17"}', "cannot keep `onnxruntime>=1.17`"),
    ("tokens", "dynamic: {rows: [2, 6400], columns: [3, 9000]}", "less than the recipe promises"),
    (
        "tokens",
        "inputs: {ids: {dtype: int64, shape: [rows, columns], range: [0, 9]}}\ndynamic:\n  rows: [2, 6400]  # texts\n  columns: [3, 9000]",
        "less than the recipe promises",
    ),
    (
        "net",
        'runs-on: {onnxruntime: ">=1.17", tensorrt: {versions: ">=10", devices: [sm_90]}}',
        "must be built on the GPU it runs on",
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        saved(root / name, make())
    return root


def mended(folder: Path, text: str, about: str | None) -> str:
    """Paste hint after hint; the finding that a hint was about does not come again, and none is left in the end."""
    seen: set[str] = set()
    for _ in range(_ROUNDS):
        refused = refusal(folder, text)
        if refused is None:
            assert seen, "nothing was refused"
            return text
        assert about is None or seen or about in refused.message, refused.message
        assert refused.changes, f"no hint that can be pasted: {refused.message} / {refused.hint}\n{text}"
        assert refused.message not in seen, f"the hint does not help: {refused.message}\n{text}"
        seen.add(refused.message)
        text = pasted(text, refused)
    raise AssertionError(f"there is no end to it: {seen}")


@pytest.mark.parametrize("text", WORDS, ids=[text.replace(HEAD, "").strip().replace("\n", "; ") for text in WORDS])
def test_words(models: Path, text: str) -> None:
    mended(models / "net", text, None)


@pytest.mark.parametrize(
    ("model", "lines", "about"), BUILT, ids=[f"{name}: {lines.partition(chr(10))[0][:50]}" for name, lines, _ in BUILT]
)
def test_builds(models: Path, model: str, lines: str, about: str) -> None:
    text = HEAD + lines + "\n"
    done = mended(models / model, text, about)
    comments = [row.partition("#")[2] for row in lines.splitlines() if "#" in row]
    assert all(comment in done for comment in comments), "comments stay"


def test_all_axes_at_once_and_their_lower_bounds(models: Path) -> None:
    text = HEAD + "dynamic: {rows: [2, 6400], columns: [3, 9000]}\n"
    refused = refusal(models / "tokens", text)
    assert refused is not None
    promised = yaml.safe_load(pasted(text, refused))["dynamic"]
    assert {name: low for name, (low, _) in promised.items()} == {"rows": 2, "columns": 3}
    for finding in refused.findings:
        assert str(finding.hint).count("rows:") == str(finding.hint).count("columns:") == 1


def test_what_reads_an_operator_set_is_named(models: Path) -> None:
    refused = refusal(models / "tree", HEAD + 'runs-on: {onnxruntime: ">=1.17"}\n')
    assert refused is not None
    said = re.search(r'raise `runs-on` to `onnxruntime: "(>=[\d.]+)"`, the first that reads ai.onnx.ml 5', refused.hint)
    assert said and [change.value for change in refused.changes if isinstance(change, Edit)] == [said[1]]


# -- waivers


def waived(models: Path, folder: Path, lines: str, policy_line: str = "release") -> Iterator[str]:
    """Yield the messages that are left once what is printed was pasted into a profile."""
    text = HEAD + lines
    refused = refusal(models, text)
    assert refused is not None
    shown = list(_fixes.propose_waivers(policy_line, refused.findings, TODAY))
    profile = "\n".join(row[4:] for row in shown[1:])
    (models / "mine.yaml").write_text(profile)
    left = refusal(models, text + "policy: mine.yaml\n")
    yield from [] if left is None else [left.message]


@pytest.mark.parametrize("base", ["release", "dev", "airgap", "regulated"])
def test_a_waiver_is_pasted_with_its_subject(models: Path, tmp_path: Path, base: str) -> None:
    if "coverage" not in engine.load_profile(base, tmp_path).rules:
        base = "release"
    assert list(waived(models / "tokens", tmp_path, "dynamic: {rows: [2, 6400], columns: [3, 9000]}\n", base)) == []


def test_a_profile_extends_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: release\nrules:\n  - coverage: {level: warning}\n  - model-card\n")
    mine, ours = engine.load_profile("mine.yaml", tmp_path), engine.load_profile("release", tmp_path)
    assert mine.rules == (*ours.rules, "model-card")
    assert mine.settings_of("coverage").level == "warning" and ours.settings_of("coverage").level == "error"
    assert mine.settings_of("conformance") == ours.settings_of("conformance")
    assert mine.digest != ours.digest


# -- limits, extras


@pytest.mark.parametrize(("stopped", "path"), [("time", ("limits", "minutes")), ("memory", ("limits", "memory"))])
def test_limits_are_doubled(stopped: str, path: tuple[str, ...]) -> None:
    limits = Limits(memory=3 << 30, seconds=600)
    with pytest.raises(StepError) as caught:
        _facts("export", Outcome(-9, b"", b"", stopped=stopped), limits)
    (edit,) = caught.value.edits
    assert isinstance(edit, Edit) and edit.path == path and (edit,) == tuple(_wider(stopped, limits))
    text = HEAD + f"limits: {{{path[1]}: {edit.value}}}\n"
    wider = recipe.parse(text, "bundle.yaml").limits
    assert (wider.minutes, wider.memory) in ((20, None), (30, 6 << 30))


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("exporters", "runtimes") for name in plugins.list_names(group)]
)
def test_an_extra_that_a_hint_names_exists(group: str, name: str) -> None:
    extra = getattr(plugins.load(group, name), "EXTRA", None)
    if extra is None:
        return
    line = MissingToolError("x", extra).hint or ""
    named = re.fullmatch(r'pip install "([\w-]+)\[([\w-]+)\]"', line)
    assert named, line
    assert named[2] in (importlib.metadata.metadata(named[1]).get_all("Provides-Extra") or [])
