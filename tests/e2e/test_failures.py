# SPDX-License-Identifier: Apache-2.0
"""Everything that goes wrong: one clear error with a hint, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packager.formats import platforms
from tests.attacks.hostile_step import Payload
from tests.e2e.conftest import CNN_RECIPE, Project, make_model, tool

pytestmark = pytest.mark.cold  # workers run in these tests

ONE = f"platforms: [{platforms.name_host()}]\n"  # one to be locked
MLFLOW = "name: m\nversion: 1.0.0\nsource: {source}\nregistry: sqlite:///{database}\n" + ONE


def clear(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that exactly one error was printed, with a hint, naming `words`."""
    rows = done.stderr.splitlines()
    assert sum(row.startswith("error: ") for row in rows) == 1, done.stderr
    assert any(row.startswith("hint: ") for row in rows), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def untouched(project: Project) -> None:
    """Assert that nothing half-written is left: no bundle, no scratch, no temporary file."""
    assert not list(project.store.glob("v1/bundles/*/*"))
    assert not list(project.store.glob("v1/tmp/*"))
    assert not [path for path in project.folder.rglob("*") if "staging" in path.name or path.name.startswith(".bundle")]


def test_a_bad_recipe(project: Callable[..., Project]) -> None:
    made = project("name: m\nversion: 1.0.0\nsource: x.onnx\ntolerence: {default: {atol: 1}}\n")
    clear(made.run("build", code=2), "bundle.yaml:4", "tolerence", "did you mean `tolerance`")
    made.write("name: m\nversion: 1.4\nsource: x.onnx\n")
    clear(made.run("build", code=2), "bundle.yaml:2", "1.4.0")


def test_no_recipe_and_no_source(project: Callable[..., Project]) -> None:
    made = project("name: m\nversion: 1.0.0\nsource: nowhere.onnx\n")
    clear(made.run("build", code=3), "nowhere.onnx")
    clear(made.run("build", "elsewhere.yaml", code=2), "elsewhere.yaml", "packager init")
    untouched(made)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real MLflow registry with one registered ONNX model and the alias `champion`."""
    folder = tmp_path_factory.mktemp("registry")
    script = """
import sys, logging, onnx, mlflow, mlflow.onnx
from onnx import TensorProto, helper
folder = sys.argv[1]
x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
mlflow.create_experiment("e", artifact_location=f"file://{folder}/artifacts")
mlflow.set_experiment("e")
with mlflow.start_run():
    mlflow.onnx.log_model(model, name="model", registered_model_name="relu", save_as_external_data=False, pip_requirements=["onnx"])
mlflow.MlflowClient().set_registered_model_alias("relu", "champion", "1")
"""
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, capture_output=True)
    return folder / "mlflow.db"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("models:/rellu@champion", ("rellu", "relu")),
        pytest.param("models:/relu@challenger", ("challenger", "champion"), marks=pytest.mark.slow),
        pytest.param("models:/relu/9", ("9",), marks=pytest.mark.slow),
        ("runs:/0123456789abcdef0123456789abcdef/model", ("0123456789abcdef",)),
    ],
)
def test_a_missing_model_or_alias(
    project: Callable[..., Project], registry: Path, source: str, words: tuple[str, ...]
) -> None:
    made = project(MLFLOW.format(source=source, database=registry))
    clear(made.run("lock", code=3), *words)
    assert not (made.folder / "bundle.lock").exists()
    untouched(made)


def test_an_unreadable_database(project: Callable[..., Project], registry: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\0" + os.urandom(4096))
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    for database in (broken, empty, tmp_path / "absent.db"):
        made = Project(tmp_path / database.stem, tmp_path / "store")
        made.folder.mkdir()
        made.write(MLFLOW.format(source="models:/relu@champion", database=database))
        clear(made.run("lock", code=3), database.name)
    assert not (tmp_path / "absent.db").exists(), "a missing database is not created"


@pytest.mark.slow  # the tutorials build a registered model by default
def test_a_registered_onnx_model_builds(project: Callable[..., Project], registry: Path) -> None:
    made = project(MLFLOW.format(source="models:/relu@champion", database=registry))
    answer = made.run("build", "--json")
    assert answer["verdict"]["ok"]
    lock = (made.folder / "bundle.lock").read_text()
    assert str(registry.parent) not in lock.replace(str(registry), ""), "a lock holds no path of this machine"


@pytest.mark.slow  # tests/unit/exporters holds it by default
def test_data_dependent_control_flow_names_the_line(project: Callable[..., Project], tmp_path: Path) -> None:
    tool("bwrap")
    model = make_model("branch", tmp_path / "branch")
    code = model / "code"
    code.mkdir()
    shutil.move(model / "models.py", code / "models.py")
    script = "import sys; sys.path.insert(0, sys.argv[1]); import models, torch; torch.save(models.Branch().eval(), sys.argv[2])"
    subprocess.run([sys.executable, "-c", script, str(code), str(model / "model.pth")], check=True)
    recipe = "name: m\nversion: 1.0.0\nsource: ./model\ninputs: {x: {dtype: float32, shape: [batch, 8]}}\n" + ONE
    made = project(recipe, model=model)
    clear(made.run("build", code=4), "pickle", "allow-pickle: true")
    made.write(recipe + "allow-pickle: true\n")
    refused = made.run("build", code=1).stderr
    made.write(recipe + f"allow-pickle: true\nallow-code: {refused.split('allow-code: ')[1][:71]}\n")
    done = made.run("build", code=4)
    clear(done, "models.py", "torch.cond")
    assert len(done.stderr.splitlines()) < 30, "an error is not a dump"
    untouched(made)


@pytest.mark.slow  # attacks hold it by default
def test_a_source_that_reaches_for_the_network(project: Callable[..., Project], tmp_path: Path) -> None:
    """A listener stands ready; the worker must not reach it."""
    import socket

    tool("bwrap")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        model = tmp_path / "model"
        model.mkdir()
        payload = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"
        script = "import sys, torch\nclass C:\n def __reduce__(self): return exec, (sys.argv[2],)\ntorch.save(C(), sys.argv[1])"
        subprocess.run([sys.executable, "-c", script, str(model / "model.pth"), payload], check=True)
        made = project(
            "name: m\nversion: 1.0.0\nsource: ./model\nallow-pickle: true\npolicy: dev\ninputs: {x: {dtype: float32, shape: [batch, 8]}}\n"
            + ONE,
            model=model,
        )
        clear(made.run("build", code=4), "model.pth")
        with pytest.raises(TimeoutError):
            listener.accept()
    untouched(made)


def test_the_worker_sees_no_secret(project: Callable[..., Project], tmp_path: Path) -> None:
    """A pickle that looks for the caller's environment and home finds neither."""
    tool("bwrap")
    secret = tmp_path / "home" / ".aws" / "credentials"
    secret.parent.mkdir(parents=True)
    secret.write_text("key")
    model = tmp_path / "model"
    model.mkdir()
    payload = f"import os; raise RuntimeError('SEEN ' + str([k for k in os.environ if 'SECRET' in k]) + str(os.path.exists({str(secret)!r})))"
    (model / "model.pkl").write_bytes(pickle.dumps(Payload(payload)))
    recipe = "name: m\nversion: 1.0.0\nsource: ./model\nallow-pickle: true\npolicy: dev\n" + ONE
    made = project(recipe, model=model)
    done = made.run("build", code=4, AWS_SECRET_ACCESS_KEY="hunter2", HOME=str(tmp_path / "home"))
    clear(done, "SEEN []False")
    assert "hunter2" not in done.stderr


def test_a_step_that_needs_too_much_memory_or_time(project: Callable[..., Project], cnn: Path) -> None:
    made = project(CNN_RECIPE + "limits: {memory: 300MiB}\n", model=cnn)
    clear(made.run("build", code=4), "memory")
    untouched(made)


class TestSignatures:
    def test_a_wrong_key(self, built: Project, tmp_path: Path) -> None:
        built.run("keygen", tmp_path / "other")
        done = built.run("verify", "cnn.bundle.tar", "--key", tmp_path / "other.pub", code=1)
        clear(done, "no trusted key or identity signed this bundle")
        done = built.run("install", "cnn.bundle.tar", tmp_path / "site", "--key", tmp_path / "other.pub", code=1)
        clear(done, "no trusted key")
        assert not (tmp_path / "site").exists()

    def test_an_unsigned_bundle(self, built: Project, tmp_path: Path) -> None:
        store = Project(built.folder, tmp_path / "store")
        shutil.copytree(built.store, store.store)
        for entry in (store.store / "v1" / "bundles").rglob("1.2.3"):
            entry.unlink()
        store.run("build", "--locked", "-o", tmp_path / "plain.tar")
        clear(store.run("verify", tmp_path / "plain.tar", "--key", "release.pub", code=1), "not signed")
        clear(
            store.run("install", tmp_path / "plain.tar", tmp_path / "s", "--key", "release.pub", code=1), "not signed"
        )

    def test_no_key_at_all(self, built: Project) -> None:
        assert built.run("verify", "cnn.bundle.tar", code=2).stderr

    def test_a_damaged_file(self, built: Project, tmp_path: Path) -> None:
        damaged = shutil.copy(built.folder / "cnn.bundle.tar", tmp_path / "cnn.bundle.tar")
        with Path(damaged).open("r+b") as file:
            file.seek(-20_000, os.SEEK_END)
            file.write(b"\xff")
        for verb in (("verify", damaged), ("install", damaged, tmp_path / "site")):
            done = built.run(*verb, "--key", "release.pub", code=5)
            assert "blobs/sha256/" in done.stderr or "canonical" in done.stderr
        assert not (tmp_path / "site" / "current").exists()

    def test_unknown_names_get_the_close_match(self, built: Project) -> None:
        clear(built.run("inspect", "cn:1.2.3", code=2), "cnn:1.2.3")
        clear(built.run("verfy", code=2), "verify")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(built: Project, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        for arguments in (
            ("unpack", "cnn.bundle.tar", disk / "tree"),
            ("sign", "cnn:1.2.3", "--key", "release.pem", "-o", disk / "layout"),
            ("sign", "cnn:1.2.3", "--key", "release.pem", "-o", disk / "b.bundle.tar"),
            ("install", "cnn.bundle.tar", disk / "site", "--key", "release.pub"),
            ("build", "--locked", "--store", disk / "store"),
        ):
            clear(built.run(*arguments, code=4), "no space left", "free some space")
            left = [
                path
                for path in disk.rglob("*")
                if path.is_file() and path.stat().st_size > 0 and "store" not in path.parts
            ]
            assert not left, left
            shutil.rmtree(disk / "store", ignore_errors=True)
            shutil.rmtree(disk / "site", ignore_errors=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("step", ["export", pytest.param("measure", marks=pytest.mark.slow)])
def test_ctrl_c_during_a_step_leaves_nothing(project: Callable[..., Project], cnn: Path, step: str) -> None:
    made = project(CNN_RECIPE, model=cnn)
    made.run("lock")
    environment = {"PATH": os.environ["PATH"], "HOME": str(made.folder), "PACKAGER_STORE": str(made.store)}
    process = subprocess.Popen(
        [sys.executable, "-m", "packager", "build", "--locked"],
        cwd=made.folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore Ctrl-C
    )
    assert process.stderr
    while not process.stderr.readline().startswith(step):
        assert process.poll() is None
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    untouched(made)
    workers = subprocess.run([tool("pgrep"), "-f", str(made.store)], capture_output=True, text=True, check=False).stdout
    assert not workers, "no worker survives"


def test_kill_9_during_an_export_leaves_a_usable_store(project: Callable[..., Project], cnn: Path) -> None:
    made = project(CNN_RECIPE, model=cnn)
    made.run("lock")
    environment = {"PATH": os.environ["PATH"], "HOME": str(made.folder), "PACKAGER_STORE": str(made.store)}
    process = subprocess.Popen(
        [sys.executable, "-m", "packager", "build", "--locked"],
        cwd=made.folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    process.stderr.readline()
    time.sleep(1.5)
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 10
    while subprocess.run([tool("pgrep"), "-f", str(made.store)], capture_output=True, check=False).stdout:
        assert time.monotonic() < deadline, "the worker dies with its parent"
        time.sleep(0.1)
    assert made.run("build", "--locked", "--json")["verdict"]["ok"]
    assert not list(made.store.glob("v1/tmp/*")), "what the killed build left is swept"


WITHOUT_BUBBLEWRAP = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$(command -v bwrap)"; exec "$@"', "sh")
WITHOUT_NAMESPACES = (
    *WITHOUT_BUBBLEWRAP,
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"',
    "sh",
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="hiding a program needs a mount namespace")


def confinement(made: Project) -> Any:
    """Sign what was built; return what its provenance says of the confinement, by the rules `sandbox` and `scanned`."""
    (made.folder / "gate.yaml").write_text("rules: [sandbox, scanned]")
    if not (made.folder / "k.pem").exists():
        made.run("keygen", "k")
    made.run("sign", "cnn:1.2.3", "--key", "k.pem")
    made.run(
        "policy",
        "check",
        "cnn:1.2.3",
        "--profile",
        "gate.yaml",
        "--key",
        "k.pub",
        "--state",
        "none",
        "--facts",
        "f.json",
        code=None,
    )
    facts = json.loads((made.folder / "f.json").read_text())
    assert facts["scans"]
    assert all(
        row["level"] == "none" or (row["user"], row["limits"]) == ("other", "step") for row in facts["confinement"]
    )
    return {(row["level"], row["seccomp"]) for row in facts["confinement"]}


@pytest.mark.slow  # attacks and steps run in both ways by default
@as_root
def test_without_bubblewrap_namespaces_do_and_say_so(
    project: Callable[..., Project], cnn: Path, tmp_path: Path
) -> None:
    tool("bwrap")
    made = project(CNN_RECIPE, model=cnn)
    wrapped = made.run("build", "--json", PACKAGER_WARM_WORKERS="0")
    assert confinement(made) == {("bubblewrap", True)}
    forked = Project(made.folder, tmp_path / "third-store")
    assert forked.run("build", "--locked", "--json")["digest"] == wrapped["digest"]
    assert confinement(forked) == {("namespaces", True)}, "a fork makes its spaces itself (ADR 397)"
    bare = Project(made.folder, tmp_path / "other-store")
    assert bare.run("build", "--locked", "--json", prefix=WITHOUT_BUBBLEWRAP)["digest"] == wrapped["digest"]
    assert confinement(bare) == {("namespaces", True)}


@pytest.mark.slow
@as_root
def test_code_of_others_runs_in_namespaces_too(project: Callable[..., Project], cnn: Path, tmp_path: Path) -> None:
    made = project(CNN_RECIPE, model=cnn)
    (made.folder / "pickled").mkdir()
    script = (
        "import sys, torch; torch.save(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval(), sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, made.folder / "pickled" / "model.pth"], check=True)
    recipe = "name: m\nversion: 1.0.0\nsource: ./pickled\nallow-pickle: true\ninputs: {x: {dtype: float32, shape: [batch, 8]}}\n"
    (made.folder / "pickled.yaml").write_text(recipe)
    first = made.run("build", "pickled.yaml", "--json")
    bare = Project(made.folder, tmp_path / "other-store")
    assert bare.run("build", "pickled.yaml", "--json", prefix=WITHOUT_BUBBLEWRAP)["digest"] == first["digest"]


@pytest.mark.slow
@as_root
def test_where_nothing_confines_the_recipe_must_say_so_and_release_says_no(
    project: Callable[..., Project], cnn: Path, tmp_path: Path
) -> None:
    made = project(CNN_RECIPE, model=cnn)
    clear(made.run("build", code=4, prefix=WITHOUT_NAMESPACES), "cannot be confined here", "sandbox: none")
    made.write(CNN_RECIPE + "sandbox: none\npolicy: dev\n")
    built = made.run("build", "--json", prefix=WITHOUT_NAMESPACES)
    assert confinement(made) == {("none", False)}
    made.write(CNN_RECIPE + "sandbox: none\n")
    refused = made.run("build", "--json", code=1)
    assert [finding["rule"] for finding in refused["findings"]] == ["sandbox"]
    made.write(CNN_RECIPE)
    again = made.run("build", "--json")
    assert again["digest"] == built["digest"], "the confinement changes no byte"
    assert again["executed"] > 0, "what an unconfined worker did is done again"
    assert confinement(made) == {("none", False), ("namespaces", True)}, "what was signed of the first build stays"
