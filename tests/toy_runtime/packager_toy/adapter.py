# SPDX-License-Identifier: Apache-2.0
"""Toy as an adapter of the suite; runs in the environment under test, with `session.py` beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from suite import kit


class Adapter(kit.Adapter):
    """One opened container."""

    def __init__(self) -> None:
        spec = importlib.util.spec_from_file_location("toy_session", Path(__file__).with_name("session.py"))
        self._library: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(self._library)  # type: ignore[union-attr]
        self._session: Any = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runtime": "toy", "version": self._library.onnx.__version__}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        self._session = self._library.open_session(Path(message["model"]), threads=1)
        return {"provider": self._session.provider, "device": "cpu"}

    def metadata(self, message: dict[str, Any]) -> dict[str, Any]:
        return {name: [_port(port) for port in getattr(self._session, name)] for name in ("inputs", "outputs")}

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        try:
            answers = self._session.run(feeds)
        except ValueError as error:
            raise kit.BadRequest(str(error)) from None
        return {port.name: array for port, array in zip(self._session.outputs, answers, strict=True)}


def _port(port: Any) -> dict[str, Any]:
    return {**port._asdict(), "shape": [size if isinstance(size, int) else -1 for size in port.shape]}


if __name__ == "__main__":
    kit.run(Adapter())
