# SPDX-License-Identifier: Apache-2.0
"""Small real models as sources: written once per session, laid out as MLflow and people lay them out."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from packager import exporters
from packager.exporters import ExportOptions

MODULES = """
import torch
from torch import nn


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.linear(x), lambda x: -self.linear(x), (x,))


class Eigen(nn.Module):
    def forward(self, x):
        return torch.linalg.eigh(x @ x.transpose(-1, -2)).eigenvalues


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Two(nn.Module):
    def forward(self, left, right):
        return left + right, left - right


class Count(nn.Module):
    def forward(self, x):
        return {"double": x * 2, "nothing": None, "rows": x.shape[0]}


class Forgetful(nn.Module):
    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]
"""


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that only exists in sources: pickles name it, nothing but their `code` directory has it."""
    path = tmp_path_factory.mktemp("networks") / "networks_of_tests.py"
    path.write_text(MODULES)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop(path.stem, None)


def cnn() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    ).eval()


def mlmodel(
    folder: Path, flavors: dict[str, Any], inputs: list[Any] | None = None, outputs: list[Any] | None = None
) -> None:
    """Write an `MLmodel` as MLflow 3.17 does: a signature is JSON text inside YAML."""
    signature = (
        None if inputs is None else {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}
    )
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "signature": signature}))


def tensor(dtype: str, shape: list[int], name: str | None = None) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {**named, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


@pytest.fixture(scope="session")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes an MLflow directory with a `.pt2`, as `log_model` exports it (`Dim.AUTO`)."""

    def write(rows: int = 4, **signature: Any) -> Path:
        folder = tmp_path_factory.mktemp("pt2")
        example = (torch.randn(rows, 1, 8, 8),)
        dims = ({0: torch.export.Dim.AUTO},)
        (folder / "data").mkdir()
        torch.export.save(torch.export.export(cnn(), example, dynamic_shapes=dims), folder / "data" / "model.pt2")
        mlmodel(folder, {"pytorch": {"model_data": "data"}}, **signature)
        return folder

    return write


@pytest.fixture(scope="session")
def pickled(networks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes a pickled module of `networks` with its code beside it."""

    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / "code").mkdir()
        (folder / "code" / "networks_of_tests.py").write_text(MODULES)
        torch.manual_seed(0)
        torch.save(getattr(networks, name)(), folder / "model.pth")
        return folder

    return write


def detected(source: Path) -> tuple[str, str]:
    paths = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    return exporters.detect_kind(paths, lambda path: (source / path).read_bytes())


def opened(source: Path, **params: Any) -> exporters.SourceModel:
    kind, payload = detected(source)
    return exporters.exporter(kind).load(source, payload, ExportOptions.from_params(params))
