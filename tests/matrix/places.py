# SPDX-License-Identifier: Apache-2.0
"""Where the models of the table lie: beside the recipe, in a registry, in a bucket.

A place is given the folder a model was written to, and yields, for as long as it is there, the lines of a recipe that
name it. Everything listens on loopback and ends with the block.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from tests.e2e.conftest import tool
from tests.support.object_store import object_store
from tests.support.registry_server import registry
from tests.support.stub_hub import NAME, stub_hub


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[str]:
    """The folder itself; the test copies it beside every recipe."""
    yield "source: ./model\n"


@contextlib.contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """A registry in SQLite that the folder holds."""
    yield f"source: models:/digits@champion\nregistry: sqlite:///{folder}/mlflow.db\n"


@contextlib.contextmanager
def bentoml(folder: Path) -> Iterator[str]:
    """A store whose LightGBM model is text."""
    yield f"source: bentoml:light:latest\nregistry: {folder.as_uri()}\n"


@contextlib.contextmanager
def bentoml_pickled(folder: Path) -> Iterator[str]:
    """The same store; BentoML writes scikit-learn with joblib, arrays raw in the middle of the pickle."""
    yield f"source: bentoml:regression:latest\nregistry: {folder.as_uri()}\n"


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """An S3-compatible server that holds the folder's files; credentials come from the environment, as S3's own do."""
    with object_store(folder.parent / "objects") as server, _environment(server.environment()):
        for path in folder.iterdir():
            server.files().put_file(str(path), f"models/net/{path.name}")
        yield "source: s3://models/net\n"


@contextlib.contextmanager
def artifact(folder: Path) -> Iterator[str]:
    """A registry that holds a bundle made of the folder."""
    with registry(tool("docker-registry"), folder.parent / "registry") as running:
        recipe = "name: first\nversion: 1.0.0\nsource: ./model\n"
        (folder.parent / "bundle.yaml").write_text(recipe)
        folder.rename(folder.parent / "model")
        variables = {**os.environ, "PACKAGER_STORE": str(folder.parent / "first")}
        for words in (["build"], ["push", "first:1.0.0", f"oci://{running.host}/models/first"]):
            subprocess.run(
                [sys.executable, "-m", "packager", *words],
                check=True,
                cwd=folder.parent,
                env=variables,
                capture_output=True,
            )
        yield f"source: oci://{running.host}/models/first:1.0.0\n"


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[str]:
    """A server that speaks the API of huggingface.co and holds the folder's files."""
    from huggingface_hub import constants

    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with stub_hub() as running, patch.object(constants, "ENDPOINT", running.url):
        running.put(files, large={path for path in files if path.endswith(".safetensors")})
        yield f"source: hf://{NAME}\n"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
