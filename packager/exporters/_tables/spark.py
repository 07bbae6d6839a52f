# SPDX-License-Identifier: Apache-2.0
"""A fitted Spark ML pipeline as a source. Runs in the worker only: a local session, one thread, loopback alone."""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import MissingToolError, StepError
from packager.exporters import Arrays, ExportOptions, Feeds, Interface
from packager.exporters._files import mlflow
from packager.exporters._tables import converted, ranges
from packager.exporters._tables import table as _table

TOOLCHAIN: tuple[str, ...] = (
    "pyspark",
    "onnxmltools",
    "skl2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
    "pandas",
    "protobuf",
)
EXTRA = "spark"

_STAGES = re.compile(r"(org\.apache\.spark|pyspark)\.ml\.[\w.]+")
_ROW = "packager_row"
_NEWEST = 15  # the newest opset of the converters
_TEXT = ("StringIndexerModel",)  # stages whose inputs are text unless the recipe says otherwise
_TREES = re.compile(r"DecisionTree|RandomForest|GBT")
_OUTPUTS = ("prediction", "probability")
_SPARK_TYPES = {
    "float64": "double",
    "float32": "float",
    "int64": "bigint",
    "int32": "int",
    "object": "string",
    "bool": "boolean",
}
_OTHERWISE = "use stages that onnxmltools converts (indexers, encoders, assemblers, scalers, linear models)"
_DECLARE = "log the model with a signature, or name the columns under `inputs` with their types"


def open_pipeline(source: Path, folder: Path, options: ExportOptions) -> Pipeline:
    """Open a pipeline. Raises StepError for classes from elsewhere, trees, and columns of unknown names."""
    stages = _described(folder)
    for stage in stages:
        name = str(stage.get("class"))
        if not _STAGES.fullmatch(name):
            raise StepError(f"the pipeline needs `{name:.120}`, which is not one of Spark's stages", hint=_OTHERWISE)
        if _TREES.search(name):
            raise StepError(
                f"`{name.rpartition('.')[2]}` splits on binary64 thresholds, which the converter rounds to float32",
                hint="train the trees with XGBoost, LightGBM or scikit-learn, whose thresholds are kept exactly",
            )
    session = _session()
    model = _table.explain_failure(
        "the pipeline cannot be opened by Spark",
        lambda: _ml().PipelineModel.load(folder.resolve().as_uri()),
        "save it again with the locked version of Spark",
    )
    table = _columns(source, model, options)
    interface = options.interface(table.ports, {}, unfix=_table.UNFIX)
    return Pipeline(session, model, table, interface, options.outputs, options.seed)


def _described(folder: Path) -> list[Mapping[str, JSON]]:
    """Return what every stage says about itself, read without Spark."""
    found = []
    for path in sorted(folder.rglob("part-*")):
        if path.parent.name == "metadata":
            try:
                found += [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
            except ValueError as error:
                raise StepError(f"`{path.name}` of the pipeline is not JSON: {error}") from error
    return found


def _ml() -> Any:
    try:
        return importlib.import_module("pyspark.ml")
    except ImportError:
        raise MissingToolError("pyspark", EXTRA) from None


def _session() -> Any:
    _ml()
    # Java looks for its control group, of which the worker sees a part only, and gives up
    os.environ.update(  # noqa: TID251 - read by Spark and Java, which are separate processes
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_LOCAL_HOSTNAME="localhost",
        JAVA_TOOL_OPTIONS=f"-XX:-UseContainerSupport -Djava.io.tmpdir={Path.home()}",
    )
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[1]")
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.default.parallelism": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.warehouse.dir": str(Path.home() / "warehouse"),
        "spark.driver.memory": "2g",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = _table.explain_failure(
        "Spark does not start", builder.getOrCreate, "install a Java runtime (`apt-get install default-jre-headless`)"
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def _columns(source: Path, model: Any, options: ExportOptions) -> _table.Table:
    """Return the columns that no stage makes, with the types of the signature or the recipe."""
    made: set[str] = set()
    needed: dict[str, str] = {}
    for stage in model.stages:
        for name in _param(stage, "inputCol", "inputCols", "featuresCol"):
            if name not in made:
                needed.setdefault(name, "string" if type(stage).__name__ in _TEXT else "float32")
        made |= set(_param(stage, "outputCol", "outputCols", "predictionCol", "probabilityCol", "rawPredictionCol"))
    if "features" in needed:
        raise StepError("the pipeline takes a vector column `features`", hint="let it begin with a `VectorAssembler`")
    stated = {port.name: port.dtype for port in (*(options.inputs or ()), *options.notes) if port.dtype}
    signed = {column.name: column.dtype for column in mlflow.read_columns(source)}
    if signed and not set(needed) <= set(signed):
        missing = sorted(set(needed) - set(signed))[0]
        raise StepError(f"the signature lacks the column `{missing}`, which the pipeline reads", hint=_DECLARE)
    kinds = {name: stated.get(name, kind) for name, kind in needed.items()}
    types = {"string": "object", "float32": "float64"}
    listed = [(name, kind, types.get(kind, kind)) for name, kind in kinds.items()]
    if signed:
        listed = [(name, *_table.dtypes(mlflow.Column(name, signed[name]))) for name in needed]
    return _table.frame(listed, options)


def _param(stage: Any, *names: str) -> list[str]:
    """Return the values of the parameters that a stage has and that are set."""
    found: list[str] = []
    for name in names:
        if stage.hasParam(name) and stage.isDefined(name):
            value = stage.getOrDefault(name)
            found += [value] if isinstance(value, str) else list(value)
    return found


def _as_float(model: Any, name: str) -> None:
    """Make an output a float32: a prediction of Spark's is a double, and the converters write some as integers."""
    onnx = importlib.import_module("onnx")
    value = next(value for value in model.graph.output if value.name == name)
    if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        return
    for node in model.graph.node:
        node.input[:] = [f"{name}_made" if item == name else item for item in node.input]
        node.output[:] = [f"{name}_made" if item == name else item for item in node.output]
    model.graph.node.append(onnx.helper.make_node("Cast", [f"{name}_made"], [name], to=onnx.TensorProto.FLOAT))
    value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An opened pipeline as a source: `prediction`, and `probability` where there is one."""

    session: Any
    model: Any
    table: _table.Table
    interface: Interface
    outputs: tuple[str, ...] = ()
    seed: int = 0

    def _names(self) -> list[str]:
        last = self.model.stages[-1]
        return [name for name in _OUTPUTS if last.hasParam(f"{name}Col")]

    def to_onnx(self, opset: int) -> Any:
        try:
            tools = importlib.import_module("onnxmltools")
            types = importlib.import_module("onnxmltools.convert.common.data_types")
        except ImportError:
            raise MissingToolError("onnxmltools", EXTRA) from None
        kinds = [
            (
                port.name,
                types.StringTensorType([None, 1]) if port.dtype == "string" else types.FloatTensorType([None, 1]),
            )
            for port in self.interface.inputs
        ]

        def attempt() -> Any:
            return tools.convert_sparkml(
                self.model, "model", kinds, target_opset=min(opset, _NEWEST), spark_session=self.session
            )

        model = _table.explain_failure("the pipeline has no ONNX form", attempt, _OTHERWISE)
        self._keep_outputs(model)
        self._keep_unseen(model)
        converted.narrow_inputs(model, self.interface.inputs)
        converted.finish(model, self.interface.inputs, self.outputs or self._names())
        return model

    def _keep_outputs(self, model: Any) -> None:
        """Keep the answers, of all columns that Spark adds; a graph gives them under the names of the columns."""
        last = self.model.stages[-1]
        wanted = [str(last.getOrDefault(f"{name}Col")) for name in self._names()]
        made = {value.name: value for value in model.graph.output}
        lost = [name for name in wanted if name not in made]
        if lost:
            raise StepError(f"the graph lacks the column `{lost[0]}`", hint=_OTHERWISE)
        kept = [type(made[name]).FromString(made[name].SerializeToString()) for name in wanted]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        _as_float(model, kept[0].name)

    def _keep_unseen(self, model: Any) -> None:
        """Give words that an indexer has not seen the position behind all others, where it keeps them; no one else may.

        The converter leaves them at -1, which the encoder behind it refuses.
        """
        helper = importlib.import_module("onnx.helper")
        keeping = [
            stage
            for stage in self.model.stages
            if type(stage).__name__ in _TEXT and stage.getOrDefault("handleInvalid") == "keep"
        ]
        known = {tuple(words) for stage in keeping for words in stage.labelsArray}
        for node in model.graph.node:
            stated = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            words = tuple(word.decode() for word in stated.get("keys_strings", stated.get("classes_strings", ())))
            if node.op_type == "LabelEncoder" and words in known:
                kept = [item for item in node.attribute if item.name != "default_int64"]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("default_int64", len(words))])

    def run(self, feeds: Feeds) -> Arrays:
        numpy = importlib.import_module("numpy")
        last = self.model.stages[-1]
        columns = [str(last.getOrDefault(f"{name}Col")) for name in self._names()]
        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            given = self._given(feeds, Path(folder) / "rows.json")
            answers = self.model.transform(given).select(_ROW, *columns).collect()
        count = len(feeds[self.table.ports[0].name])
        answers = sorted(answers, key=lambda row: row[0])
        if [row[0] for row in answers] != list(range(count)):
            raise ValueError(f"Spark answered {len(answers)} of {count} rows")
        found = [numpy.array([row[1] for row in answers], "float32")]
        if len(columns) > 1:
            found.append(numpy.array([row[2].toArray() for row in answers], "float32"))
        return found

    def _given(self, feeds: Feeds, path: Path) -> Any:
        """Return the inputs as a data frame; they go through a file, because Spark would start Python for a list."""
        names = [port.name for port in self.table.ports]
        values = [
            feeds[name].astype(kind).reshape(-1).tolist() for name, kind in zip(names, self.table.trained, strict=True)
        ]
        rows = [
            {_ROW: number, **dict(zip(names, row, strict=True))} for number, row in enumerate(zip(*values, strict=True))
        ]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        listed = [
            (_ROW, "bigint"),
            *((name, _SPARK_TYPES[kind]) for name, kind in zip(names, self.table.trained, strict=True)),
        ]
        schema = ", ".join(f"`{name}` {kind}" for name, kind in listed)
        return self.session.read.json(path.as_uri(), schema=schema, mode="FAILFAST")

    def samples(self) -> Mapping[str, Any]:
        wanted = [self._known(port.name) for port in self.table.ports]
        return ranges.draw_rows(wanted, self.table, self.run, self.seed)

    def _known(self, column: str) -> list[Any]:
        """Return the words that an indexer knows of a column."""
        for stage in self.model.stages:
            names = _param(stage, "inputCol", "inputCols")
            if type(stage).__name__ in _TEXT and column in names:
                return list(stage.labelsArray[names.index(column)])
        return []

    def extra_files(self) -> Mapping[str, Path]:
        return {}
