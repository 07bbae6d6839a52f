# SPDX-License-Identifier: Apache-2.0
"""Tiny seeded models of every task as sources with their graphs: each once in a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import raw_models
from tests.support.once import made_once
from tests.support.raw_models import Made


def _made(name: str, folders: pytest.TempPathFactory) -> Made:
    def make(folder: Path) -> None:
        (folder / "interface.json").write_text(json.dumps(raw_models.MODELS[name](folder).interface))

    place = made_once(folders, f"model-{name}", make)
    return Made(place / "source", place / "graph", json.loads((place / "interface.json").read_text()))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made("classifier", tmp_path_factory)


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made("tagger", tmp_path_factory)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A sentence encoder with a tokenizer that pads on the left."""
    return _made("encoder", tmp_path_factory)


@pytest.fixture(scope="session")
def pictures_model(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An image classifier of 24x24 pixels."""
    return _made("pictures_model", tmp_path_factory)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model that answers questions."""
    return _made("reader", tmp_path_factory)


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """DETR: pictures of every size, filled up to one size with a mask."""
    return _made("detector", tmp_path_factory)


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made("segmenter", tmp_path_factory)


@pytest.fixture(scope="session")
def spectral(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made("spectral", tmp_path_factory)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two encoders, of pictures and of texts."""
    return _made("pair", tmp_path_factory)
