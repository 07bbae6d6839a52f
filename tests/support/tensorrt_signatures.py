# SPDX-License-Identifier: Apache-2.0
"""Print what the bindings of TensorRT take: `python -m tests.support.tensorrt_signatures FOLDER BINARY`.

The bindings are a module of their own wheel, and need libraries of three gigabytes that only NVIDIA's index has. Here
they are loaded beside empty libraries that have the few names they want: nothing can be computed, and every class says
the signatures that its functions have (pybind11 writes them into their documentation).

Printed is one JSON object: class to member to signatures, each a list of [parameter, has a default], or null for what is
no function.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_LIBRARIES = ("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_plugin.so.11")
_PARAMETER = re.compile(r"(\w+): ")


def main(folder: Path, binary: Path) -> int:
    """Load the bindings, with one more name in the libraries for each that is missing, and print the signatures."""
    names: list[str] = os.environ.get("NAMES", "").split()
    if not names:
        for _ in range(50):
            _write_libraries(folder, names)
            environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "NAMES": " ".join(names) or "none"}
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.tensorrt_signatures", str(folder), str(binary)],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            missing = re.search(r"undefined symbol: (\w+)", done.stderr)
            if missing is None:
                sys.stderr.write(done.stderr)
                sys.stdout.write(done.stdout)
                return done.returncode
            names.append(missing[1])
        return 1
    print(json.dumps(describe(_load(binary))))
    return 0


def _write_libraries(folder: Path, names: list[str]) -> None:
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
    for library in _LIBRARIES:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(folder / library), str(source)], check=True)


def _load(binary: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorrt", binary)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe(module: ModuleType) -> dict[str, dict[str, Any]]:
    """Return the classes of the bindings, with their members."""
    found: dict[str, dict[str, Any]] = {}
    for name, kind in vars(module).items():
        if isinstance(kind, type):
            members = {key: getattr(kind, key) for key in dir(kind) if not key.startswith("__") or key == "__init__"}
            found[name] = {key: signatures(key, member) for key, member in members.items()}
    return found


def signatures(name: str, member: Any) -> list[list[tuple[str, bool]]] | None:
    """Return the parameters of each form of a function, without `self`; None for what is no function."""
    if not callable(member):
        return None
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\)(?: ->.*)?$", member.__doc__ or "", re.MULTILINE)
    return [_parameters(line) for line in lines if not line.startswith("*args")]


def _parameters(text: str) -> list[tuple[str, bool]]:
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    found = [(named[1], " = " in part) for part in parts if (named := _PARAMETER.match(part.strip()))]
    return [item for item in found if item[0] != "self"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
