# SPDX-License-Identifier: Apache-2.0
"""What a source says it was made with is read, never run, and can choose versions but nothing else."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import sklearn
import xgboost
from sklearn.linear_model import LinearRegression

from packager.errors import UsageError
from packager.lock import origins, toolchains
from packager.lock.origins import Origin

MLMODEL = b"""
flavors:
  python_function: {python_version: 3.12.4}
  sklearn: {sklearn_version: 1.5.2, pickled_model: model.pkl}
"""


def read(payload: str, **files: bytes) -> Origin:
    named = {name.replace("__", "."): data for name, data in files.items()}
    return origins.read(list(named), named.__getitem__, payload)


def test_mlflow_says_python_and_packages() -> None:
    lines = b"mlflow==3.17.2\nscikit-learn==1.5.1\nNumPy>=1.26,<2 # arrays\ntorch==2.13.0+cpu\n\n# note\nwindows-only==1; sys_platform == 'win32'\n"
    found = read("model.pkl", MLmodel=MLMODEL, requirements__txt=lines, python_env__yaml=b"python: 3.11.7\n")
    assert found == Origin("3.11", {"numpy": "<2,>=1.26", "scikit-learn": "==1.5.1", "torch": "==2.13.0"})
    assert read("model.pkl", MLmodel=MLMODEL) == Origin("3.12", {"scikit-learn": "==1.5.2"})


def test_bare_files_name_the_version_inside(tmp_path: Path) -> None:
    import numpy as np
    import skops.io

    fitted = LinearRegression().fit(np.eye(3), [1, 2, 3])
    stated = Origin(None, {"scikit-learn": f"=={sklearn.__version__}"})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert read("model.pkl", model__pkl=pickle.dumps(fitted, protocol)) == stated
    assert read("model.skops", model__skops=skops.io.dumps(fitted)) == stated
    booster = xgboost.train({}, xgboost.DMatrix(np.eye(3), [1, 2, 3]), 1)
    for ending in ("ubj", "json"):
        booster.save_model(tmp_path / f"m.{ending}")
        data = (tmp_path / f"m.{ending}").read_bytes()
        assert origins.read(["m"], lambda _, data=data: data, "m").packages == {}
        found = origins.read([f"m.{ending}"], lambda _, data=data: data, f"m.{ending}")
        assert found.packages == {"xgboost": f"=={xgboost.__version__}"}


def test_broken_files_say_nothing() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("other", "x")
    for data in (b"", b"\0" * 64, buffer.getvalue(), b"_sklearn_version"):
        assert origins.read(["m.pkl", "m.skops"], lambda _, data=data: data, "m.pkl").packages == {}
        assert origins.read(["m.pkl", "m.skops"], lambda _, data=data: data, "m.skops").packages == {}
    assert read("model.pkl", MLmodel=b"- [") == Origin(None, {})


def test_data_formats_bring_no_package() -> None:
    origin = Origin(None, {"evil": "==1", "onnx": "==1.12", "scikit-learn": "==1.5.2"})
    data = origins.requirements_for(["scikit-learn", "onnx", "numpy"], origin, more=False)
    assert "scikit-learn==1.5.2" in data and "numpy" in data
    assert not [line for line in data if line.startswith("evil")] and "onnx==1.12" not in data
    assert "evil==1" in origins.requirements_for(["scikit-learn"], origin, more=True)


def test_a_python_that_is_not_here_or_too_old_is_named() -> None:
    with pytest.raises(UsageError, match=r"Python 3\.8, expected at least"):
        toolchains.find("3.8")
    with pytest.raises(UsageError, match=r"needs Python 3\.99, and there is none here"):
        toolchains.find("3.99")


def test_kinds_that_run_elsewhere_name_their_versions() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1", "date_saved": "x"}')
    assert read("m.keras", m__keras=buffer.getvalue()).packages == {"keras": "==3.15.1"}
    saved = b"\x08\x01\x12\xa0\x0a\x2a\x052.1.0\x01" + b"\x2a\x062.21.02\x0f"
    assert read("saved_model.pb", saved_model__pb=saved).packages == {"tensorflow": "==2.21.0"}
    spark = b'{"class":"org.apache.spark.ml.PipelineModel","timestamp":1,"sparkVersion":"4.3.0","uid":"x"}'
    assert read("metadata/part-00000-x.txt", **{"metadata/part-00000-x__txt": spark}).packages == {"pyspark": "==4.3.0"}


def test_small_wheels_are_taken_where_there_are_some() -> None:
    lines = origins.requirements_for(["xgboost", "tensorflow"], Origin(None, {"xgboost": "==3.2.0"}), more=False)
    assert "xgboost-cpu==3.2.0" in lines and any(line.startswith("tensorflow-cpu") for line in lines)
    assert "xgboost==1.7.6" in origins.requirements_for(["xgboost"], Origin(None, {"xgboost": "==1.7.6"}), more=False)
