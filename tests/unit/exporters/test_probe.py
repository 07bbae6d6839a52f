# SPDX-License-Identifier: Apache-2.0
"""Ranges that nobody stated are found on the source, and masks hide no more than it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from packager import exporters
from packager.exporters._interface.masks import Stretch
from tests.unit.exporters.conftest import opened

AUTO = torch.export.Dim.AUTO


class Do(nn.Module):
    def __init__(self, compute: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> Any:
        return self.compute(self, x, other)


def source(folder: Path, module: nn.Module, *given: torch.Tensor) -> Any:
    dims = tuple({0: AUTO} for _ in given)
    torch.manual_seed(0)
    torch.export.save(torch.export.export(module.eval(), given, dynamic_shapes=dims), folder / "model.pt2")
    return opened(folder)


def ranges(model: Any) -> list[Any]:
    return [port.range for port in exporters.bound_integers(model, model.to_onnx(18)).inputs]


IDS = torch.ones(3, 5, dtype=torch.int64)


def test_a_vocabulary_is_the_range_of_its_ids(tmp_path: Path) -> None:
    module = Do(lambda m, x, y: m.a(x) + m.b(y), a=nn.Embedding(30522, 8), b=nn.Embedding(77, 8))
    assert ranges(source(tmp_path, module, IDS, IDS.clone())) == [(0, 30521), (0, 76)]


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (lambda m, x, y: (torch.div(x, 1000, rounding_mode="trunc"), y), None),
        (lambda m, x, y: (m.out(x.float()), y), None),
        (lambda m, x, y: (nn.functional.one_hot(x, 11).float(), y), (0, 10)),
        (lambda m, x, y: (y.float().gather(1, x), y), (0, 4)),
    ],
)
def test_what_the_source_refuses_is_no_promise(tmp_path: Path, compute: Any, expected: Any) -> None:
    model = source(tmp_path, Do(compute, out=nn.Linear(5, 2)), IDS, torch.zeros(3, 5, dtype=torch.uint8))
    assert ranges(model) == [expected, None]


def test_where_float32_is_lost_nothing_is_promised(tmp_path: Path) -> None:
    low, high = ranges(source(tmp_path, Do(lambda m, x, y: (torch.sin(x * 0.3), y)), IDS, torch.ones(3)))[0]
    assert -(1 << 22) < low < -1000 and 1000 < high < 1 << 22


def test_a_stated_range_is_left_alone(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Embedding(9, 2), (IDS,), dynamic_shapes=({0: AUTO},)), tmp_path / "m.pt2")
    model = opened(tmp_path, inputs={"x": {"dtype": "int64", "shape": ["batch", 5], "range": [1, 3]}})
    assert ranges(model) == [(1, 3)]


def test_lookup_tables_bound_indices_and_lengths_are_tried(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    net (int64[N] ids, int64[1] size) => (float[N, 2] y, float[M] z)
    <float[3, 2] words = {1, 2, 3, 4, 5, 6}> { y = Gather(words, ids)  z = ConstantOfShape(size) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    assert ranges(opened(tmp_path)) == [(0, 2), (0, 64)]


@pytest.mark.parametrize(("hidden", "shown"), [(lambda flags: flags, False), (lambda flags: ~flags, True)])
def test_a_mask_shows_a_beginning(tmp_path: Path, hidden: Any, shown: bool) -> None:
    module = Do(lambda m, x, y: x.masked_fill(hidden(y), float("-inf")).softmax(1))
    model = source(tmp_path, module, torch.randn(3, 5), torch.zeros(3, 5, dtype=torch.bool))
    assert exporters.samples_of(model) == {"other": Stretch(shown)}


def test_flags_that_hide_nothing_are_free(tmp_path: Path) -> None:
    model = source(tmp_path, Do(lambda m, x, y: torch.where(y, x, -x)), torch.randn(3, 5), torch.zeros(3, 5) > 0)
    assert exporters.samples_of(model) == {}


def test_attention_that_sees_nothing_answers_as_torch_does(tmp_path: Path) -> None:
    import onnxruntime

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    module = Do(lambda m, x, y: m.layer(x, src_key_padding_mask=y), layer=layer)
    model = source(tmp_path, module, torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool))
    names = [port.name for port in model.interface.inputs]
    pad = np.array([[0] * 5, [1] * 5, [0, 0, 1, 1, 1]], bool)
    feeds = dict(zip(names, (np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32"), pad), strict=True))
    (got,) = onnxruntime.InferenceSession(model.to_onnx(18).SerializeToString()).run(None, feeds)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, model.run(feeds)[0], atol=1e-5)


def test_position_chosen_by_rounding_is_no_difference(tmp_path: Path) -> None:
    factors = torch.tensor([1.0, 1.0 + 1e-7, 0.5])
    module = Do(lambda m, x, y: ((x[:, :1] * 1e3 + 1e4 * factors).argmax(1), y))
    model = source(tmp_path, module, torch.randn(3, 5), torch.ones(3))
    names = [port.name for port in model.interface.inputs]
    feeds = dict(zip(names, (np.full((2, 5), 1e5, "float32"), np.ones(2, "float32")), strict=True))
    expected = model.run(feeds)[0]
    assert expected.tolist() == [0, 0]  # in float32 the first two are equal
    assert exporters.gaps_of(model, feeds, 0, expected, np.array([1, 2])).tolist() == [0, np.inf]
