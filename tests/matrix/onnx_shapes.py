# SPDX-License-Identifier: Apache-2.0
"""ONNX files as other tools write them: each function writes `model.onnx` into a folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Write = Callable[[Path], None]
SHAPES: dict[str, Write] = {}
RNG = np.random.default_rng(0)


def shape(name: str) -> Callable[[Write], Write]:
    def register(write: Write) -> Write:
        SHAPES[name] = write
        return write

    return register


def text(name: str, source: str, change: Callable[[Any], None] = lambda model: None) -> None:
    def write(folder: Path) -> None:
        model = onnx.parser.parse_model(source)
        change(model)
        onnx.save(model, folder / "model.onnx")

    SHAPES[name] = write


# -- scikit-learn's and boosters' converters


def table(classes: int = 3) -> tuple[Any, Any]:
    x = RNG.normal(size=(200, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype(int) + (classes > 2) * (x[:, 1] > 0.5)


def skl(estimator: Any, labels: Any = None, **options: Any) -> Write:
    def write(folder: Path) -> None:
        from skl2onnx import to_onnx

        x, y = table()
        fitted = estimator().fit(x, y if labels is None else np.array(labels)[y])
        onnx.save(to_onnx(fitted, x[:1], **options), folder / "model.onnx")

    return write


def sklearn_shapes() -> None:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    SHAPES["skl2onnx, maps of numbers"] = skl(LogisticRegression)
    SHAPES["skl2onnx, maps of texts"] = skl(lambda: RandomForestClassifier(5), labels=["ü", "b", "a"])
    SHAPES["skl2onnx, tensors"] = skl(LogisticRegression, options={"zipmap": False})
    SHAPES["skl2onnx, columns"] = skl(LogisticRegression, options={"zipmap": "columns"})
    SHAPES["skl2onnx, regression"] = skl(lambda: make_pipeline(StandardScaler(), LinearRegression()))
    SHAPES["skl2onnx, boosted trees"] = skl(lambda: GradientBoostingRegressor(n_estimators=5))


sklearn_shapes()


@shape("onnxmltools, LightGBM")
def lightgbm(folder: Path) -> None:
    import onnxmltools
    from lightgbm import LGBMClassifier
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = LGBMClassifier(n_estimators=5, verbose=-1).fit(*table())
    onnx.save(
        onnxmltools.convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, 4]))]),
        folder / "model.onnx",
    )


@shape("onnxmltools, XGBoost")
def xgboost(folder: Path) -> None:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=5).fit(*table())
    onnx.save(
        onnxmltools.convert_xgboost(model, initial_types=[("input", FloatTensorType([None, 4]))]), folder / "model.onnx"
    )


@shape("CatBoost, classifier")
def catboost(folder: Path) -> None:
    import pytest

    module = pytest.importorskip("catboost")
    model = module.CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False).fit(*table())
    model.save_model(str(folder / "model.onnx"), format="onnx")


@shape("CatBoost, regressor")
def catboost_regressor(folder: Path) -> None:
    import pytest

    module = pytest.importorskip("catboost")
    model = module.CatBoostRegressor(iterations=5, verbose=False, allow_writing_files=False).fit(*table())
    model.save_model(str(folder / "model.onnx"), format="onnx")


# -- torch's older exporter


def scripted(module: Callable[[], nn.Module], *given: Any, opset: int = 17, **options: Any) -> Write:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module().eval(), given, str(folder / "model.onnx"), dynamo=False, opset_version=opset, **options
            )

    return write


SHAPES["torch 2.8, convolutions"] = scripted(
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
    torch.randn(2, 3, 8, 8),
    input_names=["image"],
    output_names=["logits"],
    dynamic_axes={"image": {0: "batch"}},
)
SHAPES["torch 2.8, LSTM"] = scripted(
    lambda: nn.LSTM(4, 8, batch_first=True),
    torch.randn(2, 5, 4),
    input_names=["x"],
    output_names=["y", "h", "c"],
    dynamic_axes={"x": {0: "batch", 1: "time"}},
)
SHAPES["torch 2.8, names as they fall"] = scripted(lambda: nn.Linear(4, 2), torch.randn(2, 4), opset=11)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(120, 16), nn.Embedding(32, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        hidden = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        scores = x @ x.transpose(1, 2) + hidden[:, 0]
        return self.block.norm1(scores.softmax(-1) @ x)


SHAPES["optimum, encoder"] = scripted(
    Encoder,
    torch.ones(2, 6, dtype=torch.int64),
    torch.ones(2, 6, dtype=torch.int64),
    input_names=["input_ids", "attention_mask"],
    output_names=["last_hidden_state"],
    dynamic_axes={n: {0: "batch_size", 1: "sequence_length"} for n in ("input_ids", "attention_mask")},
)


def dynamo(module: Callable[[], nn.Module], *given: Any, **options: Any) -> Write:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        torch.onnx.export(
            module().eval(),
            given,
            str(folder / "model.onnx"),
            dynamo=True,
            verbose=False,
            external_data=False,
            **options,
        )

    return write


SHAPES["torch 2.13, linear"] = dynamo(
    lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)),
    torch.randn(2, 4),
    dynamic_shapes=({0: torch.export.Dim("rows")},),
)


# -- quantised


def base(folder: Path) -> Path:
    SHAPES["torch 2.8, convolutions"](folder)
    return folder / "model.onnx"


@shape("quantised, dynamic")
def dynamic(folder: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    SHAPES["torch 2.8, names as they fall"](folder)
    quantize_dynamic(str(folder / "model.onnx"), str(folder / "model.onnx"))


@shape("quantised, QDQ")
def qdq(folder: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter([{"image": RNG.random((2, 3, 8, 8), dtype="float32")} for _ in range(4)])

        def get_next(self) -> Any:
            return next(self.rows, None)

    path = str(base(folder))
    quantize_static(path, path, Reader(), quant_format=QuantFormat.QDQ)


@shape("float16")
def half(folder: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(base(folder))
    onnx.save(convert_float_to_float16(model, keep_io_types=True), folder / "model.onnx")


@shape("float16 at the ends")
def half_ends(folder: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(base(folder))), folder / "model.onnx")


# -- by hand

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
text(
    "linear algebra", HEAD + "n (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
)
text(
    "IR 3, weights among the inputs",
    '<ir_version: 3, opset_import: ["" : 8]> n (float[N, 2] x, float[2, 2] w) => (float[N, 2] y) '
    "<float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }",
)
text(
    "opset 9",
    '<ir_version: 4, opset_import: ["" : 9]> n (float[N, 4] x) => (float[N, 4] y) { y = Softmax <axis = 1> (x) }',
)
text("opset 21", '<ir_version: 10, opset_import: ["" : 21]> n (float[N, 4] x) => (float[N, 4] y) { y = Tanh(x) }')
text("two axes called `?`", HEAD + 'n (float["?", 3, "?"] x) => (float["?", 3, "?"] y) { y = Relu(x) }')
text(
    "axes without names",
    HEAD + "n (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }",
    lambda m: [axis.Clear() for v in (*m.graph.input, *m.graph.output) for axis in v.type.tensor_type.shape.dim[:1]],
)
text("output is the input", HEAD + "n (float[N, 3] x) => (float[N, 3] x, float[N, 3] y) { y = Relu(x) }")
text(
    "output is a weight",
    HEAD + "n (float[N, 3] x) => (float[N, 3] y, float[2] w) <float[2] w = {1, 2}> { y = Relu(x) }",
)
text("names of every script", HEAD + "n (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }", lambda m: renamed(m))
text(
    "if",
    HEAD + "n (float[N, 3] x, bool on) => (float[N, 3] y) { y = If (on) "
    "<then_branch = a () => (float[N, 3] p) { p = Relu(x) }, else_branch = b () => (float[N, 3] q) { q = Neg(x) }> }",
)
text(
    "sequences inside",
    HEAD + "n (float[N, 4] x) => (float[N, 4] y) { s = SplitToSequence <axis = 1> (x) "
    "y = ConcatFromSequence <axis = 1> (s) }",
)
text("sequence output", HEAD + "n (float[N, 4] x) => (seq(float[N, 1]) y) { y = SplitToSequence <axis = 1> (x) }")
text("optional output", HEAD + "n (float[N, 4] x) => (optional(float[N, 4]) y) { y = Optional(x) }")
text(
    "gather",
    HEAD + "n (int64[N, T] ids) => (float[N, T, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = Gather(w, ids) }",
)
text(
    "one hot",
    HEAD + "n (int64[N] ids) => (float[N, 5] y) <int64 d = {5}, float[2] v = {0, 1}> { y = OneHot(ids, d, v) }",
)
text("a length as input", HEAD + "n (int64[1] size) => (float[M] y) { y = ConstantOfShape(size) }")
text("texts", HEAD + "n (string[N] x) => (string[N] y) { y = Identity(x) }")
text("booleans", HEAD + "n (bool[N, 3] x, bool[N, 3] z) => (bool[N, 3] y) { y = And(x, z) }")
text(
    "doubles",
    HEAD + "n (double[N, 3] x) => (double[N, 3] y) <double[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> { y = MatMul(x, w) }",
)
text("milliseconds", HEAD + "n (int64[N] x) => (int64[N] y) <int64 k = {1000}> { y = Div(x, k) }")
text(
    "milliseconds through float32",
    HEAD + "n (int64[N] x) => (int64[N] y) <float k = {1000}> "
    "{ f = Cast <to = 1> (x) q = Div(f, k) w = Floor(q) y = Cast <to = 7> (w) }",
)
text("scalar input", HEAD + "n (float[N, 3] x, float s) => (float[N, 3] y) { y = Mul(x, s) }")
text(
    "imported twice",
    HEAD + "n (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }",
    lambda m: m.opset_import.add(domain="", version=17),
)
text(
    "imported twice, unlike",
    HEAD + "n (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }",
    lambda m: m.opset_import.add(domain="", version=9),
)
text(
    "preview operators",
    HEAD.replace("]", ', "ai.onnx.preview.training" : 1]')
    + "n (float[N, 3] x) => (float[N, 3] y) { y = ai.onnx.preview.training.Adam(x) }",
)
text(
    "another vendor's operator",
    HEAD.replace("]", ', "com.vendor" : 1]') + "n (float[N, 3] x) => (float[N, 3] y) { y = com.vendor.Magic(x) }",
)
text(
    "never runs",
    HEAD + "n (float[N, 3] x) => (float[N, 3] y) <float[2, 2] w = {1, 2, 3, 4}> { a = Reshape(x, s) y = MatMul(a, w) }",
    lambda m: m.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3], "int64"), "s")),
)
text(
    "unknown rank of an output",
    HEAD + "n (float[N, 4] x) => (float y) { y = Neg(x) }",
    lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
)
text("random", HEAD + "n (float[N, 3] x) => (float[N, 3] y) { r = RandomNormalLike(x) y = Add(x, r) }")
text(
    "function",
    '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> n (float[N, 3] x) => (float[N, 3] y) { y = own.twice(x) } '
    '<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }',
)


def renamed(model: Any) -> None:
    """Give the ports the names that TensorFlow's converter and people give them."""
    node = model.graph.node[0]
    model.graph.input[0].name = node.input[0] = "serving_default_größe:0"
    model.graph.output[0].name = node.output[0] = "StatefulPartitionedCall:0/你好 世界"


@shape("external data")
def external(folder: Path) -> None:
    w = numpy_helper.from_array(RNG.normal(size=(64, 64)).astype("float32"), "w")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 64]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "n", ports[:1], ports[1:], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)


@shape("bfloat16 weights")
def bfloat(folder: Path) -> None:
    w = helper.make_tensor("w", TensorProto.BFLOAT16, [3, 2], [1, 2, 3, 4, 5, 6])
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("MatMul", ["x", "f"], ["y"])]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n, k in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "n", ports[:1], ports[1:], [w])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
