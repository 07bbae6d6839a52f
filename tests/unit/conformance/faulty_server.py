# SPDX-License-Identifier: Apache-2.0
"""A small server of the Open Inference Protocol with one planted fault: `python faulty_server.py FAULT`, as an adapter.

`none` answers and refuses properly.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from suite import contract, kit, oip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per answer: two would wait for each other (Nagle, delayed ACK)
    owner: Any

    def log_message(self, *arguments: Any) -> None:
        pass

    def reply(self, status: int, document: Any) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == self.owner.base:
            self.reply(200, self.owner.describe())
        elif self.path == f"{self.owner.base}/ready" and self.owner.fault == "never ready":
            self.reply(503, {"ready": False})
        else:
            self.reply(200, {"name": "faulty", "version": "1", "ready": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        try:
            self.reply(200, self.owner.answer(self.path, body))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            status = 500 if self.owner.fault == "500 for bad input" else 400
            silent = self.owner.fault == "refuses without a word"
            self.reply(status, None if silent else {"error": str(error) or repr(error)})


class FaultyServer(kit.Adapter):
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.latest: dict[str, Any] = {}

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "onnxruntime", "version": importlib.import_module("onnxruntime").__version__}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        ort = importlib.import_module("onnxruntime")
        self.session = ort.InferenceSession(message["model"], providers=["CPUExecutionProvider"])
        self.contract = contract.read(Path(message["contract"]))
        self.base = f"/v2/models/{message['name']}"
        handler = type("Bound", (Handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self.server.server_port}"
        return {
            "provider": "CPUExecutionProvider",
            "device": "cpu",
            "pid": os.getpid(),
            "endpoints": {"http": address, "binary": False},
        }

    def describe(self) -> dict[str, Any]:
        def port(item: Any) -> dict[str, Any]:
            kind = "FP64" if self.fault == "metadata lies" else item.datatype
            return {"name": item.name, "datatype": kind, "shape": [s if isinstance(s, int) else -1 for s in item.shape]}

        return {"inputs": list(map(port, self.contract.inputs)), "outputs": list(map(port, self.contract.outputs))}

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path != f"{self.base}/infer":
            raise ValueError("unknown model")
        items = json.loads(body)["inputs"]
        feeds = {item["name"]: oip.from_list(item["data"], item["datatype"], item["shape"]) for item in items}
        reason = contract.refusal(self.contract, feeds)
        if reason and self.fault != "answers anything":
            raise ValueError(reason)
        if reason:
            feeds = {port.name: np.zeros([1, *port.shape[1:]], port.dtype) for port in self.contract.inputs}
        if self.fault == "mixes up clients":
            self.latest = feeds
            time.sleep(0.01)
            feeds = self.latest
        names = [node.name for node in self.session.get_outputs()]
        outputs = zip(names, self.session.run(names, feeds), strict=True)
        return {
            "outputs": [
                {"name": name, "datatype": oip.datatype(a), "shape": a.shape, "data": a.reshape(-1).tolist()}
                for name, a in outputs
            ]
        }

    def stop(self) -> dict[str, Any]:
        self.server.shutdown()
        self.server.server_close()
        return {"code": 0, "seconds": 0.1, "graceful": self.fault != "must be killed"}


if __name__ == "__main__":
    kit.run(FaultyServer(" ".join(sys.argv[1:])))
