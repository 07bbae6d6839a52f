# SPDX-License-Identifier: Apache-2.0
"""Write `templates/NAME/wheels.json`: what BentoML or MLServer needs, chosen and hashed by uv.

Usage: NAME VERSION FOLDER. In FOLDER an environment of it is made, whose metadata gives the ranges that the packages
take of each other.
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

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
TITLES = {"bentoml": "BentoML", "mlserver": "MLServer"}
MORE = {"mlserver": "pandas<3"}  # which takes more versions of numpy
ABOUT = "The wheels that {} needs on Linux, as `uv pip compile --universal` chose them, and the ranges that they give for each other."
PYTHONS = {"bentoml": ("3.11", "3.12", "3.13"), "mlserver": ("3.11", "3.12")}
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


def where(marker: Marker | None, pythons: Iterable[str]) -> list[bool]:
    """Return for each Python whether a marker holds there."""
    return [
        marker is None or marker.evaluate({**LINUX, "python_version": version, "python_full_version": f"{version}.4"})
        for version in pythons
    ]


def ranges(lines: Iterable[str], names: set[str], pythons: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name in names and requirement.specifier and any(where(requirement.marker, pythons)):
            found[name] = ",".join(filter(None, [found.get(name), str(requirement.specifier)]))
    return dict(sorted(found.items()))


def marker_of(package: Mapping[str, Any]) -> Marker | None:
    return Marker(package["marker"]) if "marker" in package else None


def row(package: Mapping[str, Any], lines: Iterable[str], names: set[str], pythons: Iterable[str]) -> dict[str, Any]:
    files = ((wheel.get("name") or wheel["url"].rpartition("/")[2], wheel["hashes"]) for wheel in package["wheels"])
    marker = {} if all(where(marker_of(package), pythons)) else {"marker": package["marker"]}
    hashes = sorted({found["sha256"] for file, found in files if fits(file)})
    return {
        "name": package["name"],
        "version": package["version"],
        **marker,
        "needs": ranges(lines, names, pythons),
        "hashes": hashes,
    }


def main(name: str, version: str, folder: Path) -> None:
    uv = [str(Path(sys.executable).parent / "uv")]
    choose = ["pip", "compile", "-q", "--universal", "--python-version", "3.11", "--only-binary", ":all:", "-"]
    lock, python = folder / "pylock.toml", folder / "environment"
    pythons = PYTHONS[name]
    wanted = f"{name}=={version}\n{MORE.get(name, '')}"
    subprocess.run([*uv, *choose, "--format", "pylock.toml", "-o", lock], input=wanted, text=True, check=True)
    subprocess.run([*uv, "venv", "-q", "--python", "3.11", python], check=True)
    subprocess.run([*uv, "pip", "sync", "-q", "--python", python / "bin" / "python", lock], check=True)
    done = subprocess.run([python / "bin" / "python", "-c", METADATA], capture_output=True, text=True, check=True)
    needs = {canonicalize_name(found): lines for found, lines in json.loads(done.stdout).items()}
    packages = [
        package for package in tomllib.loads(lock.read_text())["packages"] if any(where(marker_of(package), pythons))
    ]
    names = {canonicalize_name(package["name"]) for package in packages}
    rows = [row(package, needs.get(canonicalize_name(package["name"]), ()), names, pythons) for package in packages]
    body = ",\n".join(f"  {json.dumps(each)}" for each in rows)
    about = json.dumps(ABOUT.format(TITLES[name]))
    (TEMPLATES / name / "wheels.json").write_text(f'{{\n "about": {about},\n "packages": [\n{body}\n ]\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
