# SPDX-License-Identifier: Apache-2.0
"""A rendered model before MLflow's own loader: its answers, its signature, and every changed byte refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnxruntime
import pandas
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from onnx import TensorProto, helper, numpy_helper

from packager import canonical
from packager.deploy import mlflow_registry
from packager.errors import UsageError
from packager.formats import wheel_locks
from packager.knobs import catalogue, knobs
from packager.release import proofs
from packager.server import columns
from packager.server.errors import RequestError
from packager.server.protocol.interface import Interface
from packager.sources import Settings
from packager.store.store import Store
from tests.support import bundles
from tests.support.deployments import PLATFORM, rendered
from tests.support.mlflow_registries import client_of

TARGET = {**bundles.TARGET, **bundles.TERMS, "path": "model/model.onnx"}


def linear() -> bytes:
    """A graph that multiplies rows of four by a fixed matrix; one output has two columns, the other none."""
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0),
    ]
    fixed = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1]), "axis")]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["batch", 4]), ("y", ["batch", 2]), ("total", ["batch"]))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def ages() -> bytes:
    """A graph over two columns: whether a person of an age, in a unit, is older than ten."""
    nodes = [
        helper.make_node("Mul", ["age", "unit"], ["years"]),
        helper.make_node("Greater", ["years", "ten"], ["old"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("age", "unit")]
    out = helper.make_tensor_value_info("old", TensorProto.BOOL, ["rows"])
    graph = helper.make_graph(nodes, "g", ports, [out], [numpy_helper.from_array(np.float32(10), "ten")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def port(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def bundle_of(store: Path, graph: bytes, interface: Mapping[str, Any], **more: Any) -> Any:
    """A bundle with a graph that runs, a lock of one package, and what else a contract says."""
    outputs = {item["name"]: {"atol": 1e-5, "rtol": 1e-4} for item in interface["outputs"]}
    contract = {
        **bundles.CONTRACT_OF_TINY,
        "interface": interface,
        "targets": {"onnxruntime-cpu-fp32": {**TARGET, "tolerance": outputs}},
        **more.pop("contract", {}),
    }
    rows = [wheel_locks.Wheel("numpy", "2.0.0", "numpy-2.0.0-py3-none-any.whl", "0" * 64)]
    files: dict[str, Any] = {
        f"deps/onnxruntime/{name}": text.encode()
        for name, text in wheel_locks.write_lock_files({PLATFORM: rows}, (), (PLATFORM,)).items()
    }
    files |= {"contract.json": canonical.dump(contract), knobs.FILE: catalogue.schema_bytes(contract)}
    return bundles.make(Store(store), {**files, "model/model.onnx": graph, **more})


LINEAR = {
    "inputs": [port("x", "float32", "batch", 4)],
    "outputs": [port("y", "float32", "batch", 2), port("total", "float32", "batch")],
    "dimensions": {"batch": {"min": 1, "max": 8}},
}
AGES = {
    "inputs": [port("age", "float32", "rows"), port("unit", "float32", "rows")],
    "outputs": [port("old", "bool", "rows")],
    "dimensions": {"rows": {"min": 1, "max": 8}},
}


@pytest.fixture(autouse=True)
def own_path() -> Iterator[None]:
    """Leave the search path and the modules as they were: MLflow adds the model's code to both."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    return rendered("mlflow", bundle_of(folder / "store", linear(), LINEAR), folder / "out")


def load(folder: Path) -> Any:
    return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)


def test_it_answers_as_the_graph_does(model: Path) -> None:
    rows = np.random.default_rng(3).random((20, 4), np.float32)  # more than the contract takes at once
    session = onnxruntime.InferenceSession(model / "bundle" / "model" / "model.onnx")
    expected = session.run(None, {"x": rows})
    opened = load(model)
    for given in (rows, {"x": rows}, pandas.DataFrame({"x": list(rows)})):
        found = opened.predict(given)
        assert list(found.columns) == ["y", "total"]
        np.testing.assert_array_equal(np.stack(found["y"]), expected[0])
        np.testing.assert_array_equal(found["total"], expected[1])
    threaded = mlflow.pyfunc.load_model(str(model), model_config={"threads": 2}, suppress_warnings=True)
    assert threaded.predict(rows).equals(found)
    own = mlflow.onnx.load_model(str(model))
    assert own.SerializeToString() == linear(), "the ONNX flavour has the signed graph"


def test_columns_stay_columns(tmp_path: Path) -> None:
    opened = load(rendered("mlflow", bundle_of(tmp_path / "store", ages(), AGES), tmp_path / "out"))
    table = pandas.DataFrame({"unit": [1.0, 1.0, 0.5], "age": [9.0, 11.0, 12.0], "name": ["a", "b", "c"]})
    assert opened.predict(table).tolist() == [False, True, False]
    with pytest.raises(MlflowException, match="the number of row 1 is missing"):
        opened.predict(pandas.DataFrame({"unit": [1.0, 1.0], "age": [9.0, None]}))
    with pytest.raises(MlflowException, match="missing inputs"):
        opened.predict(pandas.DataFrame({"unit": [1.0]}))


def test_its_signature_is_mlflow_s_own(model: Path, tmp_path: Path) -> None:
    found = Model.load(str(model))
    assert found.signature.inputs.input_names() == ["x"]
    assert found.signature.inputs.inputs[0].shape == (-1, 4)
    assert [str(item.type) for item in found.signature.outputs.inputs] == ["Array(float)", "DataType.float"]
    assert found.metadata["packager"]["bundle"] == json.loads((model / "deployment.json").read_text())["bundle"]
    odd = {**LINEAR, "outputs": [port("y", "uint64", "batch", 2)]}
    with pytest.raises(UsageError, match="`y` is uint64, which MLflow's signatures do not have"):
        rendered("mlflow", bundle_of(tmp_path / "store", linear(), odd), tmp_path / "out")


def test_its_code_is_its_own(model: Path) -> None:
    """No module of it asks for `packager`, which may be another release in the same process."""
    (package,) = (model / "code").iterdir()
    for path in package.rglob("*.py"):
        assert not re.search(
            r"^\s*(from|import) packager\b|[\"']packager\.(server|runtimes)", path.read_text(), re.MULTILINE
        ), path
    load(model)
    assert f"{package.name}.server.columns" in sys.modules


CHANGED = ["bundle/model/model.onnx", "bundle/contract.json", "serve.json", "code/PACKAGE/server/batch.py"]


@pytest.mark.parametrize("place", CHANGED)
def test_a_changed_byte_does_not_load(place: str, tmp_path: Path) -> None:
    graph = linear() + b"\x7a\x00" * (1 + CHANGED.index(place))  # an empty field more: another bundle, another package
    out = rendered("mlflow", bundle_of(tmp_path / "store", graph, LINEAR), tmp_path / "out")
    (package,) = (out / "code").iterdir()
    changed = out / place.replace("PACKAGE", package.name)
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(bytes(data))
    with pytest.raises(MlflowException, match=f"not loaded: .*{changed.name} is not the file of the bundle"):
        load(out)
    assert f"{package.name}.server" not in sys.modules, "nothing of it was imported"


def test_what_does_not_run_there_is_refused(tmp_path: Path) -> None:
    other = {**TARGET, "runtime": "openvino", "path": "model/model.onnx"}
    made = bundle_of(tmp_path / "store", linear(), LINEAR, contract={"targets": {"openvino-cpu-fp32": other}})
    with pytest.raises(UsageError, match="is for openvino, which a model of MLflow does not run"):
        rendered("mlflow", made, tmp_path / "out")


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        ("int32", [1.0, 2.0], [1, 2]),
        ("int32", [1.5], None),
        ("int8", [300], None),
        ("int64", [None], None),
        ("bool", [1], None),
        ("bool", [True, False], [True, False]),
        ("string", ["a", None], ["a", ""]),
        ("string", [3], None),
        ("float32", [True], None),
        ("float32", ["1"], None),
        ("float32", [1, 2], [1.0, 2.0]),
    ],
)
def test_cells_keep_their_meaning(dtype: str, given: list[Any], expected: list[Any] | None) -> None:
    """Nothing is rounded, wrapped or read as another type."""
    about = Interface.from_json({**AGES, "inputs": [port("v", dtype, "rows")]})
    for column in (given, pandas.Series(given)):
        if expected is None:
            with pytest.raises(RequestError, match="column `v`"):
                columns.arrays(about, {"v": column})
        else:
            assert columns.arrays(about, {"v": column})["v"].tolist() == expected


def sbom_of(uri: str) -> bytes:
    properties = [{"name": "packager:tree", "value": f"sha256:{'2' * 64}"}]
    source = {"bom-ref": "source", "name": uri, "type": "machine-learning-model", "properties": properties}
    about = {"component": {"type": "machine-learning-model", "name": "m", "pedigree": {"ancestors": [source]}}}
    return canonical.dump({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": about})


def test_it_is_registered_beside_its_source(tmp_path: Path) -> None:
    """In the source's experiment, under another name, once; and what the registry gives back loads and answers."""
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with client_of(tracking):
        client = mlflow.MlflowClient()
        made = client.create_experiment("made", artifact_location=str(tmp_path / "artifacts"))
        source = client.create_logged_model(made, name="digits").model_id
    made_of = bundle_of(tmp_path / "store", linear(), LINEAR, **{"sbom.cdx.json": sbom_of(f"models:/{source}")})
    out = rendered("mlflow", made_of, tmp_path / "out")
    settings = Settings(tmp_path, tracking=tracking)
    found = mlflow_registry.register(made_of, out, "digits-packaged", settings, proofs.find_origin(made_of))
    assert (found.name, found.version, found.created) == ("digits-packaged", "1", True)
    again = mlflow_registry.register(made_of, out, "digits-packaged", settings, proofs.find_origin(made_of))
    assert (again.version, again.model, again.created) == ("1", found.model, False)
    with client_of(tracking):
        client = mlflow.MlflowClient()
        version, logged = client.get_model_version("digits-packaged", "1"), client.get_logged_model(found.model)
        assert logged.experiment_id == made and logged.status == "READY"
        assert version.tags["packager.bundle"] == made_of.digest and version.tags["packager.source"].endswith(source)
        rows = np.eye(4, dtype=np.float32)
        answer = mlflow.pyfunc.load_model("models:/digits-packaged/1", suppress_warnings=True).predict(rows)
        np.testing.assert_array_equal(np.stack(answer["y"]), np.arange(8).reshape(4, 2))
    with pytest.raises(UsageError, match="is not the name of a model"):
        mlflow_registry.register(made_of, out, "a' or 'b", settings, proofs.find_origin(made_of))
    other = bundle_of(tmp_path / "store", linear() + b"\x7a\x00", LINEAR)
    with pytest.raises(UsageError, match="is not of this bundle"):
        mlflow_registry.register(other, out, "digits-packaged", settings, proofs.find_origin(other))
    (out / "serve.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no rendered model of MLflow: serve\.json"):
        mlflow_registry.register(made_of, out, "digits-packaged", settings, proofs.find_origin(made_of))
