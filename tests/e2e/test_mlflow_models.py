# SPDX-License-Identifier: Apache-2.0
"""A rendered model under the real `mlflow models serve` and as a Spark UDF."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import tool
from tests.support import environments
from tests.support.deployments import rendered
from tests.unit.deploy.test_mlflow import AGES, LINEAR, ages, bundle_of, linear

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow-models")]
PACKAGES = ("mlflow==3.17.2", "pyspark==4.3.0", "pandas<3", "pyarrow>=15", "onnxruntime==1.31.1", "orjson>=3.10")
SPARK = """
import json, os, sys
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
import mlflow.pyfunc
from pyspark.sql import SparkSession
settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
builder = SparkSession.builder.master("local[2]")
for name, value in settings.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
columns, linear = (mlflow.pyfunc.spark_udf(session, uri, env_manager="local") for uri in sys.argv[1:3])
table = session.createDataFrame([(float(age), 1.0 if age % 2 else 0.5) for age in range(40)], ["age", "unit"])
old = [row.old for row in table.repartition(4).sort("age").withColumn("old", columns("age", "unit")).collect()]
tensors = session.createDataFrame([([float(n), 1.0, 0.0, 2.0],) for n in range(40)], ["x"])
both = [(list(row.r.y), row.r.total) for row in tensors.withColumn("r", linear("x")).collect()]
print(json.dumps([old, both]))
session.stop()
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return environments.python_with(*PACKAGES, scripts=True)  # MLflow starts uvicorn by its name


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {"ages": (ages(), AGES), "linear": (linear(), LINEAR)}
    first, second = (
        rendered("mlflow", bundle_of(folder / f"store-{name}", *parts), folder / name) for name, parts in made.items()
    )
    return first, second


@contextmanager
def served(python: Path, model: Path, log: Path) -> Iterator[str]:
    """Serve a model until the block ends. Raises AssertionError with the log when the server ends before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["models", "serve", "--model-uri", model, "--env-manager", "local", "--host", "127.0.0.1", "--port", port]
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("w") as sink:
        process = subprocess.Popen(
            [python, "-m", "mlflow", *map(str, words)],
            stdout=sink,
            stderr=sink,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            for _ in range(1200):
                text = log.read_text()
                assert process.poll() is None and "is not the file of the bundle" not in text, text[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10)
                    break
                except OSError:
                    time.sleep(0.25)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, 15)
            process.wait(60)


def ask(url: str, document: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_it_is_served(python: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    with served(python, models[1], tmp_path / "log") as url:
        rows = np.arange(80, dtype=np.float32).reshape(20, 4)
        status, answer = ask(url, {"inputs": {"x": rows.tolist()}})
        expected = rows @ np.arange(8, dtype=np.float32).reshape(4, 2)
        assert status == 200
        np.testing.assert_array_equal([row["y"] for row in answer["predictions"]], expected)
        np.testing.assert_array_equal([row["total"] for row in answer["predictions"]], expected.sum(1))
        status, answer = ask(url, {"inputs": {"x": [[1, 2]]}})
        assert status == 400 and "x" in answer["message"]


def test_a_changed_byte_is_not_served(python: Path, models: tuple[Path, Path], tmp_path: Path) -> None:
    changed = shutil.copytree(models[0], tmp_path / "changed")
    graph = changed / "bundle" / "model" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    refused = pytest.raises(AssertionError, match="is not the file of the bundle")
    with refused, served(python, changed, tmp_path / "log"):
        pass


def test_two_models_are_functions_of_one_spark_session(python: Path, models: tuple[Path, Path]) -> None:
    tool("java")
    done = subprocess.run(
        [python, "-c", SPARK, *models],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYSPARK_PYTHON": str(python), "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    old, both = json.loads(done.stdout.splitlines()[-1])
    assert old == [age * (1.0 if age % 2 else 0.5) > 10 for age in range(40)]
    expected = np.array([[n, 1, 0, 2] for n in range(40)], np.float32) @ np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal([y for y, _ in both], expected)
    np.testing.assert_array_equal([total for _, total in both], expected.sum(1))
