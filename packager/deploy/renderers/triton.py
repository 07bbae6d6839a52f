# SPDX-License-Identifier: Apache-2.0
"""One bundle as a model of a Triton repository: everything is said in config.pbtxt, nothing is left to be guessed.

    <name>/config.pbtxt              serves exactly version N
    <name>/configs/<site>.pbtxt      the same with the knobs of a site, for `--model-config-name=<site>`
    <name>/warmup/<N>-…              inputs of the smallest reference vectors, as raw tensors
    <name>/<N>/                      the artefact, deployment.json, and model.py where the Python backend runs it;
                                     what it has to take rows as people have them is in `_raw_triton`

Two backends: `native` are the ONNX Runtime and TensorRT backends of NVIDIA's images (engines of several GPUs side by
side, chosen by compute capability); `python` runs ONNX Runtime in the Python backend, for hosts without them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract.contract import Contract, Port, Terms
from packager.deploy import server_files
from packager.deploy.renderers import _raw_triton
from packager.deploy.renderers._modelconfig import (
    Field,
    Rendered,
    Word,
    build_map,
    build_tensor,
    config_text,
    triton_name,
)
from packager.deploy.renderers._raw_triton import RawModel
from packager.deploy.triton.repository import CONFIG, RECORD
from packager.errors import MalformedError, UsageError
from packager.formats import safetensors
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Resolved
from packager.runtime import load_runtime
from packager.types import Blob

Backend: TypeAlias = Literal["native", "python"]
ABOUT = "a model of a Triton model repository"
_RUNTIME = "triton"
_WARMUPS = 3


@dataclass(frozen=True, slots=True)
class _Artefact:
    """What the server opens: Triton's `backend`, the `default` file that it loads, and all `files`.

    `files` are paths in the bundle by their names beside `model.py`, `graph` is the ONNX file among them (empty for
    engines), `engines` are names by compute capability (`8.6`), `targets` those of the contract that are here.
    """

    backend: str
    default: str
    graph: str
    files: Mapping[str, str]
    engines: Mapping[str, str]
    targets: tuple[str, ...]


def build_record(bundle: Bundle, values: Resolved, backend: Backend, *, raw: bool = False) -> JSON:
    """Return what identifies a deployed version; two equal records are the same deployment."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "bundle": bundle.digest,
        "knobs": values.digest,
        "backend": backend,
        **({"raw": True} if raw else {}),
    }


def render(
    bundle: Bundle,
    values: Resolved,
    number: int,
    backend: Backend,
    sites: Mapping[str, Resolved],
    *,
    raw: bool = False,
) -> Rendered:
    """Return the files of version `number` with its own configuration, and one more for each of `sites`.

    With `raw` it takes rows as people have them. Raises UsageError if the bundle does not promise Triton, or has
    nothing for the backend.
    """
    server_files.refuse_texts(bundle, "Triton")
    contract = bundle.contract
    if _RUNTIME not in contract.runs_on:
        raise UsageError(
            f"`{bundle.name}` makes no promise for Triton",
            hint='add `triton: ">=24.04"` under `runs-on` and build it; its signer can add the promise to the '
            "bundle as it is, with `packager promise`",
        )
    if lacking := sorted({"triton.instances", "triton.warmup"} - set(values.values)):
        raise MalformedError(f"`{bundle.name}` promises Triton and lacks the knob `{lacking[0]}`", subject=knobs.FILE)
    artefact = _artefact(bundle, contract, backend)
    rows = _raw_triton.build_raw(bundle, backend) if raw else None
    warm = _warmups(bundle) if rows is None else {}
    named = {**artefact.files, **(rows.files if rows else {})}
    files = {f"{number}/{name}": (path, _blob(bundle, path)) for name, path in named.items()}
    hashes = {name: _blob(bundle, path).digest for name, path in named.items()}
    about = {
        **build_record(bundle, values, backend, raw=raw),
        **(rows.record if rows else {}),
        "targets": list(artefact.targets),
        "files": hashes,
        "interface": contract.document["interface"],
        "onnxruntime": _floor(contract),
    }
    if rows is not None:
        artefact = replace(artefact, default=_raw_triton.SCRIPT)
    own = config_text(_config(bundle, contract, values, artefact, number, warm, rows))
    made = {f"{number}/{RECORD}": canonical.dump(about), f"{number}/{CONFIG}": own, CONFIG: own}
    made |= {f"warmup/{number}-{name}": data for row in warm.values() for name, data in row.data.items()}
    for site, found in sites.items():
        text = config_text(_config(bundle, contract, found, artefact, number, warm, rows))
        made[f"configs/{_site(site)}.pbtxt"] = text
    if backend == "python":
        made[f"{number}/model.py"] = resources.files("packager.templates").joinpath("triton/model.py").read_bytes()
    made |= {f"{number}/{name}": data for name, data in (rows.made if rows else {}).items()}
    return Rendered(bundle.name, made, files, about)


def _site(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise UsageError(f"`{name:.60}` is no name of a site", hint="lower-case letters, digits, `-` and `_`")
    return name


def _blob(bundle: Bundle, path: str) -> Blob:
    blob = bundle.tree.get(path)
    if blob is None:
        raise UsageError(f"`{path}` is not in the bundle")
    return blob


def _floor(contract: Contract) -> str:
    """Return the oldest ONNX Runtime that the promise for Triton covers."""
    needed = load_runtime(_RUNTIME).requirements(contract.runs_on[_RUNTIME].versions)
    return next(str(line).partition(">=")[2] for line in needed if line.startswith("onnxruntime"))


# which file is opened


def _artefact(bundle: Bundle, contract: Contract, backend: Backend) -> _Artefact:
    targets = contract.targets
    engines = {name: terms for name, terms in sorted(targets.items()) if terms.target.runtime == "tensorrt"}
    if backend == "native" and engines:
        return _engines(bundle, engines)
    graphs = [
        name
        for name, terms in targets.items()
        if terms.target.runtime in (_RUNTIME, "onnxruntime") and terms.target.device == "cpu"
    ]
    if not graphs:
        raise UsageError(f"`{bundle.name}` has no target that Triton's `{backend}` backend opens")

    def rank(name: str) -> tuple[bool, str, str]:
        """Put fp32 first, and of one precision `onnxruntime` before `triton`."""
        target = targets[name].target
        return target.precision != "fp32", target.runtime, name

    chosen = min(graphs, key=rank)
    path = PurePosixPath(targets[chosen].path)
    files = {  # the graph and its weights: the graph names them relative to itself
        str(PurePosixPath(other).relative_to(path.parent)): other
        for other, _ in bundle.tree
        if PurePosixPath(other).is_relative_to(path.parent)
    }
    return _Artefact(
        backend="onnxruntime" if backend == "native" else "python",
        default=path.name if backend == "native" else "model.py",
        graph=path.name,
        files=files,
        engines={},
        targets=(chosen,),
    )


def _engines(bundle: Bundle, targets: Mapping[str, Terms]) -> _Artefact:
    files, by_capability = {}, {}
    for terms in targets.values():
        capability = re.fullmatch(r"sm_([0-9]+)([0-9])", terms.target.device)
        if capability is None:
            continue
        name = f"{terms.target.device}.plan"
        files[name] = terms.path
        by_capability[f"{capability[1]}.{capability[2]}"] = name
    if not files:
        raise UsageError(f"`{bundle.name}` has no TensorRT engine for one compute capability")
    return _Artefact(
        backend="tensorrt",
        default=next(iter(files)),
        graph="",
        files=files,
        engines=by_capability,
        targets=tuple(targets),
    )


# config.pbtxt


def _config(
    bundle: Bundle,
    contract: Contract,
    values: Resolved,
    artefact: _Artefact,
    number: int,
    warm: Mapping[str, _Warmup],
    raw: RawModel | None,
) -> dict[str, Field]:
    found = values.values
    batched = count_rows(contract) if raw is None else 0
    most = min(found.get(catalogue.BATCH) or batched, batched) if batched else 0
    gpu = artefact.backend == "tensorrt"
    group: dict[str, Field] = {"count": found["triton.instances"], "kind": Word("KIND_GPU" if gpu else "KIND_CPU")}
    if gpu and found.get("triton.devices"):
        group["gpus"] = list(found["triton.devices"])
    tags = {"bundle": bundle.digest, "bundle_version": bundle.version, "knobs": values.digest}
    tags |= {f"site_{name}": text for name, text in found.get("metrics.labels", {}).items()}
    fields: dict[str, Field] = {
        "name": bundle.name,
        "backend": artefact.backend,
        "default_model_filename": artefact.default,
        "max_batch_size": most,
        "input": raw.inputs() if raw else [_port(port, bool(batched)) for port in contract.inputs],
        "output": raw.outputs() if raw else [_port(port, bool(batched)) for port in contract.outputs],
        "version_policy": {"specific": {"versions": [number]}},
        "instance_group": [group],
        "cc_model_filenames": build_map(artefact.engines),
        "metric_tags": build_map(tags),
        "parameters": build_map(_parameters(found, artefact), lambda text: {"string_value": text}),
        "model_warmup": [
            row.to_field(name, number, bool(batched))
            for name, row in warm.items()
            if found["triton.warmup"] and (not batched or row.rows <= most)
        ],
    }
    return fields | (_batching(found) if batched else {})


def count_rows(contract: Contract) -> int:
    """Return the largest batch, 0 where Triton must not add the dimension itself: it needs another one beside it."""
    found = catalogue.find_batch(contract.document)
    if found is None or any(len(port.shape) < 2 for port in (*contract.inputs, *contract.outputs)):
        return 0
    _, _, largest = found
    return largest


def _parameters(values: Mapping[str, JSON], artefact: _Artefact) -> dict[str, str]:
    threads = str(values["triton.threads"])
    if artefact.backend == "onnxruntime":
        return {"intra_op_thread_count": threads, "inter_op_thread_count": "1"}
    return {"threads": threads, "graph": artefact.graph} if artefact.backend == "python" else {}


def _batching(values: Mapping[str, JSON]) -> dict[str, Field]:
    policy: dict[str, Field] = {"timeout_action": Word("REJECT"), "allow_timeout_override": True}
    if values["triton.timeout"]:
        policy["default_timeout_microseconds"] = values["triton.timeout"]
    if values["triton.max_queue"]:
        policy["max_queue_size"] = values["triton.max_queue"]
    delay = values["triton.queue_delay"]
    return {"dynamic_batching": {"max_queue_delay_microseconds": delay, "default_queue_policy": policy}}


def _port(port: Port, batched: bool) -> dict[str, Field]:
    """Return an input or output; one without dimensions is sent as one element."""
    sizes = port.shape[1 if batched else 0 :]
    reshaped: dict[str, Field] = {} if sizes else {"reshape": {"shape": list[Field]()}}
    return build_tensor(port.name, port.dtype, port.shape, batched) | reshaped


# warm-up


@dataclass(frozen=True, slots=True)
class _Warmup:
    """One case of the vectors: dtype, shape and file of every input, and the bytes of those files."""

    ports: Mapping[str, tuple[str, Sequence[int], str]]
    data: Mapping[str, bytes]

    @property
    def rows(self) -> int:
        """The batch of the case; Triton 2.51 crashes on a warm-up with more rows than its largest batch."""
        shape = next(iter(self.ports.values()))[1]
        return shape[0] if shape else 1

    def to_field(self, name: str, number: int, batched: bool) -> dict[str, Field]:
        inputs: list[Field] = []
        for port, (dtype, shape, file) in self.ports.items():
            dims: list[Field] = list(shape[1:] if batched else shape)
            about: dict[str, Field] = {
                "data_type": Word(triton_name(dtype)),
                "dims": dims,
                "input_data_file": f"{number}-{file}",
            }
            inputs.append({"key": port, "value": about})
        return {"name": name, "batch_size": self.rows if batched else 1, "inputs": inputs}


def _warmups(bundle: Bundle) -> dict[str, _Warmup]:
    """Return the first reference vectors in the form of Triton's warm-up; a case with an empty tensor cannot be one."""
    found: dict[str, _Warmup] = {}
    for case, ports in encode_vectors(bundle):
        data = {f"{case}.{number}": raw for number, (_, _, raw) in enumerate(ports.values())}
        named = dict(zip(ports, data, strict=True))
        about = {port: (dtype, shape, named[port]) for port, (dtype, shape, _) in ports.items()}
        if all(data.values()) and len(found) < _WARMUPS:
            found[case] = _Warmup(about, data)
    return found


Vector: TypeAlias = Mapping[str, tuple[str, Sequence[int], bytes]]  # input -> dtype, shape, bytes as the protocol's


def encode_vectors(bundle: Bundle) -> list[tuple[str, Vector]]:
    """Return the reference inputs of the bundle, each tensor as the binary extension of the protocol writes it."""
    if bundle.tree.get("vectors/index.json") is None:
        return []
    names = [row["file"] for row in bundle.load("vectors/index.json")["cases"]]
    ports = {port.name: port.dtype for port in bundle.contract.inputs}
    return [(name, {port: _tensor(bundle, name, port, ports[port]) for port in ports}) for name in names]


def _tensor(bundle: Bundle, case: str, port: str, dtype: str) -> tuple[str, Sequence[int], bytes]:
    if dtype == "string":
        listed = bundle.load(f"vectors/inputs/{case}.json")["inputs"]
        row = next(row for row in listed if row["name"] == port)
        texts = [text.encode() for text in row["data"]]
        return dtype, row["shape"], b"".join(struct.pack("<I", len(text)) + text for text in texts)
    _, shape, raw = safetensors.parse(bundle.read(f"vectors/inputs/{case}.safetensors"))[port]
    return dtype, shape, raw
