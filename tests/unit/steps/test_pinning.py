# SPDX-License-Identifier: Apache-2.0
"""Pinned arithmetic: the settings reach the libraries, and every CPU computes the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from packager.sandbox.pinning import pin_numerics

ARITHMETIC = """
import hashlib, math, numpy as np, torch
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
x = torch.rand(1000, generator=g) * 20 - 10
a, b = torch.rand(64, 128, generator=g), torch.rand(128, 96, generator=g)
image, kernel = torch.rand(2, 8, 17, 17, generator=g), torch.rand(16, 8, 3, 3, generator=g)
f = torch.nn.functional
results = [torch.exp(x), torch.sin(x), torch.softmax(a, -1), a @ b, f.conv2d(image, kernel), f.gelu(x),
           f.layer_norm(a, (128,)), torch.linspace(0, 1, 77), x.abs().pow(1.37)]
n = x.numpy()
results += [np.exp(n), np.sin(n.astype("f8")), np.tanh(n), a.numpy() @ b.numpy(), [math.exp(v) for v in n.tolist()]]
for result in results:
    print(hashlib.sha256(np.asarray(result).tobytes()).hexdigest()[:12])
"""
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


def test_the_settings_arrive(tmp_path: Path, worker: Any) -> None:
    code = (
        "import torch\nfrom numpy._core._multiarray_umath import __cpu_dispatch__ as names, __cpu_features__ as on\n"
        "print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), [n for n in names if on[n]])"
    )
    out, log = worker(code, cwd=tmp_path, env=pin_numerics()).communicate(timeout=120)
    assert out.split(maxsplit=2) == ["DEFAULT", "1", "[]\n"], log
    assert "warning" not in log.lower()


@pytest.mark.parametrize(("machine", "own"), [("x86_64", True), ("AMD64", True), ("aarch64", True), ("riscv64", False)])
def test_every_machine_gets_what_it_understands(machine: str, own: bool) -> None:
    found = pin_numerics(machine)
    assert ("ATEN_CPU_CAPABILITY" in found) is own
    assert ("MKL_CBWR" in found) is (machine.lower() in ("x86_64", "amd64"))
    assert found["NPY_ENABLE_CPU_FEATURES"] == " " and found["TZ"] == "UTC"


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="needs qemu-user (`apt-get install qemu-user`) to be another CPU")
@pytest.mark.parametrize("cpu", ["Nehalem", "Haswell-v4", "EPYC"])
def test_another_cpu_computes_the_same(cpu: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **pin_numerics()}
    here, there = (
        subprocess.run(
            [*emulator, sys.executable, "-c", ARITHMETIC], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for emulator in ([], [str(QEMU), "-cpu", cpu])
    )
    assert here == there
