# SPDX-License-Identifier: Apache-2.0
"""Adapters beside an installed base: found, replaced and removed while they serve, refused where they do not fit."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from packager.deploy import adapters as installed
from packager.formats import safetensors
from packager.server import config
from packager.server.generation import adapters, loop
from packager.server.generation.adapters import Adapters, read_weights
from packager.server.generation.decoder import Decoder
from packager.server.generation.sampling import Sampling
from packager.server.generation.shared_steps import SharedSteps
from tests.unit.server.test_shared_steps import SIZE, Bytes, Sums

BASE = f"sha256:{'b' * 64}"
PORTS = tuple(
    SimpleNamespace(name=f"lora.{path}.{side}", dtype="float32", shape=(1, "rank") if side == "a" else ("rank", 1))
    for path in ("one", "two")
    for side in "ab"
)
SHAPES = {port.name: port.shape for port in PORTS}


def packed(number: float = 1, rank: int = 2, **instead: Any) -> bytes:
    """Return an adapter of both layers, whose product is `number` times its rank."""
    arrays = {
        f"lora.{path}.{side}": np.full((1, rank) if side == "a" else (rank, 1), number if side == "a" else 1, "f4")
        for path in ("one", "two")
        for side in "ab"
    }
    arrays = {name: array for name, array in {**arrays, **instead}.items() if array is not None}
    return safetensors.dump({name: (str(a.dtype), a.shape, a.tobytes()) for name, a in arrays.items()})


def put(folder: Path, name: str, data: bytes, version: str = "1.0.0", /, **instead: str) -> None:
    """Put an adapter there as an installation does: its file, then its record in one step."""
    digest = hashlib.sha256(data).hexdigest()
    file = folder / "files" / digest[:16] / "adapter.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    record = {
        "name": name,
        "version": version,
        "digest": f"sha256:{digest}",
        "base": BASE,
        "file": file.relative_to(folder).as_posix(),
        "sha256": f"sha256:{digest}",
        **instead,
    }
    fresh = folder / f".{name}.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(folder / f"{name}.json")


def test_adapters_come_change_and_go(tmp_path: Path) -> None:
    known = Adapters(tmp_path, BASE, PORTS)
    assert known.list() == [] and known.find("legal") is None
    put(tmp_path, "legal", packed(1))
    found = known.find("legal")
    assert found is not None and found is known.find("legal") and found is known.find("legal:1.0.0")
    assert found.weights["lora.one.a"].tolist() == [[1, 1]]
    put(tmp_path, "medical", packed(2))
    put(tmp_path, "legal", packed(3), "1.1.0")
    assert [item.name for item in known.list()] == ["legal", "medical"]
    newer = known.find("legal")
    assert newer is not None and newer.weights["lora.one.a"].tolist() == [[3, 3]] and newer.version == "1.1.0"
    assert found.weights["lora.one.a"].tolist() == [[1, 1]]  # what an answer uses stays
    (tmp_path / "legal.json").unlink()
    assert known.find("legal") is None and known.find("medical") is not None


def test_the_server_looks_where_the_installer_writes() -> None:
    """One of them is without the libraries of the other, and neither imports it."""
    assert (config.ADAPTERS, adapters.FILES) == (installed.ADAPTERS, installed.FILES)


def test_nothing_is_read_again_without_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    put(tmp_path, "legal", packed())
    os.utime(tmp_path, ns=(1, time.time_ns() - 10**9))
    known = Adapters(tmp_path, BASE, PORTS)
    assert known.find("legal")
    (tmp_path / "legal.json").write_text("not read")  # in place, which no installation does
    assert known.find("legal")


@pytest.mark.parametrize(
    ("data", "instead", "words"),
    [
        (packed(), {"base": f"sha256:{'a' * 64}"}, "it is for the base"),
        (packed(), {"sha256": f"sha256:{'0' * 64}"}, "its file is damaged"),
        (packed(), {"file": "../../../etc/passwd"}, "`file` is no path of an adapter"),
        (packed(), {"file": "files/../x.safetensors"}, "`file` is no path of an adapter"),
        (packed(), {"name": "other"}, "it is called `other`"),
        (packed(**{"lora.three.a": np.ones((1, 2), "f4")}), {}, "the base takes no `lora.three.a`"),
        (packed(**{"lora.one.a": np.ones((3, 2), "f4")}), {}, r"is \[3, 2\], expected \[1, 2\]"),
        (packed(**{"lora.one.a": np.ones((1, 5), "f4")}), {}, "expected one rank"),
        (packed(**{"lora.one.a": np.full((1, 2), np.inf, "f4")}), {}, "no numbers"),
        (packed(**{"lora.one.a": np.ones((1, 2), "f8")}), {}, "not float32"),
        (packed(rank=2000), {}, "expected one rank from 1 to 1024"),
        (b"\xff" * 64, {}, "longer than the file"),
        (safetensors.dump({}), {}, "it changes no layer"),
    ],
)
def test_what_does_not_fit_is_not_served_and_the_rest_is(
    tmp_path: Path, data: bytes, instead: dict[str, str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "good", packed(2))
    put(tmp_path, "bad", data, **instead)
    caplog.set_level("INFO")
    known = Adapters(tmp_path, BASE, PORTS)
    assert [item.name for item in known.list()] == ["good"]
    said = [str(vars(record)) for record in caplog.records if "adapter not served" in str(vars(record))]
    import re

    assert len(said) == 1 and re.search(words, said[0])


def test_layers_that_an_adapter_leaves_alone_get_zeros() -> None:
    found = read_weights(packed(**{"lora.two.a": None, "lora.two.b": None}), SHAPES)
    assert not found["lora.two.a"].any() and found["lora.two.a"].shape == (1, 2)


class AdaptedSums(Sums):
    """A decoder whose answer follows from the matrices as well, which all rows of a run share."""

    inputs = (*Sums.inputs, *PORTS)

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        logits, *cache = super().run(feeds)
        moved = sum(int((feeds[f"lora.{path}.a"] @ feeds[f"lora.{path}.b"])[0, 0]) for path in ("one", "two"))
        return [np.roll(logits, moved, axis=-1), *cache]


def answer(decoder: Any, ids: list[int], adapter: Any) -> list[int]:
    job = loop.Job(tuple(ids), 12, Sampling(0, 0, 1, 1, None), adapter=adapter)
    return [step.token for step in loop.generate(decoder, Bytes(), (), job)]  # type: ignore[arg-type]


def test_answers_of_several_adapters_side_by_side_are_those_of_each_alone() -> None:
    chosen: list[Any] = [None, *(read_weights(packed(number), SHAPES) for number in (1, 2, 5))]
    drawn = random.Random(3)
    jobs = [([drawn.randrange(SIZE) for _ in range(drawn.randint(1, 9))], drawn.choice(chosen)) for _ in range(40)]
    alone = [answer(Decoder(AdaptedSums()), *job) for job in jobs]
    assert len({tuple(answer(Decoder(AdaptedSums()), [1, 2], item)) for item in chosen}) == len(chosen)
    session = AdaptedSums()
    shared = SharedSteps(Decoder(session), 8)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda job: answer(shared, *job), jobs))
    assert found == alone
    assert max(session.rows) > 1  # some did share


def test_an_adapter_of_another_graph_is_refused() -> None:
    weights = read_weights(packed(), SHAPES)
    with pytest.raises(ValueError, match="another graph"):
        Decoder(Sums()).empty(1, weights)


def test_an_adapter_replaced_again_and_again_is_always_there(tmp_path: Path) -> None:
    """Its file goes once the record names another: a request in between reads the record again."""
    put(tmp_path, "legal", packed(1))
    known, over = Adapters(tmp_path, BASE, PORTS), threading.Event()

    def replace() -> None:
        before: Path | None = None
        for number in range(2, 80):
            put(tmp_path, "legal", packed(number))
            now = tmp_path / json.loads((tmp_path / "legal.json").read_text())["file"]
            if before is not None:
                before.unlink()
            before = now
        over.set()

    thread = threading.Thread(target=replace)
    thread.start()
    missing = 0
    while not over.is_set():
        missing += known.find("legal") is None
    thread.join()
    assert missing == 0
