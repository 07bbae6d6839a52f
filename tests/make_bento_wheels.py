# SPDX-License-Identifier: Apache-2.0
"""Write `templates/bentoml/wheels.json`: what BentoML needs, chosen and hashed by uv. Usage: VERSION FOLDER.

In FOLDER an environment of it is made, whose metadata gives the ranges that the packages take of each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

OUT = Path(__file__).resolve().parents[1] / "templates" / "bentoml" / "wheels.json"
ABOUT = "The wheels that BentoML needs on Linux, as `uv pip compile --universal` chose them, and the ranges that they give for each other."
PYTHONS = ("3.11", "3.12", "3.13")
ABIS = ("cp311", "cp312", "cp313", "abi3", "none")
METADATA = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.requires or [] for d in m.distributions()}))"
LINUX = {
    "extra": "",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def fits(file: str) -> bool:
    *_, tags = parse_wheel_filename(file)
    return any(
        tag.platform == "any" or (re.match(r"manylinux.*(x86_64|aarch64)$", tag.platform) and tag.abi in ABIS)
        for tag in tags
    )


def applies(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({**LINUX, "python_version": version, "python_full_version": f"{version}.4"})
        for version in PYTHONS
    )


def ranges(lines: Iterable[str], names: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for requirement in filter(applies, map(Requirement, lines)):
        name = canonicalize_name(requirement.name)
        if name in names and requirement.specifier:
            found[name] = ",".join(filter(None, [found.get(name), str(requirement.specifier)]))
    return dict(sorted(found.items()))


def row(package: Mapping[str, Any], lines: Iterable[str], names: set[str]) -> dict[str, Any]:
    files = ((wheel.get("name") or wheel["url"].rpartition("/")[2], wheel["hashes"]) for wheel in package["wheels"])
    marker = {"marker": package["marker"]} if "marker" in package else {}
    hashes = sorted({found["sha256"] for file, found in files if fits(file)})
    return {
        "name": package["name"],
        "version": package["version"],
        **marker,
        "needs": ranges(lines, names),
        "hashes": hashes,
    }


def main(version: str, folder: Path) -> None:
    uv = [str(Path(sys.executable).parent / "uv")]
    choose = ["pip", "compile", "-q", "--universal", "--python-version", "3.11", "--only-binary", ":all:", "-"]
    lock, python = folder / "pylock.toml", folder / "environment"
    subprocess.run(
        [*uv, *choose, "--format", "pylock.toml", "-o", lock], input=f"bentoml=={version}", text=True, check=True
    )
    subprocess.run([*uv, "venv", "-q", "--python", "3.11", python], check=True)
    subprocess.run([*uv, "pip", "sync", "-q", "--python", python / "bin" / "python", lock], check=True)
    done = subprocess.run([python / "bin" / "python", "-c", METADATA], capture_output=True, text=True, check=True)
    needs = {canonicalize_name(name): lines for name, lines in json.loads(done.stdout).items()}
    packages = [
        package for package in tomllib.loads(lock.read_text())["packages"] if "pypy" not in package.get("marker", "")
    ]
    names = {canonicalize_name(package["name"]) for package in packages}
    rows = [row(package, needs.get(canonicalize_name(package["name"]), ()), names) for package in packages]
    body = ",\n".join(f"  {json.dumps(each)}" for each in rows)
    OUT.write_text(f'{{\n "about": {json.dumps(ABOUT)},\n "packages": [\n{body}\n ]\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
