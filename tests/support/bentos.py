# SPDX-License-Identifier: Apache-2.0
"""A BentoML store with one small model of every kind, written by a real BentoML in an environment of its own.

Usage: bentos.py PACKAGES, where PACKAGES is a directory whose torch and transformers are used because BentoML's own
environment has none.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = (
    "bentoml==1.4.39",
    "scikit-learn==1.9.1",
    "onnx==1.23.2",
    "onnxruntime==1.31.1",
    "xgboost-cpu==3.2.0",
    "lightgbm==4.7.0",
    "cloudpickle==3.1.2",
    "numpy==2.4.6",
)


def write_store(home: Path) -> Path:
    """Write a store to `home` and return it."""
    from tests.support.environments import python_with
    from tests.support.tools import library

    library("libgomp.so.1")  # of LightGBM
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
    }
    done = subprocess.run(
        [python_with(*REQUIREMENTS), __file__, packages], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return home


def fill(packages: str) -> None:
    """Save the models; runs in BentoML's environment."""
    import bentoml
    import lightgbm
    import numpy as np
    import xgboost
    from onnx import TensorProto, helper
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    bentoml.sklearn.save_model("regression", LogisticRegression().fit(x, y))
    bentoml.picklable_model.save_model("pickled", LogisticRegression().fit(x, y))
    bentoml.lightgbm.save_model("light", lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(x, y))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    relu = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bentoml.onnx.save_model("relu", relu)
    with bentoml.models.create("plain") as made:
        (Path(made.path) / "model.onnx").write_bytes(relu.SerializeToString())
    with bentoml.models.create("strange", module="bentoml.catboost") as made:
        (Path(made.path) / "saved_model.cbm").write_bytes(b"x")
    metadata = sys.modules["importlib.metadata"]
    distribution = metadata.distribution
    metadata.distribution = lambda name: distribution({"xgboost": "xgboost-cpu"}.get(name, name))  # the same, smaller
    bentoml.xgboost.save_model("trees", xgboost.XGBClassifier(n_estimators=3).fit(x, y))
    metadata.distribution = distribution
    fill_torch(packages)


def fill_torch(packages: str) -> None:
    sys.path.append(packages)
    import bentoml
    import torch
    import transformers

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    bentoml.pytorch.save_model("net", net)
    bentoml.torchscript.save_model("script", torch.jit.script(net))
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    with bentoml.models.create("bert", module="bentoml.transformers") as made:
        transformers.BertModel(config).eval().save_pretrained(made.path)


if __name__ == "__main__":
    fill(sys.argv[1])
