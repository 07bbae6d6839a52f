# SPDX-License-Identifier: Apache-2.0
"""Ways in for raw rows: each answers the rows of a pipeline one at a time, or raises with what the way says to them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas
import tritonclient.grpc
import tritonclient.http
import yaml
from packaging.utils import parse_wheel_filename
from tritonclient.utils import InferenceServerException

from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy import install, server_files
from packager.deploy.triton.render import render_triton
from packager.deploy.triton.repository import Directory
from packager.files import make_staging
from packager.formats import wheel_locks
from packager.formats.wheel_locks import Wheel
from packager.knobs import knobs
from packager.server.pipeline.document import digest_of
from packager.transport import copy
from tests.matrix.raw_sources import Raw
from tests.support import bentos_served, clean_debian, mlservers
from tests.support.containers import Engine, inside
from tests.support.deployments import PLATFORM, WHEEL, rendered, wheel
from tests.support.environments import CACHE
from tests.support.raw_client import Client
from tests.support.triton_servers import free_ports, tritonserver
from tests.unit.deploy.test_mlflow import TARGET, bundle_of
from tests.unit.pipelines.test_run import run
from tests.unit.pipelines.test_ways import plain

PINS = ("granian", "numpy", "onnxruntime", "orjson", "pillow", "prometheus-client", "tokenizers", "uvloop")
NAME = "tiny"
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "string": "BYTES"}
TRITON = {"triton": {"versions": ">=23.07", "loads": ">=23.07"}}


_ASK = """
import json, sys, urllib.error, urllib.request
found = []
for body in json.load(sys.stdin):
    address, fields = "http://127.0.0.1:8000/predict", {"content-type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), fields)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found.append((answer.status, json.load(answer)))
    except urllib.error.HTTPError as error:
        found.append((error.code, json.load(error)))
print(json.dumps(found))
"""


class Refused(Exception):
    """What a way says to a raw row."""


def bundle(raw: Raw, folder: Path, *, carried: bool = False, wheels: Path | None = None) -> Bundle:
    """Assemble a bundle of a pipeline, which carries a wheel, or those in a directory, or locks what a server needs."""
    graph = raw.made.graph / "model"
    files = {f"model/{path.name}": path.read_bytes() for path in graph.iterdir() if path.is_file()}
    outputs = {port["name"]: {"atol": 1e-5, "rtol": 1e-4} for port in raw.made.interface["outputs"]}
    target = {**TARGET, "tolerance": outputs}
    more: dict[str, Any] = {
        "format": 2,
        "values": {},
        "runs-on": {"onnxruntime": {"versions": ">=1.17", "loads": ">=1.15.0"}, **TRITON},
        "targets": {"onnxruntime-cpu-fp32": target, "triton-cpu-fp32": {**target, "runtime": "triton"}},
    }
    if raw.spec is not None:
        parts = folder / "pipeline"
        files |= {f"pipeline/{path.name}": path.read_bytes() for path in parts.iterdir()}
        more["pipeline"] = {
            "task": raw.spec["task"],
            "path": "pipeline/pipeline.json",
            "digest": digest_of(files["pipeline/pipeline.json"]),
            "reference": "transformers",
            "inputs": 20,
            "largest": 0,
            "tolerance": {"atol": 1e-5, "rtol": 1e-4},
        }
    files |= _lock(carried, wheels)
    return bundle_of(
        folder / f"store-{carried}-{wheels is not None}",
        files.pop("model/model.onnx"),
        raw.made.interface,
        contract=more,
        **files,
    )


def _lock(carried: bool, wheels: Path | None) -> dict[str, bytes]:
    if wheels is not None:
        return _carried(wheels)
    data = wheel({"kleines/__init__.py": b"", "kleines-1.0.dist-info/METADATA": b"Name: kleines\n"})
    rows = [
        Wheel(name, version, f"{name}-{version}-py3-none-any.whl", "0" * 64)
        for name, version in ((name, metadata.version(name)) for name in PINS)
    ]
    if carried:
        rows = [Wheel("kleines", "1.0", WHEEL, digest_of(data).removeprefix("sha256:"))]
    texts = wheel_locks.write_lock_files({PLATFORM: rows}, (), (PLATFORM,))
    found = {f"deps/onnxruntime/{name}": text.encode() for name, text in texts.items()}
    return found | ({f"deps/onnxruntime/wheels/{WHEEL}": data} if carried else {})


def _carried(wheels: Path) -> dict[str, bytes]:
    """Return the files of a lock of every wheel in a directory, and these wheels."""
    found, rows = {}, []
    for path in sorted(wheels.glob("*.whl")):
        name, version, *_ = parse_wheel_filename(path.name)
        found[f"deps/onnxruntime/wheels/{path.name}"] = data = path.read_bytes()
        rows.append(Wheel(name, str(version), path.name, digest_of(data).removeprefix("sha256:")))
    texts = wheel_locks.write_lock_files({PLATFORM: rows}, (), (PLATFORM,))
    return found | {f"deps/onnxruntime/{name}": text.encode() for name, text in texts.items()}


def wheels_of_a_server() -> Path:
    """Return a directory with what a server installs, and what these packages need, for the images' Python."""
    place = CACHE / "raw-wheels"
    if not place.is_dir():
        pins = [f"{name}=={metadata.version(name)}" for name in PINS]
        kinds = [f"--platform=manylinux{kind}_x86_64" for kind in ("_2_28", "_2_27", "_2_17", "2014")]
        with make_staging(place) as fresh:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--only-binary=:all:",
                "--python-version=3.11",
            ]
            subprocess.run([*command, *kinds, "--dest", fresh, *pins], check=True)
            fresh.rename(place)
    return place


@contextmanager
def started(command: list[Any], folder: Path) -> Iterator[Client]:
    """Run a server of ours until the block ends; `--port` is added to the command."""
    (port,) = free_ports(1)
    log = folder / f"server-{port}.log"
    with log.open("w") as sink:
        process = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=sink, stderr=sink, cwd=folder)
    client = Client(port)
    try:
        for _ in range(900):
            if process.poll() is not None:
                raise Refused(log.read_text()[-400:])
            try:
                if client.ask("/v2/health/ready")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield client
    finally:
        process.terminate()
        process.wait(60)


def _site(raw: Raw, folder: Path) -> Path:
    """Lay out what `packager install` makes, with this interpreter's environment."""
    made, release = bundle(raw, folder), folder / "site" / "releases" / "1"
    if release.exists():
        return folder / "site"
    for name, data in server_files.list_program("onnxruntime").items():
        (release / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (release / "app" / name).write_bytes(data)
    (release / "env").symlink_to(sys.prefix)
    (release / "bundle").mkdir()
    copy.write_unpacked(made, release / "bundle")
    (release / "serve.json").write_bytes(server_files.build_config(made, "onnxruntime-cpu-fp32"))
    install.write_knobs(release, knobs.resolve(knob_schema(made), made.digest, []))
    (folder / "site" / "current").symlink_to("releases/1")
    return folder / "site"


def _predicted(client: Client, row: Mapping[str, Any]) -> Any:
    status, answer = client.ask("/predict", {"rows": [plain(dict(row))]})
    if status != 200:
        raise Refused(answer["error"])
    return answer["answers"][0]


def serve(raw: Raw, folder: Path) -> list[Any]:
    """`packager serve` of an installation, `POST /predict`."""
    with started([sys.executable, "-m", "packager", "serve", _site(raw, folder)], folder) as client:
        return [_predicted(client, row) for row in raw.rows]


def protocol(raw: Raw, folder: Path) -> list[Any]:
    """`packager serve`, the Open Inference Protocol with BYTES by NVIDIA's client."""
    with started([sys.executable, "-m", "packager", "serve", _site(raw, folder)], folder) as client:
        return _inferred(raw, client.address, NAME)


def _inferred(raw: Raw, address: str, model: str) -> list[Any]:
    with tritonclient.http.InferenceServerClient(address.removeprefix("http://"), network_timeout=120) as client:
        return [_asked(client, tritonclient.http, raw, model, row) for row in raw.rows]


def _asked(client: Any, library: Any, raw: Raw, model: str, row: Mapping[str, Any]) -> Any:
    ports = {port["name"]: port for port in raw.made.interface["inputs"]} if raw.spec is None else {}
    try:
        answer = client.infer(model, [_tensor(library, name, cell, ports.get(name)) for name, cell in row.items()])
    except InferenceServerException as error:
        raise Refused(error.message()) from None
    found = answer.get_response()
    names = [item["name"] for item in found["outputs"]] if isinstance(found, dict) else [o.name for o in found.outputs]
    return _joined(raw, {name: answer.as_numpy(name)[0] for name in names})


def _tensor(library: Any, name: str, cell: Any, port: Any) -> Any:
    kind = port["dtype"] if port else "string"
    value = cell.encode() if isinstance(cell, str) else cell
    made = np.array([value], object if kind == "string" else kind).reshape([1] * len(port["shape"]) if port else [1])
    found = library.InferInput(name, list(made.shape), DATATYPES[kind])
    found.set_data_from_numpy(made)
    return found


def _joined(raw: Raw, columns: Mapping[str, Any]) -> Any:
    """Return the answer to one row from columns: a vector, or a list of records."""
    if raw.spec is None:
        return {name: np.asarray(value).tolist() for name, value in columns.items()}
    if raw.spec["task"] == "sentence-embedding":
        return np.asarray(next(iter(columns.values()))).tolist()
    if "answer" in columns:  # of answers that are no table
        return json.loads(columns["answer"])
    cells = {name: [_plain(cell) for cell in value] for name, value in columns.items()}
    return [dict(zip(cells, item, strict=True)) for item in zip(*cells.values(), strict=True)]


def _plain(cell: Any) -> Any:
    return cell.decode() if isinstance(cell, bytes) else cell.item() if hasattr(cell, "item") else cell


def batch(raw: Raw, folder: Path) -> list[Any]:
    """`packager run` over a file: JSON lines, CSV for tables."""
    source, out = folder / ("rows.jsonl" if raw.spec else "rows.csv"), folder / "answers.jsonl"
    if raw.spec:
        source.write_text("".join(json.dumps(plain(dict(row))) + "\n" for row in raw.rows))
    else:
        with source.open("w", newline="") as sink:
            writer = csv.DictWriter(sink, list(raw.rows[0]))
            writer.writeheader()
            writer.writerows(raw.rows)
    if run(_site(raw, folder), source, "-o", out)["refused"]:
        raise Refused(json.loads((folder / "answers.jsonl.refused.jsonl").read_text().splitlines()[0])["reason"])
    return [json.loads(line)["answer"] for line in out.read_text().splitlines()]


def mlflow_model(raw: Raw, folder: Path) -> list[Any]:
    """`render mlflow`, `mlflow.pyfunc.load_model`, one row of a data frame at a time."""
    out = rendered("mlflow", bundle(raw, folder), folder / "mlflow")
    before = list(sys.path)
    try:
        model = mlflow.pyfunc.load_model(str(out), suppress_warnings=True)
        found = []
        for row in raw.rows:
            answer = model.predict(pandas.DataFrame([row]))
            columns = (
                {name: answer[name][0] for name in answer.columns} if hasattr(answer, "columns") else {"": answer[0]}
            )
            found.append(_joined(raw, columns))
        return found
    finally:
        sys.path[:] = before


def bento(raw: Raw, folder: Path) -> list[Any]:
    """`render bentoml`, `bentoml build` and `serve`, `POST /predict`."""
    out = rendered("bentoml", bundle(raw, folder), folder / "bento")
    home = folder / "home"
    home.mkdir()
    with bentos_served.served(out, f"{NAME}:1.0.0", home) as (address, _):
        client = Client(int(address.rpartition(":")[2]))
        found = []
        for row in raw.rows:
            status, answer = client.ask("/predict", {"rows": [plain(dict(row))]})
            if status != 200:
                raise Refused(json.dumps(answer))
            found.append(answer[0])
        return found


def mlserver(raw: Raw, folder: Path) -> list[Any]:
    """`render mlserver`, `mlserver start`, BYTES by NVIDIA's client over gRPC: MLServer's HTTP takes JSON only."""
    out = rendered("mlserver", bundle(raw, folder), folder / "mlserver")
    with (
        mlservers.served(folder / "mlserver-home", out) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc) as client,
    ):
        return [_asked(client, tritonclient.grpc, raw, NAME, row) for row in raw.rows]


def triton(raw: Raw, folder: Path) -> list[Any]:
    """`render triton --raw` with the Python backend, a real tritonserver, BYTES by NVIDIA's client."""
    made = bundle(raw, folder)
    values = knobs.resolve(knob_schema(made), made.digest, [])
    (folder / "models").mkdir()
    render_triton(made, values, Directory(folder / "models"), "python", {}, raw=raw.spec is not None)
    (folder / "triton").mkdir()
    with tritonserver(folder / "models", folder / "triton", "--load-model", NAME, raw=True) as server:
        return _inferred(raw, server.http, NAME)


def container(raw: Raw, folder: Path) -> list[Any]:
    """`render container`, an image of buildah, podman without a network or capabilities, `POST /predict` beside it."""
    engine, tag = Engine(folder), "localhost/packager-test-raw"
    base = engine.base(clean_debian.make_root("python3", "python3-venv"))
    made = bundle(raw, folder, wheels=wheels_of_a_server())
    engine.build(rendered("container", made, folder / "container", base=base), tag)
    try:
        with engine.running(tag) as (name, pid):
            if not engine.healthy(name):
                raise Refused(engine.logs(name)[-400:])
            bodies = json.dumps([{"rows": [plain(dict(row))]} for row in raw.rows])
            asked = inside(pid, sys.executable, "-c", _ASK)
            done = subprocess.run(asked, input=bodies, capture_output=True, text=True, check=True)
    finally:
        engine.remove(tag)
    found = json.loads(done.stdout)
    if refused := [answer["error"] for status, answer in found if status != 200]:
        raise Refused(refused[0])
    return [answer["answers"][0] for _, answer in found]


def kserve(raw: Raw, folder: Path) -> list[Any]:
    """`render kubernetes`, the arguments of its InferenceService, the Open Inference Protocol as KServe speaks it."""
    made = bundle(raw, folder, carried=True)
    image = rendered("container", made, folder / "image")
    out = rendered("kubernetes", made, folder / "kubernetes")
    service, config = (
        yaml.safe_load((out / "kserve" / f"{name}.yaml").read_text()) for name in ("inferenceservice", "configmap")
    )
    (server,) = service["spec"]["predictor"]["containers"]
    found = [word.replace("$(KNOBS)", config["data"]["knobs.json"]) for word in server["args"]]
    with _entry(image, found, folder) as client:
        return _inferred(raw, client.address, NAME)


def _entry(image: Path, arguments: list[str], folder: Path) -> Any:
    start = [sys.executable, "-I", image / "server" / "start.py", image / "model" / "serve.json"]
    return started([*start, *arguments, "--host", "127.0.0.1"], folder)


WAYS: Mapping[str, Callable[[Raw, Path], list[Any]]] = {
    "/predict": serve,
    "Open Inference": protocol,
    "packager run": batch,
    "MLflow": mlflow_model,
    "container": container,
    "KServe": kserve,
    "BentoML": bento,
    "MLServer": mlserver,
    "Triton": triton,
}
"""Each way in by name: it answers the rows of a pipeline, in a directory that has it."""
