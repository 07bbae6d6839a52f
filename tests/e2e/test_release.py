# SPDX-License-Identifier: Apache-2.0
"""Releases of real models to a real registry: one that fails stops no other, a second run does nothing, kills lose nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from packager import api, canonical
from packager.formats import dsse, platforms
from packager.store.store import Store
from packager.trust import edit, file, keys
from tests.e2e.conftest import Project, tool
from tests.support import bundles, forks, registry_server
from tests.support.registry_server import Registry
from tests.support.warm_store import WARM

pytestmark = pytest.mark.cold
ESTIMATORS = """
import sys
from pathlib import Path
import numpy as np, skops.io
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
rows = np.random.RandomState(7).randn(60, 4)
labels = (rows[:, 0] > 0).astype(int)
for name, last in (("line", LogisticRegression()), ("tree", DecisionTreeClassifier(max_depth=3, random_state=0))):
    made = make_pipeline(StandardScaler(), last).fit(rows, labels)
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    (folder / "model.skops").write_bytes(skops.io.dumps(made))
"""
RECIPE = "name: {name}\nversion: 1.0.0\nsource: ./{source}\npolicy: dev\nplatforms: [{platform}]\n"
SEED = 19  # of the kills
PLAN = """recipes: ["*/bundle.yaml"]
defaults:
  policy: dev
  sign: key:release.pem
  push: oci://{host}/models/{{name}}:{{version}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("registry") / "r") as running:
        yield running


def relu(folder: Path, width: int) -> None:
    """Write a toy graph with a dynamic batch."""
    x, y = (helper.make_tensor_value_info(name, 1, ["batch", width]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")


def recipe(folder: Path, name: str, source: str, more: str = "") -> None:
    (folder / name).mkdir(exist_ok=True)
    text = RECIPE.format(name=name, source=source, platform=platforms.name_host()) + more
    (folder / name / "bundle.yaml").write_text(text)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two estimators of scikit-learn and a toy graph, with recipes and a key."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-c", ESTIMATORS, str(folder)], check=True)
    for name in ("line", "tree"):
        recipe(folder, name, "model.skops")
    relu(folder / "toy", 3)
    recipe(folder, "toy", "m.onnx")
    key = keys.generate_key("p256")
    keys.save(key, folder / "release.pem", folder / "release.pub", None)
    return folder


@pytest.fixture(scope="module")
def released(models: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Any]:
    """All three, released once, with a gate that promotes them."""
    folder = tmp_path_factory.mktemp("released") / "project"
    shutil.copytree(models, folder)
    root, gate = keys.generate_key("p256"), keys.generate_key("p256")
    keys.save(gate, folder / "gate.pem", folder / "gate.pub", None)
    content = edit.new_content("acme", [root.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    content = edit.with_signer(content, "release", {"key": (folder / "release.pub").read_text()})
    content = edit.with_signer(content, "gate", {"key": (folder / "gate.pub").read_text()})
    (folder / "acme.trust").write_bytes(file.write(content, [root]).to_bytes())
    (folder / "gate.yaml").write_text("rules: [formats, provenance]\n")
    more = "  promote: {stage: staging, profile: gate.yaml, trust: acme.trust, sign: key:gate.pem}\n"
    (folder / "release.yaml").write_text(PLAN.format(host=registry.host + "/first") + more)
    project = Project(folder, folder.parent / "store")
    done = project.run("release", "--jobs", "2", "--report", "out", "--json")
    WARM.collect(project.store)
    return project, done


def states(row: Any) -> dict[str, str]:
    return {task["task"]: task["state"] for task in row["tasks"]}


TASKS = ("lock", "build", "policy", "sign", "push", "promote")


def test_models_are_locked_built_judged_signed_pushed_and_promoted(released: tuple[Project, Any]) -> None:
    project, done = released
    assert done["ok"] and done["totals"]["models"] == 3
    for row in done["models"]:
        assert states(row) == dict.fromkeys(TASKS, "done"), row
        assert row["targets"] == ["onnxruntime-cpu-fp32"]
        found = project.run("verify", row["reference"], "--key", "release.pub", "--json")
        assert found["ok"] and found["digest"] == row["digest"]
        stated = json.dumps(project.run("inspect", row["reference"], "--json")["statements"])
        assert "slsa.dev/provenance" in stated and "slsa.dev/verification_summary" in stated
    cases = ET.parse(project.folder / "out" / "junit.xml").getroot().iter("testcase")
    assert len(list(cases)) == 3 * len(TASKS)
    assert json.loads((project.folder / "out" / "release.json").read_text())["totals"] == done["totals"]


def test_a_second_run_executes_nothing(released: tuple[Project, Any], registry: Registry) -> None:
    project, done = released
    before = registry.position()
    again = project.run("release", "--json")
    assert again["ok"] and again["totals"]["states"]["unchanged"] == 3
    assert again["totals"]["executed"] == again["totals"]["cached"] == 0
    assert {row["digest"] for row in again["models"]} == {row["digest"] for row in done["models"]}
    assert registry.rows(before) == []
    plan = project.run("release", "--dry-run", "--json")
    assert [states(row) for row in plan["models"]] == [dict.fromkeys(TASKS, "unchanged")] * 3


def test_a_hook_says_whether_locks_fit(released: tuple[Project, Any], tmp_path: Path) -> None:
    """The entry of the hook in `.pre-commit-hooks.yaml`, as pre-commit runs it: with the files that changed."""
    project = Project(shutil.copytree(released[0].folder, tmp_path / "project"), released[0].store)
    files = ["line/bundle.yaml", "line/bundle.lock", "tree/bundle.lock"]
    done = project.run("lock", "--quiet", "--check", *files, "--json")
    assert done["ok"] and [row["recipe"] for row in done["checked"]] == ["line/bundle.yaml", "tree/bundle.yaml"]
    path = project.folder / "line" / "bundle.yaml"
    path.write_text(path.read_text() + "runs-on: {onnxruntime: '>=1.20'}\n")
    relu(project.folder / "toy", 77)
    done = project.run("lock", "--check", *files, "toy/bundle.yaml", "nowhere/bundle.yaml", "--json", code=2)
    fresh = {row["recipe"]: (row["fresh"], row["problem"]) for row in done["checked"]}
    assert fresh["tree/bundle.yaml"] == (True, None)
    assert "the recipe changed since" in fresh["line/bundle.yaml"][1] and "changed since" in fresh["toy/bundle.yaml"][1]
    assert "cannot read recipe" in fresh["nowhere/bundle.yaml"][1]


def test_a_plan_says_why_each_task_will_run_and_runs_none(released: tuple[Project, Any], tmp_path: Path) -> None:
    project = Project(shutil.copytree(released[0].folder, tmp_path / "project"), released[0].store)
    text = (project.folder / "toy" / "bundle.yaml").read_text()
    (project.folder / "toy" / "bundle.yaml").write_text(text + "description: another one\n")
    (project.folder / "tree" / "bundle.lock").unlink()
    rows = {row["name"]: row for row in project.run("release", "--dry-run", "--json")["models"]}
    assert states(rows["line"])["promote"] == "unchanged"
    assert states(rows["toy"])["lock"] == "unchanged"
    said = {task["task"]: task["reason"] for task in rows["toy"]["tasks"]}
    assert said["build"] == "changed since the last time: the recipe" and said["sign"] == "follows `build`"
    assert "there is no lock" in rows["tree"]["tasks"][0]["reason"]
    assert not (project.folder / "tree" / "bundle.lock").exists()
    shown = project.run("release", "--dry-run").stdout
    assert "planned    changed since the last time: the recipe" in shown and "3 models: 2 planned, 1 unchanged" in shown


def test_modules_in_the_checkout_are_not_imported(tmp_path: Path) -> None:
    """A release holds keys and passphrases: code of the checkout does not run beside them."""
    project = Project(tmp_path / "project", tmp_path / "store")
    relu(project.folder / "toy", 3)
    recipe(project.folder, "toy", "m.onnx")
    (project.folder / "release.yaml").write_text("recipes: [toy]\ndefaults: {lock: none, build: none, policy: dev}\n")
    (project.folder / "packager").mkdir()
    for name in ("yaml.py", "signal.py", "packager/__init__.py"):
        (project.folder / name).write_text("from pathlib import Path\nPath('imported').touch()\n")
    done = project.run("release", "--json", code=None)
    assert "is not in the store" in json.dumps(done) or "no bundle" in json.dumps(done), done
    assert not (project.folder / "imported").exists()


def test_what_was_released_is_never_released_as_another_bundle(released: tuple[Project, Any], tmp_path: Path) -> None:
    """Neither the store, nor the registry, nor the journal lets a version mean another bundle."""
    project = Project(shutil.copytree(released[0].folder, tmp_path / "project"), tmp_path / "store")
    shutil.copytree(released[0].store, project.store)
    text = (project.folder / "toy" / "bundle.yaml").read_text()
    (project.folder / "toy" / "bundle.yaml").write_text(text + "description: another one\n")
    refused = project.run("release", "--json", code=2)
    (toy,) = [row for row in refused["models"] if row["name"] == "toy"]
    assert states(toy) == dict.fromkeys(TASKS, "skipped") | {"lock": "unchanged", "build": "failed"}
    assert "another bundle" in toy["tasks"][1]["problem"]["message"]
    project.run("rm", "toy:1.0.0")  # the store forgets; the journal does not
    refused = project.run("release", "--json", code=2)
    (toy,) = [row for row in refused["models"] if row["name"] == "toy"]
    assert states(toy)["build"] == "done" and states(toy)["sign"] == "failed" and states(toy)["push"] == "skipped"
    assert "was released before as another bundle" in toy["tasks"][3]["problem"]["message"]
    assert "raise `version`" in toy["tasks"][3]["problem"]["hint"]


def test_one_that_fails_stops_no_other_but_those_that_wait_for_it(
    models: Path, registry: Registry, tmp_path: Path, released: tuple[Project, Any]
) -> None:
    project = Project(tmp_path / "project", released[0].store)
    shutil.copytree(models, project.folder)
    recipe(project.folder, "gone", "nothing.onnx")
    recipe(project.folder, "tail", "../toy/m.onnx")
    (project.folder / "typo").mkdir()
    (project.folder / "typo" / "bundle.yaml").write_text("name: typo\nversoin: 1.0.0\nsource: x\n")
    (project.folder / "strict.yaml").write_text("rules: [model-card]\n")
    text = PLAN.format(host=registry.host + "/second")
    text += "models:\n  tail: {after: [gone]}\n  tree: {policy: strict.yaml}\n"
    (project.folder / "release.yaml").write_text(text)
    done = project.run("release", "--json", "--report", "out", code=1)
    rows = {row["name"]: row for row in done["models"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "line": "done",
        "toy": "done",
        "tree": "no",
        "gone": "failed",
        "tail": "skipped",
        "typo/bundle.yaml": "failed",
    }
    assert states(rows["tree"]) == {
        "lock": "done",
        "build": "unchanged",  # another file, the same inputs
        "policy": "no",
        "sign": "skipped",
        "push": "skipped",
    }
    assert rows["gone"]["tasks"][0]["problem"]["code"] == 3
    assert "`gone` was not released" in rows["tail"]["tasks"][0]["reason"]
    assert "versoin" in rows["typo/bundle.yaml"]["tasks"][0]["problem"]["message"]
    assert registry.blobs("second/models/toy") and not registry.blobs("second/models/tree")
    suites = ET.parse(project.folder / "out" / "junit.xml").getroot()
    bad = {suite.get("name"): (suite.get("failures"), suite.get("errors")) for suite in suites}
    assert bad["tree:1.0.0"] == ("1", "0") and bad["gone:1.0.0"] == ("0", "1") and bad["toy:1.0.0"] == ("0", "0")


@pytest.mark.slow  # cells run by default in test_conform.py
def test_the_chosen_cells_run_on_the_real_runtime_and_are_signed(
    models: Path, registry: Registry, tmp_path: Path
) -> None:
    project = killable(models, f"{registry.host}/conformed", tmp_path, ["toy"])
    text = PLAN.format(host=f"{registry.host}/conformed").replace("  push:", "  conform: {conform}\n  push:")
    chosen = "{runtimes: ['onnxruntime==1.31.1'], level: L3}"
    (project.folder / "release.yaml").write_text(text.replace("{conform}", chosen))
    (planned,) = project.run("release", "--dry-run", "--json")["models"]
    assert planned["cells"] == ["onnxruntime 1.31.1 · onnxruntime-cpu-fp32"]
    done = project.run("release", "--json")
    (row,) = done["models"]
    assert states(row)["conform"] == "done" and row["cells"] == planned["cells"]
    found = project.run("verify", row["reference"], "--key", "release.pub", "--json")
    assert "https://in-toto.io/attestation/test-result/v0.1" in {item["predicate_type"] for item in found["statements"]}
    assert states(project.run("release", "--json")["models"][0]) == dict.fromkeys(states(row), "unchanged")
    (project.folder / "release.yaml").write_text(text.replace("{conform}", "{runtimes: ['openvino==*'], strict: true}"))
    (row,) = project.run("release", "--json", code=1)["models"]
    assert states(row)["conform"] == "no" and states(row)["sign"] == "skipped"


def test_two_releases_of_one_file_do_not_run_at_once(released: tuple[Project, Any]) -> None:
    project, _ = released
    import fcntl

    name = canonical.sha256(os.fsencode((project.folder / "release.yaml").resolve())).removeprefix("sha256:")
    with (project.store / "v1" / "releases" / f"{name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process releases" in project.run("release", code=2).stderr


# kills


class Killed:
    """A release that is started again and again, and killed with everything that it started."""

    def __init__(self, project: Project, chance: random.Random) -> None:
        self.project, self.chance = project, chance
        self.ends = 0

    def kill_after(self, seconds: float) -> bool:
        """Start it, kill it after a while unless it ended by itself; return whether it was killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "packager", "release", "--jobs", "2", "--store", str(self.project.store)],
            cwd=self.project.folder,
            env=forks.variables(self.project.folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(seconds)
            assert code == 0
            self.ends += 1
            return False
        if self.chance.random() < 0.3 and (inner := children(process.pid)):
            os.kill(self.chance.choice(inner), signal.SIGKILL)  # a release process alone: its driver lives
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.chance.uniform(0.0, 1.0))
        process.kill()
        process.wait()
        return True


def children(parent: int) -> list[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(word) for word in text.split()]


def tags(registry: Registry, repository: str) -> dict[str, str]:
    """Return what every tag of a repository means, from the registry's own disk."""
    folder = registry.folder / f"data/docker/registry/v2/repositories/{repository}/_manifests/tags"
    if not folder.is_dir():
        return {}
    return {path.name: (path / "current" / "link").read_text() for path in folder.iterdir()}


def meanings(registry: Registry, repository: str, tag: str) -> list[str]:
    """Return everything that a tag ever meant there."""
    folder = registry.folder / f"data/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/index/sha256"
    return [path.name for path in folder.iterdir()]


def killed_release(
    project: Project, registry: Registry, prefix: str, names: list[str], kills: int, most: float
) -> None:
    """Kill a release so often, let it end, and look for what may not be: two meanings, or anything lost."""
    chance = random.Random(SEED)
    run, left = Killed(project, chance), kills
    while left:
        if run.kill_after(chance.uniform(0.4, most)):
            left -= 1
        else:  # it was done too soon: the whole work once more, but what was given away stays given away
            most = max(0.6, most * 0.7)
    done = project.run("release", "--json")
    rows = {row["name"]: row for row in done["models"]}
    assert done["ok"] and sorted(rows) == names
    store = Store(project.store)
    for name, row in rows.items():
        repository = f"{prefix}/models/{name}"
        assert tags(registry, repository)["1.0.0"] == row["digest"]
        assert meanings(registry, repository, "1.0.0") == [row["digest"].removeprefix("sha256:")]
        entry = store.entry(name, "1.0.0")
        assert entry.manifest == row["digest"]
        bundle = api.open_bundle(f"{name}:1.0.0", api.Workspace(project.store))
        kinds = [item.artifact_type for item in bundle.referrers if item.artifact_type == dsse.BUNDLE]
        verified = project.run("verify", row["reference"], "--key", "release.pub", "--json")
        assert verified["ok"] and verified["digest"] == row["digest"]
        stated = [item["predicate_type"] for item in verified["statements"]]
        assert len(stated) == len(set(stated)) == len(kinds), (name, stated)  # nothing was signed twice
    assert list((project.store / "v1" / "tmp").glob("*")) == []
    again = project.run("release", "--json")
    assert again["totals"]["states"]["unchanged"] == len(names)


def killable(models: Path, host: str, folder: Path, names: list[str]) -> Project:
    project = Project(folder / "project", folder / "store")
    project.folder.mkdir()
    for part in ("release.pem", "release.pub"):
        shutil.copy(models / part, project.folder)
    for number, name in enumerate(names):
        relu(project.folder / name, number + 1)
        recipe(project.folder, name, "m.onnx")
    (project.folder / "release.yaml").write_text(PLAN.format(host=host))
    return project


def test_kills_lose_nothing_and_give_no_name_twice(models: Path, registry: Registry, tmp_path: Path) -> None:
    names = ["k0", "k1", "k2"]
    project = killable(models, f"{registry.host}/killed", tmp_path, names)
    WARM.lend(project.store)
    killed_release(project, registry, "killed", names, 10, 4.0)


@pytest.mark.slow  # one release is killed by default, above
def test_kills_while_signing_and_pushing(models: Path, registry: Registry, tmp_path: Path) -> None:
    """The bundles are there already, so that nearly every kill meets a signature or a push."""
    names = [f"s{number:02}" for number in range(30)]
    project = killable(models, f"{registry.host}/signed", tmp_path, names)
    store = Store(project.store)
    for name in names:
        bundles.make(store, {"model/w.bin": name.encode() * 9999}, name=name)
    text = PLAN.format(host=f"{registry.host}/signed").replace("  policy: dev\n", "  lock: none\n  build: none\n")
    (project.folder / "release.yaml").write_text(text)
    killed_release(project, registry, "signed", names, 10, 2.5)


@pytest.mark.slow  # 50 kills take minutes
@pytest.mark.parametrize("seed", range(5))
def test_many_kills(models: Path, registry: Registry, tmp_path: Path, seed: int) -> None:
    names = [f"m{number}" for number in range(6)]
    project = killable(models, f"{registry.host}/many{seed}", tmp_path, names)
    WARM.lend(project.store)
    killed_release(project, registry, f"many{seed}", names, 10, 6.0 + seed)


def test_a_release_ends_with_its_driver(models: Path, registry: Registry, tmp_path: Path) -> None:
    """No process of a killed release works on: it could push while the next release runs."""
    project = killable(models, f"{registry.host}/ended", tmp_path, ["e0", "e1"])
    environment = {**forks.variables(project.folder), "PACKAGER_STORE": str(project.store)}
    command = [sys.executable, "-m", "packager", "release", "--jobs", "2"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while len(inner := children(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(inner) == 2
        time.sleep(1.0)
        process.send_signal(number)
        assert process.wait(30) == (-9 if number == signal.SIGKILL else 130)
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in inner) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in inner if alive(pid)]


def alive(pid: int) -> bool:
    """Return whether a process runs; what is dead and not reaped yet does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
