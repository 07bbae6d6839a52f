# SPDX-License-Identifier: Apache-2.0
"""Faults that converters are known for are seen by the build's own measurement."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.matrix import planted
from tests.matrix.planted import FAULTS, Prepared

QUICK = ("bins", "boosting", "histogram")  # models of small graphs whose faults show on single values only


@pytest.fixture(scope="module", params=QUICK)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Prepared]:
    return request.param, planted.prepare(request.param, tmp_path_factory.mktemp("planted"))


def test_a_graph_without_a_fault_is_right(prepared: tuple[str, Prepared], tmp_path: Path) -> None:
    _, made = prepared
    assert not made.findings(onnx.load_model_from_string(made.graph), tmp_path)


def test_every_fault_of_a_small_graph_is_seen(prepared: tuple[str, Prepared], tmp_path: Path) -> None:
    name, made = prepared
    found = [
        planted.judge(fault, made, tmp_path / str(number)) for number, fault in enumerate(FAULTS) if fault.model == name
    ]
    assert len(found) > 2
    assert [item.fault for item in found if not item.caught] == []


@pytest.mark.slow
def test_all_planted_faults_are_seen() -> None:
    found = list(planted.judged())
    assert len(found) >= 50
    assert [item.fault for item in found if not item.caught] == []
