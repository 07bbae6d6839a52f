# SPDX-License-Identifier: Apache-2.0
"""Retraining the last layer of a real encoder changes the shards that hold it, and no other file of weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Project

RECIPE = "name: encoder\nversion: {}\nsource: ./{}\n"
RETRAIN = """
import sys, torch
from safetensors.torch import load_file, save_file
torch.manual_seed(1)
weights = load_file(sys.argv[1])
for name, value in weights.items():
    if "layer.5." in name:
        value += 1e-3 * torch.randn_like(value)
save_file(weights, sys.argv[1], {"format": "pt"})
"""


def weights(made: Project, version: str) -> dict[str, tuple[str, int]]:
    """Return digest and size of every file of weights in a bundle."""
    made.run("unpack", f"encoder:{version}", version, "--key", "k.pub")
    record = json.loads((made.folder / version / "bundle.json").read_text())
    return {path: tuple(blob) for path, blob in record["files"].items() if path.startswith("model/weights")}


@pytest.mark.slow
def test_only_the_shards_of_the_last_layer_change(project: Callable[..., Project], encoder: Path) -> None:
    made = project(RECIPE.format("1.0.0", "before"), before=encoder)
    shutil.copytree(made.folder / "before", made.folder / "after")
    subprocess.run([sys.executable, "-c", RETRAIN, made.folder / "after" / "model.safetensors"], check=True)
    made.run("keygen", "k")
    for version, folder in (("1.0.0", "before"), ("1.1.0", "after")):
        made.write(RECIPE.format(version, folder))
        made.run("build", "--sign", "key:k.pem")
    old, new = weights(made, "1.0.0"), weights(made, "1.1.0")
    changed = {path for path in new if old.get(path) != new[path]}
    total, moved = sum(size for _, size in new.values()), sum(new[path][1] for path in changed)
    print(f"{len(changed)} of {len(new)} shards, {moved} of {total} bytes: {sorted(changed)}")
    assert old.keys() == new.keys()
    assert total > 80_000_000
    layer = 1_774_464 * 4  # parameters of one layer of this encoder, in float32
    assert layer <= moved < layer + 2 * (16 << 20), "what holds the layer, and at most what shares its two ends"
