# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with one planted fault, as an adapter program: `python faulty.py FAULT`.

Each fault is what a real runtime or serving stack has been caught at. `none` is the control.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

import numpy as np

from suite import kit


class Faulty(kit.Adapter):
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.ort = importlib.import_module("onnxruntime")
        self.kept: list[bytearray] = []
        self.count = 0

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        version = "0.0.1" if self.fault == "other version" else self.ort.__version__
        name = "onnxruntime-gpu" if self.fault == "unguarded CUDA" else "onnxruntime"
        return {"runtime": name, "version": version}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.fault == "no device":
            raise kit.UnavailableError("no such device: driver not found")
        providers = ["CUDAExecutionProvider"] if self.fault == "unguarded CUDA" else []
        self.session = self.ort.InferenceSession(message["model"], providers=[*providers, "CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.names = [node.name for node in self.session.get_outputs()]
        used = "cuda" if self.session.get_providers()[0].startswith("CUDA") else "cpu"
        claims = {"unguarded CUDA": used, "falls back to CPU": "cpu", "lies about the device": message["device"]}
        return {
            "provider": self.session.get_providers()[0],
            "device": claims.get(self.fault, message["device"]),
            "pid": 1 if self.fault == "another process" else os.getpid(),
        }

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        def port(node: Any) -> dict[str, Any]:
            kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
            return {"name": node.name, "dtype": kinds[node.type], "shape": node.shape}

        return {
            "inputs": list(map(port, self.session.get_inputs())),
            "outputs": list(map(port, self.session.get_outputs())),
        }

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        if self.fault == "crashes on NaN" and any(np.isnan(a).any() for a in feeds.values() if a.dtype.kind == "f"):
            os.abort()
        if self.fault == "poisoned by NaN":
            bad = any(np.isnan(a).any() for a in feeds.values() if a.dtype.kind == "f")
            self.poisoned = getattr(self, "poisoned", False) or bad
        if self.fault == "swallows unknown inputs":
            feeds = {name: array for name, array in feeds.items() if name in self.inputs}
        if self.fault == "casts to fp16":
            feeds = {
                name: a.astype("float16").astype(a.dtype) if a.dtype.kind == "f" else a for name, a in feeds.items()
            }
        if self.fault == "ignores batch order":
            feeds = {name: array[np.argsort(array.reshape(len(array), -1)[:, 0])] for name, array in feeds.items()}
        outputs = self.spoil(dict(zip(self.names, self.session.run(self.names, feeds), strict=True)))
        return outputs

    def spoil(self, outputs: dict[str, Any]) -> dict[str, Any]:
        first, *rest = self.names
        if self.fault == "first row for all rows":
            return {name: np.repeat(array[:1], len(array), 0) for name, array in outputs.items()}
        if self.fault == "normalises over the batch":
            return {
                name: array - array.mean(0) if array.dtype.kind == "f" else array for name, array in outputs.items()
            }
        if self.fault == "swaps outputs":
            return {first: outputs[rest[0]], rest[0]: outputs[first]}
        if self.fault == "drops a dimension":
            return {name: array[0] if len(array) == 1 else array for name, array in outputs.items()}
        if self.fault == "leaks 1 MB per request":
            self.kept.append(bytearray(os.urandom(1024) * 1024))
        if self.fault == "ten times slower":
            time.sleep(0.02)
        if self.fault == "a bit of noise":
            outputs[first] = outputs[first] * np.float32(1 + 1e-7 * (self.count % 2))
        if self.fault == "hangs":
            time.sleep(600)
        if self.fault == "poisoned by NaN" and self.poisoned:
            outputs[first] = outputs[first] + 1
        return outputs


if __name__ == "__main__":
    kit.run(Faulty(" ".join(sys.argv[1:])))
