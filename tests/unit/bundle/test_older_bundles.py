# SPDX-License-Identifier: Apache-2.0
"""A bundle whose contract is of format 1, signed by the release before, is worth what it was worth then."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from packager import canonical
from packager.bundle import diff
from packager.bundle.bundle import CONTRACT, Bundle, open_bundle
from packager.contract import contract
from packager.deploy import server_files
from packager.recipe.lengths import Lengths
from packager.server import config
from packager.server.errors import RequestError
from packager.server.execution import session as model
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.protocol import protocol
from tests.conftest import Run
from tests.support import contracts
from tests.support.tampering import no_store

DATA = Path(__file__).parents[2] / "data" / "bundles"
TARGET = "onnxruntime-cpu-fp32"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "words.bundle.tar"
    path.write_bytes(gzip.decompress((DATA / "words-contract-1.bundle.tar.gz").read_bytes()))
    return path


@pytest.fixture
def bundle(old: Path) -> Bundle:
    return open_bundle(str(old), no_store)


def test_it_verifies_and_is_shown(packager: Run, old: Path) -> None:
    packager("verify", old, "--key", DATA / "words.pub")
    shown = packager("inspect", old).stdout
    assert "axis       batch: 1 to 4, measured; others are refused" in shown
    assert "axis batch: 1 to 4, measured; others are refused" in packager("compat", old).stdout


def test_what_was_measured_is_its_limit_and_its_ranges_are_none(bundle: Bundle) -> None:
    read = contract.parse(bundle.read(CONTRACT))
    assert read.dimensions["words"].lengths == read.dimensions["words"].limit == Lengths(1, 6)
    assert read.inputs[0].range == (0, 8) and read.inputs[0].limit is None


def test_it_is_served_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    """Its files lie where an installation puts them; the server warms up on its reference inputs."""
    for path, _ in bundle.tree:
        (tmp_path / "bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / path).write_bytes(bundle.read(path))
    (tmp_path / "serve.json").write_bytes(server_files.build_config(bundle, TARGET))
    found = config.read(tmp_path / "serve.json")
    session, trial = model.load(found, 1), WarmUpInputs.of(found)
    assert len(trial.known) > 3
    model.warm_up(session, trial)
    ids = np.zeros((5, 2), "int64")
    inputs = [
        {"name": "ids", "datatype": "INT64", "shape": [5, 2], "data": ids.tolist()},
        {"name": "scale", "datatype": "FP32", "shape": [5, 1, 3], "data": [0.5] * 15},
    ]
    with pytest.raises(RequestError, match="`batch` of 1 to 4, got 5"):
        protocol.parse(json.dumps({"inputs": inputs}).encode(), None, found.interface)


def test_a_release_after_it_is_compared_with_it(bundle: Bundle) -> None:
    old = bundle.load(CONTRACT)
    limits = {"ids": {"min": 0, "max": 8}, "scale": {"min": 0, "max": 1}}
    before, after = (
        contract.parse(canonical.dump(value)) for value in (old, {**old, "format": contract.FORMAT, "values": limits})
    )
    assert diff.compare_contracts(before, after) == [], "what it promised of values was its ranges"
    narrower = {**old, "format": contract.FORMAT, "values": {**limits, "ids": {"min": 0, "max": 7}}}
    (change,) = diff.compare_contracts(before, contract.parse(canonical.dump(narrower)))
    assert (change.subject, change.level) == ("ids", "major") and "now takes values in [0, 7]" in change.message
    spans = {name: {**span, "limit": {"min": 1}} for name, span in old["interface"]["dimensions"].items()}
    wider = {**old, "format": contract.FORMAT, "values": {}, "interface": {**old["interface"], "dimensions": spans}}
    levels = {change.level for change in diff.compare_contracts(before, contract.parse(canonical.dump(wider)))}
    assert levels == {"minor"}
    assert contracts.read({**old}).graph == before.graph
