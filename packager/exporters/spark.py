# SPDX-License-Identifier: Apache-2.0
"""Spark ML pipelines: MLflow's spark flavor, and directories that `PipelineModel.save` wrote.

A directory names classes of the JVM and holds their numbers as Parquet. Only Spark's own stages are opened; a class
from elsewhere would be code of the author. The reference is Spark itself, in a local session inside the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from packager.exporters import ExportOptions
from packager.exporters._files import mlflow
from packager.exporters._tables import spark

TOOLCHAIN: tuple[str, ...] = spark.TOOLCHAIN
EXTRA = spark.EXTRA
EXECUTES = False
BUILDS: tuple[str, ...] = ("pyspark",)  # published as source only
LOOKS_FOR = "`metadata/part-00000…` of a Spark pipeline, in MLflow's spark or at the root"


def detect(paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Return the file that describes the pipeline: inside what MLflow names, else at the root."""
    table = mlflow.read_flavor("spark", paths, read)
    if mlflow.MLMODEL in paths and table is None:
        return None
    folder = f"{table.get('model_data', 'sparkml')}/" if table else ""
    found = [path for path in paths if path.startswith(f"{folder}metadata/part-00000")]
    return found[0] if len(found) == 1 and b'"class"' in read(found[0]) else None


def load(source: Path, payload: str, options: ExportOptions) -> spark.Pipeline:
    """Open the pipeline in a separate session. Raises StepError for classes other than Spark's and unknown columns."""
    return spark.open_pipeline(source, (source / payload).parent.parent, options)
