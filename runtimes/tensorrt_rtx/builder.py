# SPDX-License-Identifier: Apache-2.0
"""Build one engine in a process whose memory is laid out the same way every time.

The library keeps what it works on in containers that follow memory addresses. Where two expressions of lengths are
equal it keeps the one it meets first, so engines of some networks (a ResNet-50 in fp32) differ in the numbers of
symbols from process to process. In the process that is started here (`_tensorrt_build.py` as a program) addresses
follow from nothing but the interpreter and the library:

* the kernel does not randomise them (a personality that the program gives itself, as `setarch -R` does),
* the stack has a fixed limit, because the kernel lays mappings out below it,
* it imports the standard library and TensorRT only, so that Python's own memory is small and always the same,
* the work is done in a separate thread, which has a separate heap: paths and the environment, whose lengths
  differ, lie elsewhere,
* the graph is called by the same name everywhere, because the process starts in its directory.

Where a container forbids the first (Docker's default profile of seccomp does), the engine is as good, and may differ
in those numbers from the next one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packager.runtimes import _tensorrt_build

from packager.canonical import JSON
from packager.errors import StepError
from packager.sandbox.pinning import pin_numerics

_MODULE = "tensorrt_rtx"


def build(graph: Path, device: str, interface: JSON, out: Path) -> None:
    """Write the engine of the file `graph` for the capability `device` to `out`. Raises StepError."""
    spec = importlib.util.find_spec(_MODULE)
    assert spec and spec.origin, "the caller imported it"  # noqa: S101
    library = Path(spec.origin).parent.parent
    job = {
        "module": _MODULE,
        "graph": graph.name,
        "capability": device.replace("_", "").upper(),
        "interface": interface,
        "out": str(out.resolve()),
    }
    command = [sys.executable, "-s", "-P", "-S", "-B", str(_tensorrt_build.__file__), str(library)]
    home = tempfile.gettempdir()
    done = subprocess.run(
        command,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=graph.resolve().parent,
        env={**pin_numerics(), "HOME": home, "TMPDIR": home},
        check=False,
    )
    answer = json.loads((done.stdout.splitlines() or ["{}"])[-1]) if done.returncode == 0 else {}
    if "error" in answer:
        raise StepError(answer["error"], hint=answer["hint"])
    if not answer or not out.is_file():
        reported = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StepError(f"the builder of TensorRT for RTX ended with status {done.returncode}: {reported:.300}")
