# SPDX-License-Identifier: Apache-2.0
"""Dependency locks and carried wheels, with real indexes, real wheels, and installations without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from packager.formats import platforms
from tests.e2e.conftest import CNN_RECIPE, Project, tool
from tests.support.tools import offline

HERE = platforms.name_host()
OTHER = "linux_x86_64-cp312" if HERE != "linux_x86_64-cp312" else "linux_x86_64-cp311"


@pytest.fixture(scope="module")
def vendored(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The CNN with the wheels of this Python and of another one, signed; its store is that of the plain bundle."""
    project = Project(tmp_path_factory.mktemp("vendored") / "project", built.store)
    shutil.copytree(built.folder, project.folder)
    project.write(CNN_RECIPE.replace("1.2.3", "2.0.0") + f"vendor: [{HERE}, {OTHER}]\n")
    answer = project.run("build", "--locked", "--json")
    assert answer["executed"] in (1, 2), "only wheels are fetched, once per platform and store: others use it too"
    project.run("sign", "cnn:2.0.0", "--key", "release.pem", "-o", "cnn.bundle.tar")
    return project


def wheels_of(project: Project, name: str = "cnn:2.0.0") -> dict[str, str]:
    files = project.run("inspect", name, "--json")["files"]
    return {Path(path).name: about["digest"] for path, about in files.items() if path.endswith(".whl")}


def test_the_wheels_are_those_of_the_lock_and_fetched_once(vendored: Project) -> None:
    locked = json.loads((vendored.folder / "bundle.lock").read_bytes())["dependencies"]["runtimes"]["onnxruntime"]
    expected = {row[2]: f"sha256:{row[3]}" for name in (HERE, OTHER) for row in locked["platforms"][name]}
    assert wheels_of(vendored) == expected
    assert any("cp312" in name for name in expected)
    assert any("cp311" in name for name in expected)
    again = vendored.run("build", "--locked", "--json", prefix=offline())
    assert again["executed"] == 0


@pytest.mark.slow
def test_another_store_gives_the_same_digest(vendored: Project, tmp_path: Path) -> None:
    """What is fetched anew is the same bundle: the lock decides, not the day."""
    other = Project(tmp_path / "elsewhere" / "project", tmp_path / "store")
    shutil.copytree(vendored.folder, other.folder)
    first = vendored.run("build", "--locked", "--json")["digest"]
    assert other.run("build", "--locked", "--json")["digest"] == first


def test_a_carried_bundle_installs_with_nothing_else(vendored: Project, tmp_path: Path) -> None:
    """No flag, no network, no index: wheels of the bundle alone. A pip configured for an index is not asked."""
    vendored.run(
        "install",
        "cnn.bundle.tar",
        tmp_path / "site",
        "--key",
        "release.pub",
        prefix=offline(),
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_FIND_LINKS="/nowhere",
    )
    python = tmp_path / "site" / "current" / "env" / "bin" / "python"
    subprocess.run([python, "-I", "-c", "import onnxruntime, numpy, granian"], check=True)


def test_doctor_answers_as_install_does(vendored: Project, built: Project, tmp_path: Path) -> None:
    """The same outcome, and where it is no the same words, before anything is written."""
    told = vendored.run("doctor", "cnn.bundle.tar", "--store", tmp_path / "new", "--json")["bundle"]
    assert told["outcome"] == told["install"]["outcome"] == "ok"
    vendored.run("install", "cnn.bundle.tar", tmp_path / "carried", "--key", "release.pub")
    python, ask = tmp_path / "carried/current/env/bin/python", "import onnxruntime; print(onnxruntime.__version__)"
    there = subprocess.run([python, "-Ic", ask], capture_output=True, text=True, check=True)
    assert told["install"]["version"] == there.stdout.strip()

    empty = tmp_path / "wheels"
    empty.mkdir()
    assert told["install"]["wheels"] == "carried by the bundle"
    known = built.run("doctor", "cnn.bundle.tar", "--wheelhouse", empty, "--json")["bundle"]["install"]
    assert known["wheels"] == "installed here already", "an equal environment is kept"
    fresh = ("--store", tmp_path / "fresh")
    refused = built.run("doctor", "cnn.bundle.tar", "--wheelhouse", empty, *fresh, "--json", code=1)["bundle"][
        "install"
    ]
    assert "lacks" in refused["reasons"][0]["message"]
    given = ("--key", "release.pub", "--wheelhouse", empty, *fresh)
    built.run("install", "cnn.bundle.tar", tmp_path / "site", *given, code=3)

    other = Project(tmp_path / "other", vendored.store)
    shutil.copytree(vendored.folder, other.folder)
    other.write(CNN_RECIPE.replace("1.2.3", "2.0.1") + f"vendor: [{OTHER}]\n")
    other.run("build")
    other.run("sign", "cnn:2.0.1", "--key", "release.pem")
    said = other.run("doctor", "cnn:2.0.1", "--json", code=1)["bundle"]["install"]["reasons"][0]["message"]
    done = other.run("install", "cnn:2.0.1", tmp_path / "site", "--key", "release.pub", code=1)
    assert f"error: {said}" in done.stderr and OTHER in said


def test_other_tools_install_from_the_unpacked_lock(vendored: Project, tmp_path: Path) -> None:
    """uv reads `pylock.toml`, pip the requirements; both without an index."""
    vendored.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--key", "release.pub")
    deps, uv = tmp_path / "tree" / "deps" / "onnxruntime", Path(sys.executable).parent / "uv"
    listed = {}
    for name, arguments in {
        "pylock": ["sync", "--offline", deps / "pylock.toml"],
        "pip": [
            "install",
            "--offline",
            "--no-index",
            "--find-links",
            deps / "wheels",
            "--require-hashes",
            "--no-deps",
            "-r",
            deps / f"requirements-{HERE}.txt",
        ],
    }.items():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / name], check=True)
        subprocess.run([*offline(), uv, "pip", *arguments, "--quiet", "--python", tmp_path / name], check=True)
        done = subprocess.run(
            [uv, "pip", "freeze", "--python", tmp_path / name], capture_output=True, text=True, check=True
        )
        listed[name] = sorted(row.partition(" @ ")[0].partition("==")[0] for row in done.stdout.splitlines())
    assert listed["pylock"] == listed["pip"]
    assert "onnxruntime" in listed["pip"]


def test_wheels_are_shared_and_not_in_deltas_twice(vendored: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", vendored.store)
    shutil.copytree(vendored.folder, project.folder)
    project.write((vendored.folder / "bundle.yaml").read_text().replace("2.0.0", "2.1.0"))
    assert project.run("build", "--locked", "--json")["executed"] == 0
    assert wheels_of(project, "cnn:2.1.0") == wheels_of(vendored)
    blobs = vendored.store / "v1" / "blobs" / "sha256"
    assert all((blobs / digest.removeprefix("sha256:")).is_file() for digest in wheels_of(vendored).values())
    project.run("delta", "cnn:2.0.0", "cnn:2.1.0", "-o", "up.tar")
    full = project.run("inspect", "cnn:2.1.0", "--json")["size"]
    assert (project.folder / "up.tar").stat().st_size < 100_000 < full / 100


def test_one_changed_byte_in_any_wheel_is_refused(vendored: Project, tmp_path: Path) -> None:
    vendored.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--key", "release.pub")
    found = sorted((tmp_path / "tree" / "deps" / "onnxruntime" / "wheels").iterdir())
    assert len(found) > 9
    for wheel in found:
        data = wheel.read_bytes()
        middle = len(data) // 2
        wheel.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        done = vendored.run("install", tmp_path / "tree", tmp_path / "site", "--key", "release.pub", code=5)
        assert wheel.name in done.stderr
        assert not (tmp_path / "site" / "current").exists()
        wheel.write_bytes(data)


def test_pip_refuses_it_too(vendored: Project, tmp_path: Path) -> None:
    """Should the bundle's own check ever fail, the hash in the lock still holds."""
    vendored.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--key", "release.pub")
    deps = tmp_path / "tree" / "deps" / "onnxruntime"
    victim = next((deps / "wheels").glob("click*"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--find-links",
        deps / "wheels",
        "--require-hashes",
        "--no-deps",
        "--target",
        tmp_path / "t",
        "-r",
        deps / f"requirements-{HERE}.txt",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_missing_python_error_lists_carried_ones(vendored: Project, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", vendored.store)
    shutil.copytree(vendored.folder, project.folder)
    project.write(CNN_RECIPE.replace("1.2.3", "2.2.0"))
    project.run("build", "--locked", "--vendor", OTHER)
    project.run("sign", "cnn:2.2.0", "--key", "release.pem", "-o", "other.bundle.tar")
    done = project.run("install", "other.bundle.tar", tmp_path / "site", "--key", "release.pub", code=1)
    assert f"carries wheels for `{OTHER}`, and this is `{HERE}`" in done.stderr
    assert "CPython" in done.stderr
    assert not (tmp_path / "site" / "current").exists()


@pytest.mark.slow  # determinism of whole builds is held by default
def test_two_locks_a_while_apart_and_elsewhere_are_identical(
    built: Project, tmp_path: Path, cnn: Path, project: Callable[..., Project]
) -> None:
    """Nothing is remembered here: another directory, home, store and cache. The slow one waits a minute."""
    made = project(CNN_RECIPE, model=cnn)
    made.remember_nothing()
    made.run("lock")
    assert (made.folder / "bundle.lock").read_bytes() == (built.folder / "bundle.lock").read_bytes()


@pytest.mark.slow
def test_two_locks_a_minute_apart_are_identical(cnn: Path, tmp_path: Path) -> None:
    locks = []
    for name in ("here", "there/deeper"):
        made = Project(tmp_path / name / "project", tmp_path / name / "store")
        made.remember_nothing()
        shutil.copytree(cnn, made.folder / "model")
        made.write(CNN_RECIPE)
        made.run("lock")
        locks.append((made.folder / "bundle.lock").read_bytes())
        if len(locks) == 1:
            time.sleep(61)
    assert locks[0] == locks[1]


@pytest.mark.slow  # tests/unit/lock holds both engines by default
def test_both_engines_lock_the_same(cnn: Path, project: Callable[..., Project]) -> None:
    """pip's resolver and uv's; what they chose, byte by byte. Addresses may be missing where an index is a directory."""
    made = project(CNN_RECIPE + f"platforms: [{HERE}]\n", model=cnn)
    found = []
    for engine in ("uv", "pip-tools"):
        made.run("lock", "--engine", engine)
        value = json.loads((made.folder / "bundle.lock").read_bytes())["dependencies"]
        for row in value["runtimes"]["onnxruntime"]["platforms"][HERE]:
            row[4] = None
        found.append(value)
    assert found[0] == found[1]
    assert "onnxruntime==" in json.dumps(found[0])
    made.write(CNN_RECIPE + f"platforms: [{OTHER}]\n")
    done = made.run("lock", "--engine", "pip-tools", code=2)
    assert "--engine uv" in done.stderr


def test_a_conflict_is_one_paragraph(cnn: Path, project: Callable[..., Project]) -> None:
    made = project(
        CNN_RECIPE + f'platforms: [{HERE}]\ndependencies: own.txt\nruns-on: {{onnxruntime: "==1.31.1"}}\n', model=cnn
    )
    (made.folder / "own.txt").write_text("protobuf==3.20.3\n")
    done = made.run("lock", code=2)
    assert "`protobuf==3.20.3` from `own.txt` against `protobuf>=4.25.8` from onnxruntime" in done.stderr
    assert "hint: try: change `protobuf` in `own.txt`" in done.stderr
    (made.folder / "own.txt").write_text("numpy==2.4.6\n")
    made.write((made.folder / "bundle.yaml").read_text().replace("==1.31.1", "==1.17.*"))
    assert "`numpy<2` from runtime `onnxruntime`" in made.run("lock", code=2).stderr
    assert not (made.folder / "bundle.lock").exists()


def test_a_platform_without_wheels_is_left_out_or_refused(cnn: Path, project: Callable[..., Project]) -> None:
    recipe = CNN_RECIPE + 'runs-on: {onnxruntime: "==1.17.*"}\n'
    made = project(recipe, model=cnn)
    answer = made.run("lock", "--json")
    assert answer["platforms"]["onnxruntime"] == ["linux_x86_64-cp311", "linux_x86_64-cp312"]
    made.write(recipe + "vendor: [linux_x86_64-cp313]\n")
    done = made.run("lock", code=2)
    assert "cannot be locked for `linux_x86_64-cp313`" in done.stderr


def local_wheel(source: Path, folder: Path, local: str) -> Path:
    """Make the same wheel with a local version, as hardware vendors do: renamed, with metadata and record rewritten."""
    name, version, *tags = source.name.removesuffix(".whl").split("-")
    target = folder / "-".join([name, f"{version}+{local}", *tags]).__add__(".whl")
    folder.mkdir(parents=True)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        rows = []
        for item in old.namelist():
            data, path = old.read(item), item.replace(f"{name}-{version}.", f"{name}-{version}+{local}.")
            if item.endswith(".dist-info/METADATA"):
                data = data.replace(f"\nVersion: {version}\n".encode(), f"\nVersion: {version}+{local}\n".encode())
            if not item.endswith(".dist-info/RECORD"):
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                rows.append(f"{path},sha256={digest},{len(data)}")
                new.writestr(path, data)
        new.writestr(f"{name}-{version}+{local}.dist-info/RECORD", "\n".join([*rows, ""]))
    return target


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index(vendored: Project, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A second index on this machine with one wheel that only it has."""
    vendored.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--key", "release.pub")
    source = next((tmp_path / "tree" / "deps" / "onnxruntime" / "wheels").glob("prometheus_client*"))
    wheel = local_wheel(source, tmp_path / "index" / "simple" / "prometheus-client", "cu128")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "index")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple", wheel
    server.shutdown()
    server.server_close()


def test_project_lock_is_kept_with_local_version_and_index(
    index: tuple[str, Path], vendored: Project, tmp_path: Path
) -> None:
    address, wheel = index
    version = wheel.name.split("-")[1]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    made = Project(tmp_path / "project", vendored.store)
    shutil.copytree(vendored.folder, made.folder)
    made.write(
        CNN_RECIPE.replace("1.2.3", "2.3.0")
        + f"platforms: [{HERE}]\nvendor: [{HERE}]\ndependencies: requirements.txt\n"
    )
    own = (
        f"--extra-index-url {address}\nprometheus-client=={version} --hash=sha256:{digest}\nnumpy==2.4.1\nunused==1.0\n"
    )
    (made.folder / "requirements.txt").write_text(own)
    made.run("lock")
    value = json.loads((made.folder / "bundle.lock").read_bytes())["dependencies"]
    rows = {row[0]: row for row in value["runtimes"]["onnxruntime"]["platforms"][HERE]}
    assert rows["prometheus-client"][1:4] == [version, wheel.name, digest]
    assert rows["numpy"][1] == "2.4.1"
    assert "unused" not in rows
    assert value["indexes"] == [address]
    made.run("build", "--locked")
    bom = made.run("sbom", "cnn:2.3.0", "--json")
    assert f"pkg:pypi/prometheus-client@{version.replace('+', '%2B')}" in {
        item.get("purl") for item in bom["components"]
    }
    made.run("unpack", "cnn:2.3.0", "tree")
    deps = made.folder / "tree" / "deps" / "onnxruntime"
    assert f"# also needs the index {address}" in (deps / "requirements.txt").read_text()
    assert wheel.name in {path.name for path in (deps / "wheels").iterdir()}
    (made.folder / "requirements.txt").write_text(own.replace(digest, "00" * 32))
    assert "stale" in made.run("build", "--locked", code=2).stderr
    assert "not a file that `requirements.txt` accepts" in made.run("lock", code=5).stderr


@pytest.mark.slow
def test_uv_locks_and_requirements_keep_the_same_versions(cnn: Path, project: Callable[..., Project]) -> None:
    """A real project, locked by uv itself."""
    made = project(CNN_RECIPE + f"platforms: [{HERE}]\n", model=cnn)
    (made.folder / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "0"\nrequires-python = ">=3.11,<3.12"\ndependencies = ["numpy==2.3.5", "orjson<3.12"]\n'
    )
    uv = tool(str(Path(sys.executable).parent / "uv"))
    subprocess.run([uv, "lock", "--quiet", "--directory", made.folder], check=True)
    made.write((made.folder / "bundle.yaml").read_text() + "dependencies: uv.lock\n")
    made.run("lock")
    rows = json.loads((made.folder / "bundle.lock").read_bytes())["dependencies"]["runtimes"]["onnxruntime"][
        "platforms"
    ][HERE]
    found = {row[0]: row[1] for row in rows}
    assert found["numpy"] == "2.3.5"
    assert found["orjson"].startswith("3.11.")
