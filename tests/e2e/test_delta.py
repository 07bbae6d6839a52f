# SPDX-License-Identifier: Apache-2.0
"""A delta of a real model: the sentence encoder whose last layer was trained further."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from tests.conftest import Run
from tests.support import bundles

SHARD = 16 << 20  # as the export step cuts


def tensors(weights: bytes) -> dict[str, tuple[int, int]]:
    """Return (start, end) of every tensor of a safetensors file."""
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    return {
        name: tuple(8 + length + at for at in value["data_offsets"])
        for name, value in header.items()
        if name != "__metadata__"
    }


def trained_further(weights: bytes, names: list[str], chance: random.Random) -> bytes:
    """Move every weight of some tensors by a small random step, as fine-tuning does."""
    changed, places = bytearray(weights), tensors(weights)
    for name in names:
        start, end = places[name]
        count = (end - start) // 4
        values = struct.unpack(f"<{count}f", weights[start:end])
        changed[start:end] = struct.pack(f"<{count}f", *(value + chance.gauss(0, 1e-4) for value in values))
    return bytes(changed)


def files(weights: bytes) -> dict[str, bytes]:
    pieces = [weights[at : at + SHARD] for at in range(0, len(weights), SHARD)]
    return {f"model/weights-{number:04}.bin": piece for number, piece in enumerate(pieces, 1)}


@pytest.mark.parametrize("part", ["the last linear layer", "the last transformer block"])
def test_a_fine_tuned_last_layer_ships_under_five_percent(
    packager: Run, encoder: Path, tmp_path: Path, part: str
) -> None:
    weights = next(encoder.rglob("model.safetensors")).read_bytes()
    assert len(weights) > 80_000_000
    last = "encoder.layer.5." if part == "the last transformer block" else "encoder.layer.5.output.dense."
    names = [name for name in tensors(weights) if name.startswith(last)]
    assert names
    key, store = keys.generate_key("p256"), Store(tmp_path / "store")
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    for version, content in (("1.0.0", weights), ("1.0.1", trained_further(weights, names, random.Random(1)))):
        bundle = sign(bundles.make(store, files(content), version=version), key)
        copy.save(bundle, tmp_path / f"{version}.bundle.tar")
    reply = json.loads(
        packager("delta", "1.0.0.bundle.tar", "1.0.1.bundle.tar", "-o", "d.bundle-delta.tar", "--json").stdout
    )
    print(f"{part}: {reply['size']} of {reply['full']} bytes, {100 * reply['size'] / reply['full']:.2f} %")
    assert reply["size"] < 0.05 * reply["full"]
    packager("apply", "d.bundle-delta.tar", "1.0.0.bundle.tar", "-o", "made.bundle.tar")
    assert (tmp_path / "made.bundle.tar").read_bytes() == (tmp_path / "1.0.1.bundle.tar").read_bytes()
    packager("verify", "made.bundle.tar", "--key", "k.pub")
