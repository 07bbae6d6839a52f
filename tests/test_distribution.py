# SPDX-License-Identifier: Apache-2.0
"""In package indexes `packager` is a stranger's. Nothing we print, write, render or install asks for it."""

from __future__ import annotations

import ast
import hashlib
import http.server
import importlib.metadata
import json
import re
import subprocess
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from packager import DISTRIBUTION
from packager.cli import main
from packager.errors import MissingToolError, install
from packager.formats import wheel_locks
from packager.formats.wheel_locks import Wheel
from packager.knobs.knobs import Override
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from tests.support import bundles, deployments

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = r"(?<![\w./{-])packager(?![\w/.-])"
ASKS = re.compile(
    rf"""(?:pip3?|pipx|uvx?|poetry|conda)\b[^\n]*?\b(?:install|add|run|download|wheel|tool)\b[^\n]*?{OWN}(?!\s+\w)  # as a word of an installer
    |(?<![\w./-])packager\[[a-z]                                                                                 # with an extra
    |^\s*["']?packager\s*(?:[=<>!~]=|@\s)                                                                        # as a requirement
    |/simple/packager\b|pypi\.org/project/packager\b|pkg:pypi/packager\b""",
    re.VERBOSE | re.MULTILINE,
)
TEXTS = (
    "packager",
    "runtimes",
    "policies",
    "templates",
    "conformance",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "Makefile",
    "pyproject.toml",
)


def asked(text: str) -> list[str]:
    return [found[0] for found in ASKS.finditer(text)]


@pytest.mark.parametrize(
    "text",
    [
        "pip install packager",
        'pip install "packager[lock]"',
        "uv pip install -q packager",
        "packager==1.0",
        "run packager[s3]",
        "pip download --no-deps packager",
        "RUN pip install --no-cache-dir packager==0.1.0",
        "uvx tool install packager",
    ],
)
def test_the_search_finds_what_it_must(text: str) -> None:
    assert asked(text)


@pytest.mark.parametrize(
    "text",
    [
        'pip install "model-packager[lock]"',
        "packager install x",
        "pip install dist/model_packager-0.1.0.whl",
        "packager pull",
    ],
)
def test_the_search_finds_nothing_else(text: str) -> None:
    assert not asked(text)


def text_files() -> Iterator[Path]:
    for name in TEXTS:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if (
                file.is_file()
                and "__pycache__" not in file.parts
                and file.suffix not in {".npz", ".png", ".onnx", ".so"}
            ):
                yield file


def test_no_text_of_ours_asks_for_the_stranger() -> None:
    found = {}
    for file in text_files():
        try:
            found[str(file)] = asked(file.read_text())
        except UnicodeDecodeError:
            continue
    assert len(found) > 300
    assert {name: rows for name, rows in found.items() if rows} == {}


def test_the_distribution_is_ours() -> None:
    assert PROJECT["name"] == DISTRIBUTION == "model-packager"
    made = importlib.metadata.distribution(DISTRIBUTION)
    wanted = [Requirement(line) for line in made.requires or ()]
    assert "packager" not in {requirement.name for requirement in wanted}
    assert {
        requirement.name for requirement in wanted if requirement.extras & set(PROJECT["optional-dependencies"])
    } >= {DISTRIBUTION}
    assert [point.name for point in made.entry_points if point.group == "console_scripts"] == ["packager"]


def extras() -> dict[str, set[str]]:
    """Every extra that our code names in a call that tells how to install one, with the files that do."""
    found: dict[str, set[str]] = {}
    for folder in ("packager", "runtimes", "policies"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    place = {"MissingToolError": 1, "install": 0}.get(node.func.id)
                    if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                        found.setdefault(node.args[place].value, set()).add(file.name)  # type: ignore[attr-defined]
    return found


def test_every_folder_with_modules_is_in_the_wheel() -> None:
    """An editable installation has them all, so that nothing else would miss one."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set()
    for package, folder in settings["package-dir"].items():
        own = ROOT / folder
        parts = [path.relative_to(own).parts for path in own.rglob("*.py") if package != "packager.templates"]
        parts = [names for names in parts if names[0] != "vectors"]  # files for others, with the script that tries them
        found |= {".".join((package, *names[:-1])) for names in parts}
    assert found - {"packager.templates"} <= set(settings["packages"])


def test_bytecode_is_no_data_of_the_wheel(tmp_path: Path) -> None:
    """A checkout that was used has it beside the templates."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for place in (tmp_path / "__pycache__", tmp_path / "triton" / "__pycache__"):
        place.mkdir(parents=True)
        (place / "x.cpython-311.pyc").touch()
    taken, left = (
        {path for pattern in settings[key]["packager.templates"] for path in tmp_path.glob(pattern) if path.is_file()}
        for key in ("package-data", "exclude-package-data")
    )
    assert len(taken) == 2 and taken <= left


def test_every_hint_names_an_extra_of_ours() -> None:
    assert len(extras()) > 8
    for extra in extras():
        assert extra in PROJECT["optional-dependencies"], extras()[extra]
        hint = MissingToolError("x", extra).hint
        assert hint == install(extra) == f'pip install "model-packager[{extra}]"'


@pytest.mark.parametrize("kind", sorted(deployments.OPTIONS))
def test_no_rendered_file_asks_for_the_stranger(kind: str, tmp_path: Path) -> None:
    bundle = deployments.carrier(Store(tmp_path / "store"))
    out = deployments.rendered(kind, bundle, tmp_path / "out", Override("batch.max", "3", "--set"))
    texts = {path: path.read_bytes().decode(errors="replace") for path in out.rglob("*") if path.is_file()}
    assert texts
    assert {path: asked(text) for path, text in texts.items() if asked(text)} == {}


def a_wheel(path: Path, name: str) -> Path:
    """Write a wheel that pip installs."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    file = path / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/RECORD", "".join(f"{member},,\n" for member in (*files, f"{info}/RECORD")))
    return file


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, list[str], Path]]:
    """A package index that has everything it is asked for, and writes down what that is."""
    folder, log = tmp_path / "index", []
    folder.mkdir()
    wheels = {name: a_wheel(folder, name) for name in ("kleines", "packager", "model_packager")}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            log.append(self.path)
            name = self.path.strip("/").split("/")[-1].replace("-", "_")
            file = folder / self.path.rpartition("/")[2]
            links = f'<a href="/files/{wheels[name].name}">{wheels[name].name}</a>' if name in wheels else ""
            data = file.read_bytes() if file.is_file() else f"<html><body>{links}</body></html>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream" if file.is_file() else "text/html")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, form: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/", log, wheels["kleines"]
    finally:
        server.shutdown()
        server.server_close()


def test_a_site_takes_the_server_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: tuple[str, list[str], Path]
) -> None:
    """The index is asked for what the lock names, by hash, and for nothing of ours: the server is this program's own."""
    address, log, wheel = index
    monkeypatch.setenv("PIP_INDEX_URL", address)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    row = Wheel("kleines", "1.0", wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest())
    texts = wheel_locks.write_lock_files(
        {deployments.PLATFORM: [row], **{f"linux_x86_64-cp3{n}": [row] for n in (12, 13, 14)}}, (), ()
    )
    store = Store(tmp_path / "store")
    bundle = bundles.make(store, {f"deps/onnxruntime/{name}": text.encode() for name, text in texts.items()})
    key = keys.generate_key("p256")
    keys.save(key, tmp_path / "k.pem", tmp_path / "k.pub", None)
    copy.save(sign(bundle, key), tmp_path / "b.tar")
    site = tmp_path / "site"
    assert main(["install", str(tmp_path / "b.tar"), str(site), "--key", str(tmp_path / "k.pub")]) == 0
    assert log, "the index was asked"
    assert {path.split("/")[2] for path in log if path.startswith("/simple/")} == {"kleines"}
    assert not [path for path in log if "packager" in path]
    python = site / "current" / "env" / "bin" / "python"
    code = "import importlib.metadata as m, json; print(json.dumps([d.name for d in m.distributions()]))"
    names = json.loads(subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout)
    assert "kleines" in names
    assert not [name for name in names if "packager" in name]
    for file in ("__init__.py", "http/app.py", "process/supervisor.py"):
        own = ROOT / "packager" / "server" / file
        assert (site / "current" / "app" / "packager" / "server" / file).read_bytes() == own.read_bytes()
