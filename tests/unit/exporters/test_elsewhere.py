# SPDX-License-Identifier: Apache-2.0
"""Kinds whose libraries are not in this environment: what is decided before those are asked. `tests/matrix` runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from packager import exporters, plugins
from packager.build import build
from packager.errors import StepError, UsageError
from packager.exporters import savedmodel
from packager.exporters._tables import spark as _spark
from packager.lock import draft, recipe_checks
from packager.recipe import recipe
from tests.unit.exporters.conftest import detected, mlmodel, opened


def spark(folder: Path, *classes: str) -> Path:
    """Write what describes a pipeline of these stages."""
    for number, name in enumerate(("org.apache.spark.ml.PipelineModel", *classes)):
        place = folder if number == 0 else folder / "stages" / f"{number - 1}_stage"
        (place / "metadata").mkdir(parents=True)
        described = json.dumps({"class": name, "sparkVersion": "4.3.0", "uid": str(number)})
        (place / "metadata" / "part-00000-x.txt").write_text(described + "\n")
    return folder


def test_spark_pipelines_are_found(tmp_path: Path) -> None:
    spark(tmp_path / "bare", "org.apache.spark.ml.feature.VectorAssembler")
    assert detected(tmp_path / "bare") == ("spark", "metadata/part-00000-x.txt")
    spark(tmp_path / "logged" / "sparkml")
    mlmodel(tmp_path / "logged", {"spark": {"model_data": "sparkml", "pyspark_version": "4.3.0"}})
    assert detected(tmp_path / "logged") == ("spark", "sparkml/metadata/part-00000-x.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("com.example.Evil", "`com.example.Evil`, which is not one of Spark's stages"),
        ("org.apache.spark.ml.Evil;rm", "not one of Spark's stages"),
        ("org.apache.spark.sql.Evil", "not one of Spark's stages"),
        ("org.apache.spark.ml.classification.GBTClassificationModel", "binary64 thresholds"),
        ("org.apache.spark.ml.regression.RandomForestRegressionModel", "binary64 thresholds"),
    ],
)
def test_spark_stages_are_judged_before_java_starts(name: str, message: str, tmp_path: Path) -> None:
    spark(tmp_path / "model", "org.apache.spark.ml.feature.VectorAssembler", name)
    with pytest.raises(StepError) as caught:
        opened(tmp_path / "model")
    assert message in caught.value.message
    assert caught.value.hint


def test_keras_files_and_saved_models_are_found(tmp_path: Path) -> None:
    for path in (
        "keras/model.keras",
        "saved/saved_model.pb",
        "logged/data/model.keras",
        "served/data/model/saved_model.pb",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    mlmodel(tmp_path / "logged", {"keras": {"data": "data", "keras_version": "3.15.1"}})
    mlmodel(tmp_path / "served", {"tensorflow": {"data": "data", "keras_version": "3.15.1"}})
    assert detected(tmp_path / "keras") == ("keras", "model.keras")
    assert detected(tmp_path / "saved") == ("savedmodel", "saved_model.pb")
    assert detected(tmp_path / "logged") == ("keras", "data/model.keras")
    assert detected(tmp_path / "served") == ("savedmodel", "data/model/saved_model.pb")


def test_a_saved_model_is_a_program_and_a_keras_file_is_not() -> None:
    assert plugins.load("exporters", "savedmodel").EXECUTES
    assert not plugins.load("exporters", "keras").EXECUTES


@pytest.mark.parametrize(
    ("known", "wanted", "expected"),
    [
        (["serving_default", "other"], "", "serving_default"),
        (["only", "__saved_model_init_op"], "", "only"),
        (["first", "second"], "second", "second"),
        (["first", "second"], "", "the SavedModel has no signature `serving_default`, only `first`, `second`"),
        (["first"], "third", "the SavedModel has no signature `third`, only `first`"),
        ([], "", "the SavedModel has no signature"),
    ],
)
def test_choice_of_signature(known: list[str], wanted: str, expected: str) -> None:
    signatures = {name: name for name in known}
    if not expected.startswith("the "):
        assert savedmodel._signature(signatures, wanted) == expected
        return
    with pytest.raises(StepError) as caught:
        savedmodel._signature(signatures, wanted)
    assert caught.value.message == expected
    assert caught.value.hint and ("export: {signature: first}" in caught.value.hint or not known)


def test_a_signature_of_a_source_that_has_none_is_refused() -> None:
    asked = recipe.parse("name: x\nversion: 1.0.0\nsource: m.onnx\nexport: {signature: other}\n", "bundle.yaml")
    recipe_checks.check_signature(asked, "savedmodel")
    assert build._export_options(asked)["signature"] == "other"
    with pytest.raises(UsageError, match="is `other`, and a source of kind `onnx` has no signatures"):
        recipe_checks.check_signature(asked, "onnx")


@pytest.mark.parametrize("kind", ["keras", "keras-h5", "savedmodel", "spark", "tflite"])
def test_the_environment_names_what_has_to_be_in_it(kind: str) -> None:
    module = exporters.exporter(kind)
    assert {"onnx", "onnxruntime", "numpy"} < set(module.TOOLCHAIN)


@pytest.mark.parametrize(
    "source",
    ["nets/Digits.keras", "nets/digits.h5", "nets/digits.tflite", "nets/digits.ts", "nets/digits.pt", "nets/digits"],
)
def test_a_recipe_can_be_drafted_for_every_form(source: str) -> None:
    assert recipe.parse(draft.draft(source), "bundle.yaml").name == "digits"


def test_a_prediction_of_spark_is_a_number_as_sparks_own() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[n] x) => (int64[n] y) { y = Cast <to = 7> (x) }'
    model = onnx.parser.parse_model(text)
    _spark._as_float(model, "y")
    onnx.checker.check_model(model, full_check=True)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.array([1.0, 0.0], "float32")})
    assert y.dtype == np.float32 and y.tolist() == [1.0, 0.0]
    once = model.SerializeToString()
    _spark._as_float(model, "y")
    assert model.SerializeToString() == once
