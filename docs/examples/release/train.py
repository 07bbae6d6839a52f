# SPDX-License-Identifier: Apache-2.0
"""Train a softmax regression on scikit-learn's handwritten digits and write it as `digits/model.onnx`, 3 kB.

Usage: train.py. The file is kept beside its recipe, as models in a repository are; nothing else needs this program.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).resolve().parent


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=2000).fit(images, labels)
    weights = [
        numpy_helper.from_array(model.coef_.T.astype(np.float32), "weights"),
        numpy_helper.from_array(model.intercept_.astype(np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Gemm", ["pixels", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    (HERE / "digits" / "model.onnx").write_bytes(made.SerializeToString())


if __name__ == "__main__":
    main()
