# SPDX-License-Identifier: Apache-2.0
"""Triton's Python backend around ONNX Runtime: one session per instance, requests of a batch run together.

Parameters of the configuration: `model` (path of the graph), `contract` (path of contract.json), `threads`,
`suite` (where the suite's package is), `report` (file to write the facts of the runtime to).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


class TritonPythonModel:
    """What Triton loads."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph and write the facts of the runtime."""
        self._pb = importlib.import_module("triton_python_backend_utils")
        ort = importlib.import_module("onnxruntime")
        self.check_numpy()
        config = json.loads(args["model_config"])
        values = {name: item["string_value"] for name, item in config["parameters"].items()}
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(values["threads"])
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(values["model"], options, providers=["CPUExecutionProvider"])
        sys.path.append(values["suite"])  # the stub ignores PYTHONPATH
        self._rules = importlib.import_module("suite.contract")
        self._contract = self._rules.read(Path(values["contract"]))
        self._names = [node.name for node in self._session.get_outputs()]
        self._batched = config["max_batch_size"] > 0
        report = {
            "engine": f"onnxruntime {ort.__version__}",
            "numpy": np.__version__,
            "provider": self._session.get_providers()[0],
            "rows": self._contract.dimensions[self._contract.batch][1] if self._contract.batch else 0,
            "threads": self._session.get_session_options().intra_op_num_threads,
        }
        Path(values["report"]).write_text(json.dumps(report))

    def check_numpy(self) -> None:
        """Refuse numpy 2: the stub reads arrays by the layout of numpy 1, and every element comes out wrong."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise self._pb.TritonModelException(f"numpy {np.__version__} corrupts tensors here: install numpy<2")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a list of requests; those that can run together do."""
        feeds: list[dict[str, Any]] = []
        answers: list[Any] = []
        for request in requests:
            feed = {port.name: self._array(request, port.name) for port in self._contract.inputs}
            reason = self._rules.refusal(self._contract, feed)
            answers.append(self._refusal(reason) if reason else None)
            if not reason:
                feeds.append(feed)
        results = iter(self._run(feeds))
        return [answer or self._pb.InferenceResponse(next(results)) for answer in answers]

    def _array(self, request: Any, name: str) -> Any:
        array = self._pb.get_input_tensor_by_name(request, name).as_numpy()
        if array.dtype.kind in "OS":
            return np.array([item.decode() for item in array.reshape(-1)], dtype=object).reshape(array.shape)
        return array

    def _refusal(self, reason: str) -> Any:
        try:
            error = self._pb.TritonError(reason, self._pb.TritonError.INVALID_ARG)
        except (AttributeError, TypeError):  # releases before 2.38 know one kind of error
            error = self._pb.TritonError(reason)
        return self._pb.InferenceResponse(output_tensors=[], error=error)

    def _run(self, feeds: list[dict[str, Any]]) -> list[list[Any]]:
        groups: list[list[dict[str, Any]]] = []
        for feed in feeds:  # rows of one length of every other dimension go together
            fits = (
                self._batched
                and groups
                and all(feed[name].shape[1:] == array.shape[1:] for name, array in groups[-1][0].items())
            )
            groups[-1].append(feed) if fits else groups.append([feed])
        return [answer for group in groups for answer in self._together(group)]

    def _together(self, group: list[dict[str, Any]]) -> list[list[Any]]:
        if len(group) == 1:
            return [[self._tensor(*item) for item in zip(self._names, self._session.run(self._names, group[0]))]]  # noqa: B905
        merged = {name: np.concatenate([feed[name] for feed in group]) for name in group[0]}
        cuts = np.cumsum([len(next(iter(feed.values()))) for feed in group])[:-1]
        parts = [np.split(array, cuts) for array in self._session.run(self._names, merged)]
        return [
            [self._tensor(name, part[position]) for name, part in zip(self._names, parts)]  # noqa: B905
            for position in range(len(group))
        ]

    def _tensor(self, name: str, array: Any) -> Any:
        if array.dtype.kind in "OU":
            array = np.array([str(item).encode() for item in array.reshape(-1)], dtype=object).reshape(array.shape)
        return self._pb.Tensor(name, np.ascontiguousarray(array))
