# SPDX-License-Identifier: Apache-2.0
"""A bundle as a model of MLflow: a directory that `mlflow models serve`, `load_model` and `spark_udf` take.

    MLmodel            flavours, signature, and which bundle it is
    bundle/…           the files of the bundle that are opened: the ONNX flavour reads the graph there
    code/NAME/…        the reader of requests and the session of `packager serve`, and MLflow's loader before them
    serve.json         the interface that it keeps to
    deployment.json    which bundle, which knobs, and the digest of every file, checked before one is opened

The package below `code/` has the bundle's digest in its name: models of several releases load into one process, also
one in which packager itself is installed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence

from packager import canonical
from packager.bundle.bundle import CARD, CONTRACT, RECORD, SBOM, Bundle
from packager.canonical import JSON
from packager.contract.contract import Contract, Port
from packager.deploy import server_files
from packager.deploy.renderers import _deployment, _program
from packager.deploy.renderers._deployment import Rendered
from packager.errors import UsageError
from packager.formats.wheel_locks import INDEX, PYLOCK
from packager.knobs import catalogue
from packager.knobs.knobs import Resolved
from packager.server.pipeline import document
from packager.server.pipeline.document import Document
from packager.server.pipeline.parts import MEMBERS

ABOUT = "a model of MLflow: `mlflow models serve`, `load_model`, `spark_udf`"
DEFAULTS: Mapping[str, str] = {}
OPTIONS = (_deployment.TARGET,)
_MLFLOW = "3.17.2"  # what was run
_RUNTIME = "onnxruntime"


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the files of the model's directory. Raises UsageError where nothing in the bundle runs in it."""
    server_files.refuse_texts(bundle, "MLflow")
    contract = bundle.contract
    target = server_files.choose_target(contract, options["target"] or None)
    runtime, device = contract.targets[target].target.runtime, contract.targets[target].target.device
    if runtime != _RUNTIME:
        raise UsageError(
            f"`{target}` is for {runtime}, which a model of MLflow does not run", hint="choose another with --target"
        )
    kept = {CONTRACT, SBOM, RECORD, *(path for path, _ in bundle.tree if path.startswith(f"{CARD}."))}
    paths = {*server_files.list_artefact(bundle, target), *server_files.list_pipeline(bundle)}
    paths |= {path for path in kept if bundle.tree.get(path)}
    copied = _deployment.select_blobs(bundle, {f"bundle/{path}": path for path in sorted(paths)})
    package = _program.name_package(bundle)
    config = canonical.load(server_files.build_config(bundle, target), limit=1 << 20)
    config.pop("reference", None)
    own = _program.list_program(package, runtime, "mlflow/model.py", "code")
    program = {"serve.json": canonical.dump(config), **own}
    made = {
        **program,
        "MLmodel": _deployment.yaml_text(_model(bundle, contract, target, device, package)),
        **_environment(bundle, _python(bundle)),
        _deployment.RECORD: _deployment.build_record("mlflow", bundle, values, options, copied, program),
    }
    steps = (
        "mlflow models serve --model-uri OUT --env-manager virtualenv --port 5001",
        "python -c 'import mlflow; print(mlflow.pyfunc.load_model(\"OUT\").metadata.signature)'",
    )
    return Rendered(made, copied, steps)


def _model(bundle: Bundle, contract: Contract, target: str, device: str, package: str) -> JSON:
    """Return `MLmodel` as MLflow writes it, but for the time, which no bundle has."""
    digest = bundle.digest.removeprefix("sha256:")
    providers = ["CPUExecutionProvider"] if device == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    artefact = f"bundle/{contract.targets[target].path}"
    return {
        "flavors": {
            "onnx": {"code": None, "data": artefact, "onnx_version": "1.18.0", "providers": providers},
            "python_function": {
                "code": "code",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": f"{package}.model",
                "python_version": _python(bundle),
            },
        },
        "metadata": {
            "packager": {"bundle": bundle.digest, "name": bundle.name, "version": bundle.version, "target": target}
        },
        "mlflow_version": _MLFLOW,
        "model_size_bytes": sum(blob.size for _, blob in bundle.tree),
        "model_uuid": digest[:32],
        "signature": _signature(contract, _pipeline(bundle)),
        "utc_time_created": "1980-01-01 00:00:00.000000",
    }


def _pipeline(bundle: Bundle) -> Document | None:
    """Return the document of the pipeline; None for a bundle that takes tensors."""
    named = bundle.contract.pipeline
    if named is None:
        return None
    try:
        return document.parse(bundle.read(named.path))
    except ValueError as error:
        raise UsageError(f"the pipeline of `{bundle.name}` cannot be read: {error}") from None


_COLUMNS = {"bool": "boolean", "string": "string", "float32": "double", "float64": "double", "float16": "double"}
_COLUMNS |= dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"), "long")
"""Types of columns: as wide as data frames and JSON have them; the loader narrows them where that loses nothing else
than digits of a float."""
_ANSWERS = {"bool": "boolean", "string": "string", "float16": "float", "float32": "float", "float64": "double"}
_ANSWERS |= dict.fromkeys(("int8", "uint8", "int16", "uint16", "int32"), "integer")
_ANSWERS |= dict.fromkeys(("uint32", "int64"), "long")


def _signature(contract: Contract, pipeline: Document | None) -> JSON:
    if pipeline is not None:
        inputs, outputs = _raw_columns(pipeline)
    elif catalogue.find_batch(contract.document) is not None:
        inputs, outputs = _inputs(contract.inputs), [_output(port) for port in contract.outputs]
    else:
        inputs, outputs = ([_tensor(port) for port in ports] for ports in (contract.inputs, contract.outputs))
    return {"inputs": _dumped(inputs), "outputs": _dumped(outputs), "params": None}


def _raw_columns(about: Document) -> tuple[list[JSON], list[JSON]]:
    kind = "string" if about.text else "binary"
    inputs: list[JSON] = [_column(name, kind) for name in about.columns]
    inputs += [{**_column(name, "string"), "required": False} for name in about.optional]
    members = {"embedding": "float32"} if about.task == "sentence-embedding" else MEMBERS[about.task]
    outputs = [_array(_column(name, "array"), _ANSWERS[dtype], 1) for name, dtype in members.items()]
    return inputs, outputs


def _column(name: str, kind: str) -> dict[str, JSON]:
    return {"type": kind, "name": name, "required": True}


def _array(column: dict[str, JSON], item: str, depth: int) -> dict[str, JSON]:
    """Return a column whose cells are lists, nested to a depth."""
    found: dict[str, JSON] = {"type": item}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return {**column, **found}


def _inputs(ports: Sequence[Port]) -> list[JSON]:
    """Return columns where every input is one value per row, else tensors: MLflow has no mixture."""
    if any(port.shape[1:] not in ((), (1,)) for port in ports):
        return [_tensor(port) for port in ports]
    return [_column(port.name, _found(_COLUMNS, port)) for port in ports]


def _tensor(port: Port) -> JSON:
    if port.dtype == "bfloat16":
        raise _unknown(port)
    dtype = "object" if port.dtype == "string" else port.dtype
    shape = [size if isinstance(size, int) else -1 for size in port.shape]
    return {"name": port.name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


def _output(port: Port) -> JSON:
    return _array(_column(port.name, "array"), _found(_ANSWERS, port), len(port.shape) - 1)


def _found(types: Mapping[str, str], port: Port) -> str:
    if port.dtype not in types:
        raise _unknown(port)
    return types[port.dtype]


def _unknown(port: Port) -> UsageError:
    return UsageError(
        f"`{port.name}` is {port.dtype}, which MLflow's signatures do not have", hint="serve it with `packager serve`"
    )


def _dumped(value: JSON) -> str:
    return canonical.dump(value).decode()


def _python(bundle: Bundle) -> str:
    """Return the oldest Python that the bundle's lock is for."""
    path = f"deps/{_RUNTIME}/{PYLOCK}"
    names: Mapping[str, JSON] = {}
    if bundle.tree.get(path) is not None:
        names = tomllib.loads(bundle.read(path).decode())["tool"]["packager"]["platforms"]
    minors = [int(minor) for name in names for minor in re.findall(r"-cp3(\d+)$", name)]
    return f"3.{min(minors, default=11)}"


def _environment(bundle: Bundle, python: str) -> dict[str, bytes]:
    """Return the three files by which MLflow makes an environment: the pins of the lock and MLflow."""
    path = f"deps/{_RUNTIME}/{INDEX}"
    if bundle.tree.get(path) is None:
        raise UsageError(
            f"`{bundle.name}` has no lock for {_RUNTIME}", hint="build the bundle with `packager lock` first"
        )
    pins = re.findall(r"^([A-Za-z0-9][^\\\n]*==[^\\\n]*?)\s*\\?$", bundle.read(path).decode(), re.MULTILINE)
    lines = [*pins, f"mlflow=={_MLFLOW}"]
    conda = {"channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": lines}]}
    build = ["pip", "setuptools", "wheel"]
    environment = {"python": python, "build_dependencies": build, "dependencies": ["-r requirements.txt"]}
    return {
        "requirements.txt": "".join(f"{line}\n" for line in lines).encode(),
        "python_env.yaml": _deployment.yaml_text(environment),
        "conda.yaml": _deployment.yaml_text(conda),
    }
