# SPDX-License-Identifier: Apache-2.0
"""Triton's Python backend around ONNX Runtime, for the model that lies beside this file.

`deployment.json` beside it says what may be loaded: every file with its digest, the interface with the bounds of its
dimensions, the oldest ONNX Runtime. Whatever differs is an error when the model is loaded, never a wrong answer later.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CHUNK = 1 << 20


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check versions and files, then open the graph."""
        self._pb = importlib.import_module("triton_python_backend_utils")
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # noqa: TID251 - since 1.31 it reports usage to its maker otherwise
        ort = importlib.import_module("onnxruntime")
        record = json.loads((HERE / "deployment.json").read_bytes())
        # The stub reads arrays by the layout of numpy 1: under numpy 2 every element comes out wrong, in silence.
        if _version(np.__version__) >= (2,):
            raise self._pb.TritonModelException(f"numpy {np.__version__} corrupts tensors here: install numpy<2")
        if _version(ort.__version__) < _version(record["onnxruntime"]):
            raise self._pb.TritonModelException(
                f"onnxruntime {ort.__version__} is older than promised: install onnxruntime>={record['onnxruntime']}"
            )
        self._check_files(record["files"])
        config = json.loads(args["model_config"])
        values = {name: item["string_value"] for name, item in config["parameters"].items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(values["threads"])
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(HERE / values["graph"]), options, providers=["CPUExecutionProvider"])
        self._interface = record["interface"]
        self._names = [port["name"] for port in self._interface["outputs"]]
        self._batched = config["max_batch_size"] > 0

    def _check_files(self, files: dict[str, str]) -> None:
        """Refuse files that are not those of the signed bundle."""
        for name, digest in files.items():
            state = hashlib.sha256()
            with (HERE / name).open("rb") as file:
                while chunk := file.read(CHUNK):
                    state.update(chunk)
            if f"sha256:{state.hexdigest()}" != digest:
                raise self._pb.TritonModelException(f"{name} is not the file of the bundle: expected {digest}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a list of requests; those that can run together do."""
        feeds: list[dict[str, Any]] = []
        answers: list[Any] = []
        for request in requests:
            feed = {port["name"]: self._array(request, port["name"]) for port in self._interface["inputs"]}
            reason = self._refusal(feed)
            answers.append(self._error(reason) if reason else None)
            if not reason:
                feeds.append(feed)
        results = iter(self._run(feeds))
        return [answer or self._pb.InferenceResponse(next(results)) for answer in answers]

    def _array(self, request: Any, name: str) -> Any:
        array = self._pb.get_input_tensor_by_name(request, name).as_numpy()
        if array.dtype.kind in "OS":
            texts = [item.decode() for item in array.reshape(-1)]
            return np.array(texts, dtype=object).reshape(array.shape)
        return array

    def _refusal(self, feed: dict[str, Any]) -> str | None:
        """Return how a request violates the contract: Triton checks fixed sizes only."""
        sizes: dict[str, int] = {}
        for port in self._interface["inputs"]:
            shape = feed[port["name"]].shape
            if len(shape) != len(port["shape"]):
                return f"input `{port['name']}`: expected {len(port['shape'])} dimensions, got {len(shape)}"
            for expected, size in zip(port["shape"], shape):  # noqa: B905 - the interpreter of the stub may be 3.8
                span = self._interface["dimensions"].get(expected, {}) if isinstance(expected, str) else {}
                span = span.get("limit", span)  # what was measured is the limit where no other is stated
                if isinstance(expected, int) and size != expected:
                    return f"input `{port['name']}`: expected a size of {expected}, got {size}"
                beside = size in span.get("also", [])
                if span and not span["min"] <= size <= span.get("max", size) and not beside:
                    end = f"{span['min']} to {span['max']}" if "max" in span else f"at least {span['min']}"
                    return f"input `{port['name']}`: `{expected}` is {end}, got {size}"
                beside = beside or size % span.get("step", 1) in span.get("remainders", [])
                if span and (size % span.get("step", 1) or size not in span.get("values", [size])) and not beside:
                    steps = f"a multiple of {span['step']}" if "step" in span else f"one of {span['values']}"
                    return f"input `{port['name']}`: `{expected}` is {steps}, got {size}"
                if isinstance(expected, str) and sizes.setdefault(expected, size) != size:
                    return f"input `{port['name']}`: `{expected}` is {sizes[expected]} in another input, got {size}"
        return None

    def _error(self, reason: str) -> Any:
        try:
            error = self._pb.TritonError(reason, self._pb.TritonError.INVALID_ARG)
        except (AttributeError, TypeError):  # releases before 2.38 know one kind of error
            error = self._pb.TritonError(reason)
        return self._pb.InferenceResponse(output_tensors=[], error=error)

    def _run(self, feeds: list[dict[str, Any]]) -> list[list[Any]]:
        groups: list[list[dict[str, Any]]] = []
        for feed in feeds:
            if groups and self._fits(groups[-1], feed):
                groups[-1].append(feed)
            else:
                groups.append([feed])
        return [answer for group in groups for answer in self._together(group)]

    def _fits(self, group: list[dict[str, Any]], feed: dict[str, Any]) -> bool:
        """Rows run together if they agree in every other size; Triton has kept the sum below its largest batch."""
        return self._batched and all(feed[name].shape[1:] == array.shape[1:] for name, array in group[0].items())

    def _together(self, group: list[dict[str, Any]]) -> list[list[Any]]:
        merged = {name: np.concatenate([feed[name] for feed in group]) for name in group[0]} if group[1:] else group[0]
        arrays = self._session.run(self._names, merged)
        if not group[1:]:
            return [[self._tensor(name, array) for name, array in zip(self._names, arrays)]]  # noqa: B905
        cuts = np.cumsum([len(next(iter(feed.values()))) for feed in group])[:-1]
        parts = [np.split(array, cuts) for array in arrays]
        return [
            [self._tensor(name, part[place]) for name, part in zip(self._names, parts)]  # noqa: B905
            for place in range(len(group))
        ]

    def _tensor(self, name: str, array: Any) -> Any:
        if array.dtype.kind in "OU":
            array = np.array([str(item).encode() for item in array.reshape(-1)], dtype=object).reshape(array.shape)
        return self._pb.Tensor(name, np.ascontiguousarray(array))


def _version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 1.26.4 of `1.26.4+local`."""
    numbers = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
