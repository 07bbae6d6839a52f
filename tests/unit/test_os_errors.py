# SPDX-License-Identifier: Apache-2.0
"""Whatever the operating system refuses, at whatever call of whatever verb: a clear error, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from packager import os_errors
from packager.cli import _verbs
from packager.deploy import server_files
from packager.errors import PackagerError, SourceError, StorageError
from packager.store.store import Store
from tests.support import deployments, forks, graphs
from tests.support.environments import CACHE
from tests.support.stub_registry import Stub, serving

FEW = ("ENOSPC", "EACCES", "ENOTDIR", "EMFILE")
ERRORS = (*FEW, "EROFS", "EIO", "ESTALE", "ENAMETOOLONG", "ELOOP", "EEXIST", "ENOENT", "EBUSY")
PASS = "--passphrase-file=passphrase"
RECIPE = "name: real\nversion: 1.0.0\nsource: ./model.onnx\nruns-on: {onnxruntime: '>=1.17'}\n"
CACHES = {
    "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(CACHE.parent / "uv")
}  # the home directory is another one
NO_HOME = (
    "import sys; from pathlib import Path; from packager import cli",
    "def none(): raise RuntimeError('Could not determine home directory.')",
    "Path.home = none; sys.exit(cli.main(sys.argv[1:]))",
)


def verbs() -> list[list[str]]:
    """Return command lines that succeed in the folder."""
    return [
        ["inspect", "small.bundle.tar"],
        ["verify", "small.bundle.tar", "--key", "release.pub"],
        ["import", "small.bundle.tar", "--store", "other", "--key", "release.pub"],
        ["export", "tiny:1.0.0", "out.bundle.tar", "--store", "store"],
        ["unpack", "small.bundle.tar", "out"],
        ["sign", "tiny:1.0.0", "--key", "release.pem", "--store", "store", PASS],
        ["keygen", "another", PASS],
        ["diff", "small.bundle.tar", "small.bundle.tar"],
        ["sbom", "small.bundle.tar"],
        ["list", "--store", "store"],
        ["rm", "tiny:1.0.0", "--store", "store"],
        ["sign", "small.bundle.tar", "--key", "release.pem", "-o", "signed.bundle.tar", PASS],
        ["cache", "size", "--store", "store"],
        ["cache", "gc", "--store", "store"],
        ["cache", "verify", "--store", "store"],
        ["config", "small.bundle.tar"],
        ["render", "systemd", "small.bundle.tar", "units", "--key", "release.pub"],
        ["install", "small.bundle.tar", "fresh", "--key", "release.pub", "--store", "other"],
        ["status", "site"],
        ["uninstall", "site"],
        ["init", "model.onnx", "--no-look"],
    ]


def releases(host: str) -> list[list[str]]:
    """Return command lines about a real model and a registry: what is made once, and sent."""
    recipe, store = ["real/bundle.yaml"], ["--store", "store"]
    return [
        ["lock", *recipe, *store],
        ["build", *recipe, "--locked", *store],
        ["push", "tiny:1.0.0", f"oci://{host}/team/tiny:1.0.0", *store],
        ["pull", f"oci://{host}/there/tiny:1.0.0", "--key", "release.pub", "--store", "other"],
        [
            "conform",
            "real.bundle.tar",
            "--key",
            "release.pub",
            "--python",
            sys.executable,
            "--runtime",
            "onnxruntime",
            "--level",
            "L0",
            "--report",
            "report",
        ],
        ["serve", "site"],
        *(
            ["render", kind, "small.bundle.tar", "out", "--key", "release.pub", *more]
            for kind, more in RENDERED.items()
        ),
    ]


RENDERED = {
    "kubernetes": ["--image", f"registry.example/tiny@{deployments.DIGEST}"],
    "container": ["--base", deployments.BASE],
    "bentoml": [],
    "mlflow": [],
    "observability": [],
}
RELEASES = [" ".join(line[:2]) for line in releases("HOST")]
STATUS = {
    "serve": 1,  # no server is in the installation
    "upgrade": 1,
    "chat": 2,  # no model of texts
    "bench": 2,  # no reference inputs
    "tune": 2,
    "watch": 2,  # no recipe that follows a registry
    "rollback": 2,  # no release before
    "sign-image": 2,  # no rendering of a container
    "drift": 2,  # no rows in the recipe
}


def others() -> list[list[str]]:
    """Return the command lines of every other verb."""
    store, key = ["--store", "store"], ["--key", "release.pem", PASS]
    trust, two = ["--key", "release.pub"], ["real.bundle.tar", "--previous", "real.bundle.tar"]
    root = ["--root-key", "release.pem", PASS]
    statement = ["--predicate", "predicate.json", "--type", "https://example.org/x"]
    image = ["--image", f"registry.example/tiny@{deployments.DIGEST}"]
    return [
        ["run", "rows", "rows.jsonl", "-o", "answers.jsonl", "--processes", "1"],
        ["release", "release.yaml", "--report", "report", *store, PASS],
        ["report", *two, *trust, "--policy", "dev", "-o", "page.html"],
        ["dossier", *two, *trust, "--policy", "dev", "-o", "page.md"],
        ["ci", "init", "github", "--file", "release.yaml"],
        ["chat", "site", "--prompt", "hello"],
        ["promote", "tiny:1.0.0", "--to", "staging", "--profile", "gate.yaml", "--trust", "acme.trust", *key, *store],
        ["promise", "real:1.0.0", "--runtime", "onnxruntime>=1.16", *key, *store],
        ["attest", "tiny:1.0.0", *statement, *key, *store],
        ["render", "kubernetes", "small.bundle.tar", "out", *trust, *image, "--admission", "kyverno"],
        ["compat", "real.bundle.tar", "--html", "page.html"],
        ["doctor", "real.bundle.tar"],
        ["drift", "real.bundle.tar", "rows.jsonl", *trust],
        ["policy", "check", "small.bundle.tar", "--profile", "gate.yaml", *trust, "--format", "sarif"],
        ["trust", "init", "other.trust", "--name", "other", *root],
        ["trust", "add", "acme.trust", "--signer", "again", *trust, *root],
        ["trust", "show", "acme.trust"],
        ["vulndb", "show"],
        ["runtimes", "list"],
        ["rebuild", "real.bundle.tar", *trust, *store, "-o", "again.bundle.tar"],
        ["delta", "real.bundle.tar", "real.bundle.tar", "-o", "out.bundle-delta.tar"],
        ["apply", "real.bundle-delta.tar", "real.bundle.tar", *trust, "-o", "new.bundle.tar"],
        ["upgrade", "site", "small.bundle.tar", *trust, *store],
        ["rollback", "site"],
        ["sign-image", "oci://127.0.0.1:1/team/x:1", "site", *key, *store],
        ["bench", "site", "--seconds", "1", *store],
        ["tune", "site", "--objective", "most throughput", "--seconds", "1", "-o", "values.yaml", *store],
        ["watch", "release.yaml", "--once", *store],
        ["schema", "recipe"],
        ["completion", "bash"],
        ["help", "sign"],
    ]


OTHERS = [" ".join(line[:2]) for line in others()]
NEWEST = ("release", "report", "dossier", "ci")  # of the fast tests, one fault each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a signed bundle, its store, keys, and an installation of it."""
    place = tmp_path_factory.mktemp("system")
    wheel = deployments.installable("kleines", "1.0", {"kleines/__init__.py": b""})
    bundle = deployments.carrier(Store(place / "store"), kleines=wheel)
    (place / "passphrase").write_text("correct horse\n")
    onnx.save(graphs.GRAPHS["convolution at 18"]().graph, place / "model.onnx")
    run(
        place,
        ["keygen", "release", PASS],
        ["sign", f"{bundle.name}:{bundle.version}", "--key", "release.pem", "--store", "store", PASS],
        ["export", f"{bundle.name}:{bundle.version}", "small.bundle.tar", "--store", "store"],
        ["install", "small.bundle.tar", "site", "--key", "release.pub", "--store", "store"],
    )
    return place


@pytest.fixture(scope="module")
def registry() -> Iterator[Stub]:
    with serving() as stub:
        yield stub


@pytest.fixture(scope="module")
def released(folder: Path, registry: Stub) -> Path:
    """Return the folder with a model that was built in it, and a bundle in the registry."""
    (folder / "real").mkdir()
    shutil.copy(folder / "model.onnx", folder / "real")
    (folder / "real" / "bundle.yaml").write_text(RECIPE)
    run(
        folder,
        ["lock", "real/bundle.yaml", "--store", "store"],
        ["build", "real/bundle.yaml", "--locked", "--store", "store"],
        ["sign", "real:1.0.0", "--key", "release.pem", "--store", "store", PASS, "-o", "real.bundle.tar"],
        ["push", "tiny:1.0.0", f"oci://{registry.host}/there/tiny:1.0.0", "--store", "store"],
    )
    return folder


ROWS = {
    "name": "rows",
    "version": "1.0.0",
    "digest": f"sha256:{'1' * 64}",
    "runtime": "onnxruntime",
    "target": "onnxruntime-cpu-fp32",
    "artefact": "relu.onnx",
    "interface": {
        "dimensions": {"batch": {"min": 1, "max": 8}},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
    },
}


@pytest.fixture(scope="module")
def equipped(released: Path) -> Path:
    """Return the folder with what the other verbs take: a plan, a trust file, a delta, rows and who answers them."""
    release = released / "rows" / "releases" / "1"
    for name, data in server_files.list_program("onnxruntime").items():
        (release / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (release / "app" / name).write_bytes(data)
    (release / "env").symlink_to(sys.prefix)
    (release / "serve.json").write_text(json.dumps(ROWS))
    (released / "rows" / "current").symlink_to("releases/1")
    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, release / "relu.onnx")
    (released / "rows.jsonl").write_text('{"x": [1, -2, 3]}\n{"x": "no"}\n')
    (released / "release.yaml").write_text(
        "recipes: [real/bundle.yaml]\ndefaults: {policy: dev, sign: key:release.pem}\n"
    )
    (released / "predicate.json").write_text("{}")
    (released / "gate.yaml").write_text("rules: [formats]\n")
    root = ["--root-key", "release.pem", PASS]
    run(
        released,
        ["trust", "init", "acme.trust", "--name", "acme", *root],
        ["trust", "add", "acme.trust", "--signer", "release", "--key", "release.pub", *root],
        ["delta", "real.bundle.tar", "real.bundle.tar", "-o", "real.bundle-delta.tar"],
    )
    return released


def run(place: Path, *lines: list[str]) -> None:
    for words in lines:
        forks.RUNNER.run(words, place, {**forks.variables(place), **CACHES}).check_returncode()


Trace = Callable[[Path, list[str], tuple[str, ...], int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def trace() -> Iterator[Trace]:
    """Return what runs a verb in copies of a folder, with calls refused, in one process that has imported everything."""
    command = [sys.executable, "-m", "tests.support.faulty_system"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **CACHES}, **pipes) as system:
        assert system.stdin and system.stdout

        def refuse(folder: Path, line: list[str], errors: tuple[str, ...], places: int) -> list[dict[str, Any]]:
            assert system.stdin and system.stdout
            wanted = {"folder": str(folder), "verb": line, "errors": errors, "places": places, "seed": 7}
            print(json.dumps(wanted), file=system.stdin, flush=True)
            return [json.loads(row) for row in iter(system.stdout.readline, "\n") if row or pytest.fail("it ended")]

        yield refuse


@pytest.mark.parametrize("line", verbs(), ids=lambda line: " ".join(line[:2]))
def test_refused_system_call_is_a_clear_error_without_partial_files(
    trace: Trace, folder: Path, line: list[str]
) -> None:
    judge(trace(folder, line, (FEW[verbs().index(line) % 2],), 1))


@pytest.mark.parametrize("number", range(len(RELEASES)), ids=RELEASES)
def test_a_refused_call_on_the_way_of_a_release(number: int, trace: Trace, released: Path, registry: Stub) -> None:
    judge(trace(released, releases(registry.host)[number], FEW[:1], 1))


@pytest.mark.slow
@pytest.mark.parametrize("line", verbs(), ids=lambda line: " ".join(line[:2]))
def test_many_refused_calls(trace: Trace, folder: Path, line: list[str]) -> None:
    judge(trace(folder, line, ERRORS, 8))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RELEASES)), ids=RELEASES)
def test_many_refused_calls_on_the_way_of_a_release(number: int, trace: Trace, released: Path, registry: Stub) -> None:
    judge(trace(released, releases(registry.host)[number], ERRORS, 8))


@pytest.mark.parametrize("number", [n for n, line in enumerate(others()) if line[0] in NEWEST], ids=lambda n: OTHERS[n])
def test_a_refused_call_of_a_newer_verb(number: int, trace: Trace, equipped: Path) -> None:
    judge(trace(equipped, others()[number], FEW[:1], 1))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(OTHERS)), ids=OTHERS)
def test_many_refused_calls_of_other_verbs(number: int, trace: Trace, equipped: Path) -> None:
    judge(trace(equipped, others()[number], ERRORS, 3))


def test_every_verb_is_tried() -> None:
    tried = {line[0] for line in (*verbs(), *releases("HOST"), *others())}
    assert set(_verbs.list_verbs()) - tried == set()


def judge(rows: list[dict[str, Any]]) -> None:
    """Hold that a refused call is an error of ours, and that a repetition finds the old state or the new one."""
    first, *faults = rows
    assert first["status"] == STATUS.get(first["verb"][0], 0), first["said"]
    wrong = [
        row
        for row in faults
        if row["status"] == 70
        or "Traceback" in row["said"]
        or row["again"] not in ({first["status"], first["twice"]} if row["status"] else {first["twice"]})
    ]
    assert not wrong, json.dumps(wrong[0], indent=1)
    print(first["verb"], first["calls"], dict(Counter((row["error"], row["status"]) for row in faults)))


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_errno_has_one_sentence_or_is_untranslated(code: int) -> None:
    found = os_errors.translate(OSError(code, os.strerror(code), "/a\x1bb"))
    assert found is None or (isinstance(found, PackagerError) and found.hint and "\x1b" not in found.message)


def test_path_is_named_where_the_system_names_none() -> None:
    found = os_errors.translate(OSError(errno.EMFILE, "Too many open files"), "/srv/place")
    assert isinstance(found, StorageError) and "/srv/place" in found.message


def test_network_errors_are_no_file_errors() -> None:
    assert isinstance(os_errors.translate(ConnectionResetError(errno.ECONNRESET, "reset")), SourceError)


def without_home(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PACKAGER_", "HOME"))}
    command = [sys.executable, "-c", "\n".join(NO_HOME), *words]
    return subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, check=False)


def test_missing_home_directory_has_a_hint(tmp_path: Path) -> None:
    done = without_home(tmp_path, "cache", "size")
    assert done.returncode == 2 and "set HOME" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "small.bundle.tar", "--key", "release.pub"],
        ["inspect", "small.bundle.tar"],
        ["unpack", "small.bundle.tar", "{out}"],
        ["config", "small.bundle.tar"],
        ["sbom", "small.bundle.tar"],
        ["diff", "small.bundle.tar", "small.bundle.tar"],
        ["policy", "check", "small.bundle.tar", "--key", "release.pub", "--profile", "{profile}"],
        ["verify", "small.bundle.tar", "--key", "release.pub", "--policy", "{profile}"],
        ["render", "systemd", "small.bundle.tar", "{out}", "--key", "release.pub"],
    ],
    ids=lambda words: " ".join(words[:2]) + str(len(words)),
)
def test_what_needs_no_store_needs_no_home_directory(folder: Path, tmp_path: Path, words: list[str]) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("rules: [formats]\n")
    given = {"{out}": str(tmp_path / "out"), "{profile}": str(profile)}
    done = without_home(folder, *(given.get(word, word) for word in words))
    assert done.returncode == 0, done.stderr


def test_missing_temporary_directory_is_a_clear_error(tmp_path: Path) -> None:
    found = os_errors.translate(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"))
    assert found and found.hint and "TMPDIR" in found.hint
