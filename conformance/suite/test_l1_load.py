# SPDX-License-Identifier: Apache-2.0
"""L1: the requested runtime loads the model, in a separate process, on the requested device."""

from __future__ import annotations

from typing import Any

import pytest

from suite import cases, processes
from suite.cell import Cell
from suite.contract import Contract
from suite.subject import Subject
from suite.vectors import smallest

_NVIDIA = ("cuda", "tensorrt", "rtx", "ampere", "sm_")  # how devices of NVIDIA are called: all need its driver


def test_it_loads(subject: Subject, measures: dict[str, Any]) -> None:
    if subject.process:
        measures["cold_start_seconds"] = round(subject.seconds_to_load, 3)


def test_it_is_the_runtime_and_version_that_was_asked_for(subject: Subject, cell: Cell) -> None:
    known = {**subject.hello, **subject.loaded}
    if not cell.adapter:
        pytest.skip("an endpoint reports its runtime itself; see `identity`")
    if cell.version == "-":
        assert known.get("runtime") and known.get("version"), "the adapter does not say which runtime answers"
        return
    assert known.get("runtime") == cell.runtime, f"expected runtime {cell.runtime}, got {known.get('runtime')}"
    got = str(known.get("version"))
    assert got == cell.version or got.startswith(f"{cell.version}."), f"expected version {cell.version}, got {got}"


def test_it_runs_in_a_process_of_its_own(subject: Subject, cell: Cell) -> None:
    if subject.process is None:
        pytest.skip("an endpoint's processes cannot be seen from here")
    assert subject.pid in processes.family(subject.process.pid), f"process {subject.pid} is not of this cell"
    if cell.library:
        loaded = [pid for pid in subject.alive() if processes.maps(pid, cell.library)]
        assert loaded, f"no process of the runtime has loaded `{cell.library}`"


def test_it_runs_on_the_device_that_was_asked_for(subject: Subject, cell: Cell) -> None:
    """What the runtime reports must agree with what its process has mapped: a fall-back to the CPU is silent."""
    if subject.process is None:
        pytest.skip("an endpoint's device cannot be seen from here")
    got = subject.loaded.get("device")
    provider = subject.loaded.get("provider")
    assert got == cell.device, f"expected device {cell.device}, got {got} ({provider}): a silent fall-back"
    if cell.device.startswith(_NVIDIA):
        assert any(processes.maps(pid, "libcuda.so") for pid in subject.alive()), "no process has mapped `libcuda.so`"


def test_it_answers(subject: Subject, contract: Contract) -> None:
    outputs = subject.primary.infer(cases.feeds(contract, smallest(contract)))
    assert outputs, "the answer holds no outputs"
