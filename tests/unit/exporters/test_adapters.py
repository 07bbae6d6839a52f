# SPDX-License-Identifier: Apache-2.0
"""A graph that takes adapters, against transformers and PEFT: with each adapter, without any, and with a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.errors import StepError
from packager.exporters._generation.decoder import open_decoder
from packager.formats import safetensors
from tests.support import adapters, language_models
from tests.unit.exporters import test_generation as generation

LAYERS = ["q_proj", "v_proj"]
pytestmark = pytest.mark.slow  # half a minute of tracing, and PEFT on top of transformers


@dataclass
class Base:
    """The base, exported with inputs for adapters, and two adapters with their own answers."""

    made: generation.Made
    shapes: Mapping[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("base")
    source = language_models.write(folder / "source")
    params = {**generation.EXPORT, "adapters": LAYERS}
    facts = generation.run("export_generation", {"source": source}, folder / "graph", params)
    made = generation.Made(source, folder / "graph", generation.reference(source, folder / "reference"), facts)
    shapes = {port["name"]: port["shape"] for port in facts["interface"]["inputs"] if port["name"].startswith("lora.")}
    return Base(made, shapes)


def answered(base: Base, lora: Path, out: Path) -> Path:
    """Return what transformers and PEFT answer with an adapter."""
    params = {"kind": "peft", "payload": ".", "steps": generation.STEPS, "base": "."}
    generation.run("reference", {"source": lora, "base": base.made.source}, out, params)
    return out


def exported(base: Base, lora: Path, out: Path) -> Path:
    texts = {"tokenizer": "sha256:", "template": None}
    facts = generation.run("export_adapter", {"source": lora}, out, {"payload": ".", "inputs": base.shapes, **texts})
    assert facts["layers"] == 4
    return out


def test_answers_with_an_adapter_are_those_of_peft(base: Base, tmp_path: Path) -> None:
    lora = adapters.write(tmp_path / "lora", 1, use_rslora=True)
    reference, packed = answered(base, lora, tmp_path / "reference"), exported(base, lora, tmp_path / "packed")
    cases = generation.measure(base.made, tmp_path / "out", reference=reference, adapter=packed)
    assert generation.findings(cases) == []
    assert sum(case["name"].startswith("prompt") for case in cases) == 10
    without = generation.findings(generation.measure(base.made, tmp_path / "without", reference=reference))
    assert any("output `tokens`" in line for line in without)


def test_the_base_without_an_adapter_is_the_model_itself(base: Base, tmp_path: Path) -> None:
    assert base.made.facts["generation"]["adapters"] == LAYERS
    assert generation.findings(generation.measure(base.made, tmp_path / "out")) == []


def test_a_wrong_matrix_is_found(base: Base, tmp_path: Path) -> None:
    lora = adapters.write(tmp_path / "lora", 2)
    reference, packed = answered(base, lora, tmp_path / "reference"), exported(base, lora, tmp_path / "packed")
    file = packed / "adapter" / "adapter.safetensors"
    tensors = safetensors.parse(file.read_bytes())
    dtype, shape, data = tensors["lora.model.layers.1.self_attn.v_proj.b"]
    tensors["lora.model.layers.1.self_attn.v_proj.b"] = (dtype, shape, (np.frombuffer(data, "<f4") * 0.9).tobytes())
    file.write_bytes(safetensors.dump(tensors))
    found = generation.findings(generation.measure(base.made, tmp_path / "out", reference=reference, adapter=packed))
    assert found and "output `logits`" in found[0]


def test_layers_that_cannot_take_adapters_are_refused(base: Base, tmp_path: Path) -> None:
    decoder = open_decoder(base.made.source)
    with pytest.raises(StepError, match="the model has no layer of that name"):
        decoder.with_adapters(["query"])
    with pytest.raises(StepError, match="a `Embedding` of that name, not a `Linear`"):
        decoder.with_adapters(["embed_tokens"])
    assert len(decoder.with_adapters(["q_proj", "down_proj"]).adapted) == 4
