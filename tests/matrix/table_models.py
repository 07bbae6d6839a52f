# SPDX-License-Identifier: Apache-2.0
"""Write one model for tables, or one ONNX file: `python table_models.py KIND FOLDER`, from the root of the repository."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import numpy as np

from tests.support import tables

TABLE = tables.frame()
NAMES = tables.target(TABLE)
YES = (NAMES == "yes").astype(int)
NUMBERS = ["age", "income per year"]
HOLES = TABLE[NUMBERS].astype(float).mask(np.random.RandomState(1).rand(len(TABLE), 2) < 0.1)


def columns(model: object) -> object:
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts = [
        ("numbers", StandardScaler(), [*NUMBERS, "visits"]),
        ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ("text", TfidfVectorizer(ngram_range=(1, 2)), "text"),
    ]
    return Pipeline([("columns", ColumnTransformer(parts, sparse_threshold=0)), ("model", model)])


def saved(folder: Path, model: object, labels: object, **options: object) -> None:
    fitted = columns(model).fit(TABLE, labels)
    tables.saved(folder, "sklearn", fitted, TABLE, fitted.predict(TABLE), **options)


def onnx_file(folder: Path) -> None:
    """Three layers whose weights lie in a file of their own, at a newer opset than most runtimes read."""
    import onnx
    from onnx import helper, numpy_helper

    random, sizes = np.random.RandomState(0), (256, 2048, 4096, 800)
    weights = [
        numpy_helper.from_array((random.randn(a, b) / np.sqrt(a)).astype("float32"), f"w{index}")
        for index, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    names = ["x", "a", "b", "y"]
    nodes = []
    for index in range(3):
        made = names[index + 1] if index == 2 else f"m{index}"
        nodes.append(helper.make_node("MatMul", [names[index], f"w{index}"], [made]))
        if index < 2:
            nodes.append(helper.make_node("Relu", [made], [names[index + 1]]))
    ports = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("x", 256), ("y", 800))]
    graph = helper.make_graph(nodes, "mlp", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)


def main(kind: str, folder: Path) -> None:
    if kind == "onnx":
        onnx_file(folder)
    elif kind == "pipeline":
        from sklearn.linear_model import LogisticRegression

        saved(folder, LogisticRegression(max_iter=500), NAMES)
    elif kind == "boosting":
        from sklearn.ensemble import GradientBoostingClassifier

        saved(folder, GradientBoostingClassifier(n_estimators=20, random_state=0), NAMES)
    elif kind == "mixed":
        import xgboost

        saved(folder, xgboost.XGBClassifier(n_jobs=1, n_estimators=20), YES, serialization_format="cloudpickle")
    elif kind == "xgboost":
        import xgboost

        model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(HOLES, YES), 20)
        tables.saved(folder, "xgboost", model, HOLES, model.predict(xgboost.DMatrix(HOLES)))
    elif kind == "lightgbm":
        import lightgbm

        options = {"objective": "binary", "verbose": -1, "num_threads": 1}
        model = lightgbm.train(options, lightgbm.Dataset(HOLES, YES), 20)
        tables.saved(folder, "lightgbm", model, HOLES, model.predict(HOLES))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
