# SPDX-License-Identifier: Apache-2.0
"""Prepare the GPU kit in `build/gpu-kit`: signed bundles, wheels for the machine under test, and trips of bounded size.

    python -m tests.gpu.prepare [--folder build/gpu-kit] [--trip 52] [--only NAME …] [--without-wheels]

Torch is imported where it is needed: the tests of the trips do without.

A bare machine with a GPU has no network, and what is carried there goes in trips of so many MiB. `trips/` holds the
pieces, `trips/README.md` the commands. What exists is not made again: remove the folder for a fresh kit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RUNTIME = "onnxruntime-gpu==1.31.1"  # of the index: CUDA 13; wheels for Python 3.12 are there
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What the base, `serve` and `conform` need beside numpy; torch, its CUDA libraries and numpy are the machine's own.
WHEELS = (
    "cryptography", "cffi", "pycparser", "PyYAML", "packaging", "urllib3", "argcomplete", "granian", "click", "orjson",
    "prometheus-client", "grpcio", "typing-extensions", "uvloop", "flatbuffers", "protobuf", "onnx", "ml-dtypes",
    "pytest", "pluggy", "iniconfig", "pygments", "tokenizers", "jinja2", "MarkupSafe", "uv", RUNTIME,
)  # fmt: skip
LEAST = {"height": 64, "width": 64}  # pixels
RECIPE = """name: {name}
version: 1.0.0
source: {source}
policy: dev
license: Apache-2.0
description: A model of the GPU kit with seeded weights
runs-on:
  onnxruntime: {{versions: ">=1.31", precision: {precision}, devices: [cpu, cuda]}}
platforms: [linux_x86_64-cp311, linux_x86_64-cp312]
tolerance: {{fp16: {{atol: 0.02, rtol: 0.02}}}}
"""  # twelve layers in fp16 are 0.007 off on a CPU; the report of the run says what they are on the device


def main() -> int:
    """Make what is missing; print sizes."""
    from tests.gpu import models

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu-kit")
    parser.add_argument("--trip", type=int, default=52, help="MiB of one trip (%(default)s)")
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--without-wheels", action="store_true", help="for a rehearsal on this machine")
    options = parser.parse_args()
    names = [name for name in models.MODELS if not options.only or name in options.only]
    kit = options.folder.resolve()
    for part in ("bundles", "keys", "work"):
        (kit / part).mkdir(parents=True, exist_ok=True)
    if not (kit / "keys" / "release.pub").is_file():
        _packager(kit, "keygen", "keys/release")
    stated: dict[str, Any] = {"models": {}}
    for name in names:
        stated["models"][name] = _bundle(kit, name)
    (kit / "kit.json").write_text(json.dumps(stated, indent=1))
    for file in ("on_device.py", "models.py"):
        shutil.copy(HERE / file, kit)
    if not options.without_wheels:
        _wheels(kit / "wheels")
    cut_trips(kit, options.trip << 20)
    return 0


def _packager(kit: Path, *words: str) -> str:
    environment = {**os.environ, "PACKAGER_STORE": str(kit / "work" / "store")}
    done = subprocess.run(
        [sys.executable, "-m", "packager", *words],
        cwd=kit,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"packager {' '.join(words)}\n{done.stderr}")
    return done.stdout


def _bundle(kit: Path, name: str) -> dict[str, Any]:
    """Build and sign the bundle of a model unless it is there; return what the machine under test has to know."""
    from tests.gpu import models

    model, file = models.MODELS[name], kit / "bundles" / f"{name}.bundle.tar"
    module, started = models.build(name), time.monotonic()
    if not file.is_file():
        folder = kit / "work" / name
        folder.mkdir(exist_ok=True)
        recipe = folder / "bundle.yaml"
        recipe.write_text(RECIPE.format(name=name, source=_source(folder, name, module), precision="[fp32, fp16]"))
        if model.generates:
            text = recipe.read_text().replace("precision: [fp32, fp16], devices: [cpu, cuda]", "devices: [cpu]")
            recipe.write_text(text + "task: text-generation\n")
        elif name == "cnn":
            recipe.write_text(recipe.read_text() + "dynamic: {batch: [1, 64]}\n")
        else:
            spans = ", ".join(f"{axis}: [{LEAST.get(axis, 1)}, {size}]" for axis, size in model.largest.items())
            recipe.write_text(recipe.read_text() + f"dynamic: {{{spans}}}\n")
        _packager(kit, "build", str(recipe), "--replace", "--sign", "key:keys/release.pem", "-o", str(file))
    print(f"{name:10} {file.stat().st_size >> 20:5} MiB, {time.monotonic() - started:6.1f} s", flush=True)
    return {"weights": models.digest(module), "largest": model.largest}


def _source(folder: Path, name: str, module: Any) -> str:
    """Write the model as people register it; return the recipe's `source`."""
    import torch

    from tests.gpu import models

    if name != "cnn":
        module.save_pretrained(folder / "model")
        if models.MODELS[name].generates:
            _tokenizer(folder / "model")
        return "./model"
    batch = torch.export.Dim("batch", min=1, max=models.MODELS[name].largest["batch"])
    program = torch.export.export(module, (models.draw(name, {"batch": 2})["x"],), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    return "./model.pt2"


def _tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer of the model's vocabulary, trained on this repository's own pages."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(kinds.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train([str(path) for path in sorted((ROOT / "docs").rglob("*.md"))], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def _wheels(folder: Path) -> None:
    """Download what the machine lacks, for its Python, and build our own wheel."""
    if folder.is_dir():
        return
    aside = folder.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(aside)]
    pip += ["--python-version", PYTHON, "--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS)]
    subprocess.run([*pip, *WHEELS], check=True)
    uv = [str(Path(sys.executable).parent / "uv"), "build", "--quiet", "--wheel", "--out-dir", str(aside), str(ROOT)]
    subprocess.run(uv, check=True)
    aside.replace(folder)


def cut_trips(kit: Path, most: int) -> None:
    """Cut everything that travels into pieces of at most `most` bytes, and write what to do with each."""
    trips = kit / "trips"
    shutil.rmtree(trips, ignore_errors=True)
    trips.mkdir()
    whole = trips / "kit.tar.xz"
    with tarfile.open(whole, "w:xz", preset=3) as archive:
        for part in ("bundles", "keys/release.pub", "kit.json", "on_device.py", "models.py"):
            archive.add(kit / part, f"kit/{part}")
    if (kit / "wheels").is_dir():  # compressed already
        with tarfile.open(trips / "wheels.tar", "w") as archive:
            archive.add(kit / "wheels", "kit/wheels")
    pieces = []
    for file in sorted(trips.iterdir()):
        with file.open("rb") as data:
            for number in range(-(-file.stat().st_size // most)):
                piece = trips / f"trip-{len(pieces)}" / f"{file.name}.{number:02}"
                piece.parent.mkdir()
                piece.write_bytes(data.read(most))
                pieces.append(piece)
        file.unlink()
    shutil.copy(HERE / "run.sh", trips / "run.sh")
    lines = [
        "# Trips",
        "",
        "Each trip: copy its folder to the machine and append, in this order; the last one starts the run.",
        "",
    ]
    lines += ["```bash"]
    for piece in pieces:
        lines.append(
            f"cat {piece.parent.name}/{piece.name} >> /tmp/{piece.name[:-3]}  # {piece.stat().st_size >> 20} MiB"
        )
    lines += ["bash run.sh /tmp OUT", "```", ""]
    (trips / "README.md").write_text("\n".join(lines))
    total = sum(piece.stat().st_size for piece in pieces)
    print(
        f"{len(pieces)} trips, {total >> 20} MiB in all, at most {max(p.stat().st_size for p in pieces) >> 20} MiB each"
    )


if __name__ == "__main__":
    sys.exit(main())
