# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT saves them: their matrices as the graph of the base takes them, and what is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager import exporters, plugins
from packager.errors import SourceError, StepError, UsageError
from packager.exporters._generation import lora
from packager.lock import draft, recipe_checks
from packager.recipe import recipe
from packager.server.generation.adapters import read_weights
from packager.store.store import Store
from tests.support import adapters

INPUTS = {
    f"lora.model.layers.{number}.self_attn.{name}.{side}": [taken, "rank"] if side == "a" else ["rank", given]
    for number in range(2)
    for name, (taken, given) in adapters.LAYERS.items()
    for side in "ab"
}
FIRST = "model.layers.0.self_attn.q_proj"


def linear(taken: int, given: int) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(taken, given, bias=False)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"use_rslora": True},
        {"lora_alpha": 3, "alpha_pattern": {"q_proj": 16, r"layers\.1\.self_attn\.v_proj": 1}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_a_layer_gives_what_peft_makes_of_it(tmp_path: Path, members: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    import torch

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.v_proj = linear(64, 64), linear(64, 32)

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = Attention()

    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer(), Layer()])

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Inner()

    folder = adapters.write(tmp_path / "lora", task_type=None, **members)
    adapted = peft.PeftModel.from_pretrained(Model(), str(folder)).eval()
    taken = torch.randn(3, 64)
    for path, layer in lora.read_adapter(folder).items():
        with torch.inference_mode():
            wanted = adapted.get_submodule(f"base_model.model.{path}")(taken)
            plain = adapted.get_submodule(f"base_model.model.{path}.base_layer")(taken)
        ours = plain.numpy() + (taken.numpy() @ layer.a) @ layer.b
        assert np.abs(wanted.numpy() - plain.numpy()).max() > 0.1
        np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-5)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    whole = adapters.matrices()
    halves = {name: array.astype(np.float16) for name, array in whole.items()}
    found = lora.read_adapter(adapters.write(tmp_path / "half", tensors=halves))
    np.testing.assert_array_equal(found[FIRST].a.T, halves[f"base_model.model.{FIRST}.lora_A.weight"].astype("float32"))
    assert found[FIRST].a.dtype == np.float32
    cut = {name: (array.view("<u4") >> 16).astype("<u2") for name, array in whole.items()}
    from packager.formats import safetensors

    folder = adapters.write(tmp_path / "brain")
    data = {name: ("bfloat16", array.shape, array.tobytes()) for name, array in cut.items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors.dump(data))
    wide = (cut[f"base_model.model.{FIRST}.lora_A.weight"].astype("<u4") << 16).view("<f4")
    np.testing.assert_array_equal(lora.read_adapter(folder)[FIRST].a.T, wide)


def test_layers_of_other_ranks_get_the_largest(tmp_path: Path) -> None:
    low = adapters.matrices(rank=2)
    tensors = {**adapters.matrices(rank=5), **{name: array for name, array in low.items() if "v_proj" in name}}
    folder = adapters.write(tmp_path / "lora", rank=5, tensors=tensors, rank_pattern={"v_proj": 2})
    layers = lora.read_adapter(folder)
    from packager.formats import safetensors

    weights = read_weights(safetensors.dump(lora.fit_layers(layers, INPUTS)), INPUTS)
    assert {array.shape[1] for name, array in weights.items() if name.endswith(".a")} == {5}
    taken = np.ones((1, 64), np.float32)
    for path, layer in layers.items():
        product = (taken @ weights[f"lora.{path}.a"]) @ weights[f"lora.{path}.b"]
        np.testing.assert_allclose(product, (taken @ layer.a) @ layer.b, atol=1e-4)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind `IA3`, expected `LORA`"),
        ({"use_dora": True}, "sets `use_dora` to `True`"),
        ({"bias": "all"}, "sets `bias` to `all`"),
        ({"modules_to_save": ["lm_head"]}, "sets `modules_to_save`"),
        ({"init_lora_weights": "pissa"}, "sets `init_lora_weights` to `pissa`"),
        ({"fan_in_fan_out": True}, "sets `fan_in_fan_out`"),
        ({"some_day": {"new": 1}}, "sets `some_day`"),
        ({"rank_pattern": {"q_proj": 9}}, "states rank 9"),
        ({"lora_alpha": None}, "states no `lora_alpha`"),
        ({"alpha_pattern": {"(": 1}}, "is no pattern of names"),
    ],
)
def test_what_changes_more_than_layers_is_refused(tmp_path: Path, members: dict[str, Any], words: str) -> None:
    with pytest.raises(StepError, match=words):
        lora.read_adapter(adapters.write(tmp_path / "lora", **members))


def test_matrices_that_are_none_are_refused(tmp_path: Path) -> None:
    whole = adapters.matrices()
    first = f"base_model.model.{FIRST}.lora_"
    cases: dict[str, dict[str, Any]] = {
        "is no low-rank matrix": {**whole, "base_model.model.lm_head.weight": np.ones((2, 2), np.float32)},
        "has not two matrices": {name: array for name, array in whole.items() if name != f"{first}B.weight"},
        "two ranks": {**whole, f"{first}B.weight": np.ones((64, 3), np.float32)},
        "no numbers": {**whole, f"{first}A.weight": np.full((4, 64), np.nan, np.float32)},
        "changes no layer": {},
    }
    for words, tensors in cases.items():
        with pytest.raises(StepError, match=words):
            lora.read_adapter(adapters.write(tmp_path / "lora", tensors=tensors))
    path = adapters.write(tmp_path / "lora") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StepError, match="is refused"):
        lora.read_adapter(tmp_path / "lora")


def test_layers_that_the_base_does_not_take_are_refused(tmp_path: Path) -> None:
    layers = lora.read_adapter(adapters.write(tmp_path / "lora"))
    fewer = {name: shape for name, shape in INPUTS.items() if "v_proj" not in name}
    with pytest.raises(StepError, match=r"v_proj`, and the base takes adapters of q_proj alone"):
        lora.fit_layers(layers, fewer)
    other = {name: [128, "rank"] if name.endswith(".a") else shape for name, shape in INPUTS.items()}
    with pytest.raises(StepError, match=r"is \[64, 4\], and the base's \[128, 4\]"):
        lora.fit_layers(layers, other)


def test_a_tokenizer_beside_the_adapter_has_to_be_the_bases(tmp_path: Path) -> None:
    folder = adapters.write(tmp_path / "lora")
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    params = {"payload": ".", "inputs": INPUTS, "tokenizer": f"sha256:{'0' * 64}", "template": None}
    (tmp_path / "out").mkdir()
    with pytest.raises(StepError, match="the tokenizer beside the adapter is not the base's"):
        plugins.load("steps", "export_adapter").run({"source": folder}, tmp_path / "out", params)
    (folder / "tokenizer.json").unlink()
    facts = plugins.load("steps", "export_adapter").run({"source": folder}, tmp_path / "out", params)
    assert facts == {"rank": 4, "layers": 4, "parameters": 2 * 4 * (64 + 64 + 64 + 32)}


def test_the_kind_is_known_by_its_files() -> None:
    def read(path: str) -> bytes:
        return b"{}"

    assert exporters.detect_kind(["adapter_config.json", "adapter_model.safetensors"], read) == ("peft", ".")
    with pytest.raises(SourceError, match=r"`adapter_model\.bin` is a pickle"):
        exporters.detect_kind(["adapter_config.json", "adapter_model.bin"], read)


BASE = "name: x\nversion: 1.0.0\nsource: s\ntask: text-generation\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nversion: 1.0.0\nsource: s\nadapters: [q_proj]\n", "`adapters` is for language models"),
        (f"{BASE}base: b:1.0.0\nadapters: [q_proj]\n", "`adapters` has no meaning beside `base`"),
        (f'{BASE}base: b:1.0.0\nruns-on: {{onnxruntime: ">=1.31"}}\n', "`runs-on` has no meaning beside `base`"),
        (f"{BASE}adapters: [q_proj, q_proj]\n", "names a layer twice"),
        (f"{BASE}base: ./bundle.tar\n", "expected `name:version`"),
    ],
)
def test_recipes_of_adapters(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recipe.parse(text, "bundle.yaml")


def test_a_recipe_of_an_adapter_is_the_same_when_written_out() -> None:
    for text in (f"{BASE}base: b:1.0.0\n", f"{BASE}adapters: [v_proj, q_proj]\n"):
        parsed = recipe.parse(text, "bundle.yaml")
        assert recipe.from_json(parsed.to_json()) == parsed
    assert parsed.adapters == ("q_proj", "v_proj")


def test_base_and_adapter_go_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the recipe names no `base`"):
        recipe_checks.check_base(recipe.parse(BASE, "x"), "peft", Store(tmp_path))
    named = recipe.parse(f"{BASE}base: b:1.0.0\n", "x")
    with pytest.raises(UsageError, match="of kind `transformers` is no adapter"):
        recipe_checks.check_base(named, "transformers", Store(tmp_path))
    with pytest.raises(UsageError, match=r"no bundle `b:1\.0\.0`"):
        recipe_checks.check_base(named, "peft", Store(tmp_path))
    other = recipe.parse(f'{BASE}adapters: [q_proj]\nruns-on: {{onnxruntime-genai: ">=0.18"}}\n', "x")
    with pytest.raises(UsageError, match="takes no adapters"):
        recipe_checks.check_targets(other)


def test_a_recipe_with_a_task_can_be_read_from_its_provenance() -> None:
    parsed = recipe.parse(BASE, "bundle.yaml")
    assert recipe.from_json(parsed.to_json()) == parsed
    with pytest.raises(UsageError, match="`dynamic` has no meaning beside `task`"):
        recipe.parse(f"{BASE}dynamic: {{batch: [1, 2]}}\n", "bundle.yaml")


def test_a_draft_names_the_base_that_the_adapter_was_trained_on(tmp_path: Path) -> None:
    folder = adapters.write(tmp_path / "legal", base_model_name_or_path="acme/Small-LM")
    text = draft.draft_recipe(str(folder), tmp_path / "bundle.yaml", None, None).text
    parsed = recipe.parse(text, "bundle.yaml")
    assert (parsed.name, parsed.base, parsed.task) == ("legal", "small-lm:1.0.0", "text-generation")
    adapters.write(tmp_path / "legal", base_model_name_or_path=None)
    assert "base: base:1.0.0" in draft.draft_recipe(str(folder), tmp_path / "bundle.yaml", None, None).text
