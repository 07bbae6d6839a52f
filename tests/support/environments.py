# SPDX-License-Identifier: Apache-2.0
"""Virtual environments with packages that the development environment must not hold, kept between runs of the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packager.files import make_staging

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager-tests"


def python_with(
    *requirements: str, python: str = f"{sys.version_info.major}.{sys.version_info.minor}", scripts: bool = False
) -> Path:
    """Return an interpreter that has exactly `requirements`, from the cache or made anew.

    With `scripts` the commands beside it run as well: the environment is moved when it is whole, and others keep the
    path that it had before.
    """
    kind = ("--relocatable",) if scripts else ()
    name = hashlib.sha256("\n".join((python, *kind, *requirements)).encode()).hexdigest()[:16]
    place = CACHE / name
    if not (place / "bin" / "python").exists():
        uv = Path(sys.executable).parent / "uv"
        with make_staging(place) as directory:
            fresh = directory / "environment"
            subprocess.run([uv, "venv", "--quiet", *kind, "--python", python, fresh], check=True)
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--python", fresh / "bin" / "python", *requirements], check=True
            )
            if not (place / "bin" / "python").exists():
                fresh.rename(place)
    return place / "bin" / "python"


def other_python(version: str) -> str:
    """Return an interpreter of another minor version than this one, or skip: uv's findings, and those of pyenv."""
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "python", "find", "--no-project", "--no-python-downloads", version]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    if not found and not pyenv:
        pytest.skip(f"there is no Python {version} here")
    return found or str(pyenv[-1])


def run(python: Path, code: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run code there, with nothing of this environment on its path; return what it prints."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=variables, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


def model_signing() -> Path:
    """OpenSSF model_signing; pyOpenSSL is what its metadata forgets."""
    return python_with("model-signing==1.1.1", "pyOpenSSL==26.4.0", "sigstore==4.5.1")


def sigstore() -> Path:
    """The reference client of Sigstore."""
    return python_with("sigstore==4.5.1")


def node_with(*packages: str) -> Path:
    """Return the folder `node_modules` with these packages of npm (`NAME@VERSION`), from the cache or made anew.

    Their install scripts do not run. The test is skipped where Node.js or npm is not installed, or npm has no registry.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    place = CACHE / f"node-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:16]}"
    if not (place / "node_modules").is_dir():
        with make_staging(place) as directory:
            (directory / "package.json").write_text("{}")
            command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", *packages]
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                pytest.skip(f"npm installs nothing here: {done.stderr.strip()[-200:]}")
            if not (place / "node_modules").is_dir():
                place.mkdir(parents=True, exist_ok=True)
                (directory / "node_modules").rename(place / "node_modules")
    return place / "node_modules"


def linked_environment(place: Path, *requirements: str) -> Path:
    """Return the interpreter of a new environment with distributions of this one and what they require, as hard links.

    A requirement may name extras. Nothing is downloaded: this environment has them all. Bytecode comes along, else each
    worker compiles what it imports.
    """
    venv.create(place, symlinks=True)
    site = Path(sysconfig.get_path("purelib"))
    there = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for distribution in _required(*requirements):
        for file in distribution.files or ():
            source, target = site / file, there / file
            if source.suffix == ".pyc" or not source.is_file():
                continue
            compiled = [cache_from_source(str(path)) for path in (source, target) if path.suffix == ".py"]
            pairs = [(source, target), tuple(map(Path, compiled))] if compiled else [(source, target)]
            for made, wanted in pairs:
                if made.is_file():
                    wanted.parent.mkdir(parents=True, exist_ok=True)
                    _link(made, wanted)
    return place / "bin" / "python"


def _required(*requirements: str) -> list[metadata.Distribution]:
    waiting, found = [Requirement(text) for text in requirements], {}
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in found:
            continue
        found[key] = next(metadata.Distribution.discover(name=wanted.name, path=[sysconfig.get_path("purelib")]))
        for line in map(Requirement, found[key].requires or ()):
            if line.marker is None or any(line.marker.evaluate({"extra": name}) for name in (*wanted.extras, "")):
                waiting.append(line)
    return list({distribution.name: distribution for distribution in found.values()}.values())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
