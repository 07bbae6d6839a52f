# SPDX-License-Identifier: Apache-2.0
"""Another processor: an emulated arm64 Debian reads, installs, serves and judges a bundle that x86-64 built and signed.

Every command prints how long it took, emulated, so these are no measurements of a processor.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from packager.formats.wheel_locks import requirements_name
from tests.e2e.conftest import CNN_RECIPE, HERE, Project
from tests.support import arm64
from tests.support.arm64 import PYTHON, Machine

pytestmark = pytest.mark.slow  # minutes: every instruction is emulated
KEY = "--key release.pub"
RECIPE = f"""
name: net
version: 1.0.0
source: ./model.onnx
policy: dev
license: Apache-2.0
sandbox: none
description: A small network
runs-on: {{onnxruntime: ">=1.31"}}
dynamic: {{batch: [1, 2]}}
platforms: [{PYTHON}, linux_x86_64-cp311]
"""
PIP = "tool/bin/pip install -q --no-compile --disable-pip-version-check --no-index --find-links wheels --only-binary :all:"
TAGS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
AARCH64 = b"\xb7\x00"  # `e_machine` of elf.h: 183
SERVE = f"""
tool/bin/packager serve site --port 8765 2>serve.log &
server=$!
python3 -c '
import time, urllib.request
for _ in range(900):
    try:
        urllib.request.urlopen("http://127.0.0.1:8765/v2/health/ready", timeout=60)
        break
    except OSError:
        time.sleep(0.2)
'
tool/bin/packager conform cnn.bundle.tar {KEY} --endpoint http://127.0.0.1:8765 --level L3 --report served \\
    --python site/current/env/bin/python || {{ cat serve.log; exit 1; }}
kill $server
wait $server
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The emulated machine with packager's base install, from the index's wheels for arm64."""
    made = arm64.prepare(tmp_path_factory.mktemp("machine"))
    wheels = made.work / "wheels"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", wheels, HERE.parents[1]], check=True)
    wheel = next(wheels.glob("model_packager-*.whl"))
    download(wheels, f"{wheel}[conform]")
    run(made, "python3 -m venv tool")
    run(made, f"{PIP} model-packager")
    return made


@pytest.fixture(scope="module")
def project(machine: Machine, built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The CNN, built and signed here, locked for both architectures and with the wheels of arm64; not without a machine."""
    assert machine.root.is_dir()
    made = Project(tmp_path_factory.mktemp("arm64") / "project", built.store)
    shutil.copytree(built.folder, made.folder)
    platforms = f"platforms: [{PYTHON}, linux_x86_64-cp311]\nvendor: [{PYTHON}]\n"
    made.write(CNN_RECIPE.replace("1.2.3", "6.4.0") + platforms)
    made.run("lock")
    made.run("build", "--locked")
    made.run("sign", "cnn:6.4.0", "--key", "release.pem", "-o", "cnn.bundle.tar")
    made.run("unpack", "cnn.bundle.tar", "tree", "--key", "release.pub")
    return made


@pytest.fixture(scope="module")
def carried(project: Project, machine: Machine) -> Machine:
    """The emulated machine with the bundle and the public key."""
    for name in ("cnn.bundle.tar", "release.pub"):
        shutil.copy(project.folder / name, machine.work)
    return machine


@pytest.fixture(scope="module")
def installed(carried: Machine) -> Machine:
    """The emulated machine with the bundle installed, from the wheels that it carries."""
    run(carried, f"tool/bin/packager install cnn.bundle.tar site {KEY}")
    return carried


@pytest.fixture(scope="module")
def judged(installed: Machine) -> Machine:
    """The emulated machine with what `packager conform` needs."""
    run(installed, f"{PIP} 'model-packager[conform]'")
    return installed


def download(wheels: Path, *wanted: str | Path) -> None:
    """Download wheels for arm64 from the index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--python-version", "3.11"]
    platforms = [word for tag in TAGS for word in ("--platform", tag)]
    subprocess.run([*command, *platforms, "--dest", wheels, *wanted], check=True)


def run(machine: Machine, script: str) -> str:
    """Run a script on the emulated machine, print its time, and return what it prints."""
    start = time.monotonic()
    done = machine.run(script)
    print(f"{time.monotonic() - start:6.1f} s  {script.strip().splitlines()[0]}")
    return done.stdout


def digests(tree: Path) -> dict[str, str]:
    files = (path for path in tree.rglob("*") if path.is_file())
    return {str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_numbers(report: Path) -> dict[str, Any]:
    """Hold a report of `packager conform` to L3, against outputs that the build stated; return its only cell."""
    result = json.loads((report / "result.json").read_text())
    (cell,) = result["cells"]
    assert result["integrity"]["signature"] == "verified"
    assert result["reference"]["stated"] > 0, "what the build computed on x86-64 is what answers are compared with"
    assert cell["levels"] == dict.fromkeys(("L0", "L1", "L2", "L3"), "pass"), cell
    assert result["host"]["machine"] == "aarch64"
    print(f"{result['seconds']:6.1f} s  {cell['cell']}: {len(cell['checks'])} checks, {cell['measures']}")
    return result


def test_base_install_reads_what_another_processor_signed(project: Project, carried: Machine) -> None:
    verified = json.loads(run(carried, f"tool/bin/packager verify cnn.bundle.tar {KEY} --json"))
    shown = json.loads(run(carried, "tool/bin/packager inspect cnn.bundle.tar --json"))
    run(carried, f"tool/bin/packager unpack cnn.bundle.tar tree {KEY}")
    assert verified["digest"] == project.run("verify", "cnn.bundle.tar", "--key", "release.pub", "--json")["digest"]
    assert shown == project.run("inspect", "cnn.bundle.tar", "--json")
    assert digests(carried.work / "tree") == digests(project.folder / "tree")


def test_flipped_bit_is_refused(project: Project, carried: Machine) -> None:
    content = bytearray((project.folder / "cnn.bundle.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (carried.work / "flipped.tar").write_bytes(content)
    refused = carried.run(f"tool/bin/packager verify flipped.tar {KEY}", code=None)
    here = project.run("verify", carried.work / "flipped.tar", "--key", "release.pub", code=None)
    assert refused.returncode == here.returncode != 0, refused.stderr


def test_locked_wheels_are_those_of_the_processor(project: Project, installed: Machine) -> None:
    lock = (project.folder / "tree" / "deps" / "onnxruntime" / requirements_name(PYTHON)).read_text()
    environment = installed.work / "site" / "current" / "env"
    listed = run(installed, "site/current/env/bin/python -c '" + LISTED + "'").split()
    assert {*re.findall(r"^(\S+==\S+)", lock, re.MULTILINE)} <= {*listed}
    libraries = [path for path in environment.resolve().rglob("*.so*") if path.read_bytes()[:4] == b"\x7fELF"]
    assert libraries and all(path.read_bytes()[18:20] == AARCH64 for path in libraries)
    run(installed, "site/current/env/bin/python -c 'import numpy, onnxruntime, granian, grpc, orjson, uvloop'")


LISTED = """
import importlib.metadata, re
for item in importlib.metadata.distributions():
    print(re.sub("[-_.]+", "-", item.name).lower() + "==" + item.version)
"""


def test_the_runtime_answers_as_the_source_did(judged: Machine) -> None:
    version = run(judged, "site/current/env/bin/python -c 'import onnxruntime; print(onnxruntime.__version__)'").strip()
    cell = f"--runtime onnxruntime=={version} --python site/current/env/bin/python"
    run(judged, f"tool/bin/packager conform cnn.bundle.tar {KEY} {cell} --level L3 --report direct")
    check_numbers(judged.work / "direct")


def test_the_server_answers_as_the_source_did(judged: Machine) -> None:
    run(judged, SERVE)
    check_numbers(judged.work / "served")


NETWORK = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[batch, 3, 16, 16] x) => (float[batch, 8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = Relu (a)
    c = GlobalAveragePool (b)
    y = Flatten (c)
}
"""
BUILD = """
cd built
export PACKAGER_STORE=/srv/store PACKAGER_WARM_WORKERS=0
../tool/bin/packager build --locked
../tool/bin/packager unpack net:1.0.0 tree
"""


def test_an_onnx_file_is_built_to_the_same_bytes(machine: Machine, tmp_path: Path) -> None:
    """But for the SBOM, which names the machine that built: the digests differ by that one word."""
    here = Project(tmp_path / "project", tmp_path / "store")
    here.folder.mkdir()
    model = onnx.parser.parse_model(NETWORK)
    weights = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype("float32")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, here.folder / "model.onnx")
    here.write(RECIPE)
    here.run("lock")
    shutil.copytree(here.folder, machine.work / "built", ignore=shutil.ignore_patterns(".*"))
    here.run("build", "--locked")
    here.run("unpack", "net:1.0.0", "tree")
    lock = machine.work / "built" / "bundle.lock"
    assert lock.read_text().count('"linux-x86_64"') == 1
    lock.write_text(lock.read_text().replace('"linux-x86_64"', '"linux-aarch64"'))
    tools = [f"{name}=={version(name)}" for name in ("onnx", "onnxruntime", "numpy", "protobuf", "ml-dtypes")]
    download(machine.work / "wheels", *tools, next((machine.work / "wheels").glob("model_packager-*.whl")))
    run(machine, f"{PIP} model-packager {' '.join(tools)}")
    run(machine, BUILD)
    there, ours = digests(machine.work / "built" / "tree"), digests(here.folder / "tree")
    differ = {
        name for name in {*there, *ours} if not name.startswith(".packager") and there.get(name) != ours.get(name)
    }
    assert differ == {"bundle.json", "sbom.cdx.json"}
    bills = ((folder / "tree" / "sbom.cdx.json").read_text() for folder in (here.folder, machine.work / "built"))
    lines = [[line for line in bill.split(",") if "serialNumber" not in line] for bill in bills]
    changed = [pair for pair in zip(*lines, strict=True) if pair[0] != pair[1]]
    assert [one.replace("x86_64", "aarch64") for one, _ in changed] == [other for _, other in changed] != []
