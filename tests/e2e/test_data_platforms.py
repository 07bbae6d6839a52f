# SPDX-License-Identifier: Apache-2.0
"""An installation answers the rows of real Ray Data and real Spark, as `packager run` answers those of a file.

Ray listens on every interface that it sees: both run in a network namespace of their own, which has none but loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.e2e.conftest import HERE, tool
from tests.support import environments
from tests.unit.pipelines.test_run import run
from tests.unit.pipelines.test_run_tables import site as site  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("data-platforms")]  # environments of 1 GB
BASE = ("cryptography", "packaging", "PyYAML", "urllib3")  # the base install
PACKAGES = ("ray[data]==2.60.0", "pyspark==4.3.0", "pandas<3", "pyarrow>=15", *BASE)
ROWS = 2000
RAY = """
import json, sys
import ray
from packager.api.deploy import BatchAnswers
ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
rows = ray.data.read_parquet(sys.argv[1]).repartition(8)
found = rows.map_batches(BatchAnswers, fn_constructor_args=[sys.argv[2]], concurrency=2, batch_size=128)
print(json.dumps(sorted([row["id"], row["answer"], row["error"]] for row in found.take_all())))
"""
SPARK = """
import json, sys
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf, struct
from packager.api.deploy import BatchAnswers
settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "300"}
builder = SparkSession.builder.master("local[2]")
for name, value in settings.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
rows, answers = session.read.parquet(sys.argv[1]).repartition(4), BatchAnswers(sys.argv[2])
schema = "id long, age double, count long, town string, answer string, error string"
mapped = sorted([row.id, row.answer, row.error] for row in rows.mapInPandas(answers.map_batches, schema).collect())
answer = pandas_udf(lambda batch: answers(batch)["answer"], "string")
columns = rows.withColumn("answer", answer(struct("age", "count", "town")))
print(json.dumps([mapped, sorted([row.id, row.answer] for row in columns.collect())]))
session.stop()
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers and texts; every seventh count is missing, which the model does not take."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    ids = range(ROWS)
    counts = [None if number % 7 == 3 else number % 5 for number in ids]
    columns = {"id": [*ids], "age": [number / 8 for number in ids], "count": counts, "town": [f"é{n}" for n in ids]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.fixture(scope="module")
def expected(site: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The answers of `packager run` by row."""
    out = tmp_path_factory.mktemp("expected") / "out.parquet"
    assert run(site, rows, "-o", out)["refused"] == len(range(3, ROWS, 7))
    found = pyarrow.parquet.read_table(out)
    answers = [json.dumps(answer, ensure_ascii=False) for answer in found["answer"].to_pylist()]
    return dict(zip(found["id"].to_pylist(), answers, strict=True))


def said(script: str, *arguments: Path) -> Any:
    """Return what a script of a platform prints, apart from the network."""
    python = environments.python_with(*PACKAGES)
    words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", python, "-c", script, *arguments]
    more = {"PYTHONPATH": str(HERE.parents[1]), "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment = {**os.environ, **more, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found: list[Any], expected: dict[int, str]) -> None:
    assert [row[0] for row in found] == [*range(ROWS)]
    assert {row[0]: row[1] for row in found if row[1] is not None} == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_ray_data_maps_batches(site: Path, rows: Path, expected: dict[int, str]) -> None:
    tool("ip")
    found = said(RAY, rows, site)
    check(found, expected)
    assert all("`count`" in row[2] for row in found if row[1] is None)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_spark_maps_data_frames_and_columns(site: Path, rows: Path, expected: dict[int, str]) -> None:
    tool("ip")
    tool("java")
    mapped, columns = said(SPARK, rows, site)
    check(mapped, expected)
    assert all("`count`" in row[2] for row in mapped if row[1] is None)
    check(columns, expected)
