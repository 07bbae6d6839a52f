# SPDX-License-Identifier: Apache-2.0
"""A client of servers that take raw inputs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


class Client:
    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: Any = None, **fields: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in fields.items()}}
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def predict(self, rows: Any, **more: Any) -> Any:
        status, answer = self.ask("/predict", {"rows": rows, **more})
        assert status == 200, answer
        return answer["answers"]
