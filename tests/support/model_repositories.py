# SPDX-License-Identifier: Apache-2.0
"""Small bundles with any interface, rendered into a model repository, and a pipeline over two that fit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy.triton import pipeline
from packager.deploy.triton import render as triton
from packager.deploy.triton.repository import Directory
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Override
from packager.store.store import Store
from tests.support import bundles

PORT = dict[str, tuple]  # name -> dtype and shape
SUPPORT = """name: support
steps:
  - {model: digits, inputs: {image: features}, outputs: {output: scores}}
  - {model: prepare, inputs: {pixels: image}, outputs: {scaled: features}}
"""


def make(store: Store, name: str, inputs: PORT, outputs: PORT, version: str = "1.0.0", **spans: tuple) -> Bundle:
    """Return a bundle with this interface; sizes without a span are free from 1 to 16."""
    ports = [
        [{"name": port, "dtype": dtype, "shape": list(shape)} for port, (dtype, *shape) in side.items()]
        for side in (inputs, outputs)
    ]
    free = {size for side in ports for port in side for size in port["shape"] if isinstance(size, str)}
    dimensions = {size: dict(zip(("min", "max"), spans.get(size, (1, 16)), strict=True)) for size in free}
    contract = copy.deepcopy(bundles.CONTRACT_OF_TINY)
    contract["interface"] = {"inputs": ports[0], "outputs": ports[1], "dimensions": dimensions}
    contract["runs-on"]["triton"] = {"versions": ">=23.07", "loads": ">=23.04"}
    target = {**contract["targets"]["onnxruntime-cpu-fp32"], "tolerance": {}, "runtime": "triton"}
    contract["targets"]["triton-cpu-fp32"] = target
    files = {"contract.json": canonical.dump(contract), knobs.FILE: catalogue.schema_bytes(contract)}
    return bundles.make(store, files, name, version)


def render(bundle: Bundle, root: Path, *wishes: Override, site: str = "") -> triton.Model:
    schema = knob_schema(bundle)
    values = knobs.resolve(schema, bundle.digest, wishes)
    base, sites = (knobs.resolve(schema, bundle.digest), {site: values}) if site else (values, {})
    return triton.render_triton(bundle, base, Directory(root), "python", sites)


def ensemble(root: Path, text: str = SUPPORT) -> triton.Model:
    return triton.render_ensemble(pipeline.parse(text.encode(), "support.yaml"), Directory(root))


def record(root: Path, name: str = "support") -> dict:
    number = triton.find_active(Directory(root), name)
    return json.loads((root / name / str(number) / "deployment.json").read_text())


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


PREPARE = ({"pixels": ("uint8", "batch", 8)}, {"scaled": ("float32", "batch", 8)})
DIGITS = ({"image": ("float32", "n", 8)}, {"output": ("float32", "n", 10)})
