# SPDX-License-Identifier: Apache-2.0
"""L2: names, dtypes and shapes are those of the contract, in the runtime's metadata and in its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from suite import judge
from suite.contract import DTYPES, Contract, Port
from suite.rpc import Rpc
from suite.subject import Channel, Subject
from suite.vectors import Vectors


def test_metadata_equals_the_contract(subject: Subject, contract: Contract) -> None:
    if subject.http:
        found = subject.http.document(subject.http.base)
    elif "grpc" in subject.endpoints:
        channel = subject.channel("grpc")
        assert isinstance(channel, Rpc)
        found = channel.metadata()
    else:
        assert subject.process
        found = subject.process.call("metadata", 60)
    for role, promised in (("inputs", contract.inputs), ("outputs", contract.outputs)):
        problem = _mismatch(found.get(role) or [], promised)
        assert problem is None, f"{role}: {problem}"


def _mismatch(found: Sequence[Any], promised: Sequence[Port]) -> str | None:
    ports = {item["name"]: item for item in found}
    if set(ports) != {port.name for port in promised}:
        return f"expected {[port.name for port in promised]}, got {sorted(ports)}"
    for port in promised:
        item = ports[port.name]
        dtype = item.get("dtype") or DTYPES.get(item.get("datatype", ""), item.get("datatype"))
        if dtype != port.dtype:
            return f"`{port.name}`: expected {port.dtype}, got {dtype}"
        shape = [size if isinstance(size, int) and size >= 0 else -1 for size in item["shape"]]
        wanted = [size if isinstance(size, int) else -1 for size in port.shape]
        fits = len(shape) == len(wanted) and all(
            got == size or -1 in (got, size) for got, size in zip(shape, wanted, strict=True)
        )
        if not fits:
            return f"`{port.name}`: expected shape {wanted}, got {shape}"
    return None


def test_answers_have_the_promised_form(channel: Channel, contract: Contract, vectors: Vectors, case_name: str) -> None:
    feeds, _ = vectors.case(case_name)
    if contract.batch is None and not feeds:
        pytest.skip("the model takes nothing")
    problem = judge.interface_problem(contract, feeds, channel.infer(feeds))
    assert problem is None, problem
