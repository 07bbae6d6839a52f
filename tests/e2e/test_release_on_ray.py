# SPDX-License-Identifier: Apache-2.0
"""A release plan on a Ray cluster of two machines that share a registry and nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from packager import __version__
from packager.formats import platforms
from packager.store.store import Store
from packager.trust import keys
from tests.e2e.conftest import Project
from tests.support import ray_clusters
from tests.support.ray_clusters import Cluster
from tests.support.warm_store import WARM

pytestmark = [
    pytest.mark.cold,
    pytest.mark.slow,  # Ray alone takes minutes to start on two busy processors
]
NAMES = [f"m{number}" for number in range(4)]
SECONDS = 900  # for one release
PLAN = """recipes: ["*/bundle.yaml"]
defaults:
  policy: dev
  sign: key:release.pem
  push: oci://{host}/models/{{name}}:{{version}}
"""


def write_models(folder: Path, names: list[str]) -> None:
    """Write toy graphs with recipes, each another one, and a key."""
    for number, name in enumerate(names):
        own = folder / name
        own.mkdir(parents=True)
        x, y = (helper.make_tensor_value_info(port, 1, ["batch", number + 2]) for port in "xy")
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), own / "m.onnx")
        here = platforms.name_host()
        text = f"name: {name}\nversion: 1.0.0\nsource: ./m.onnx\npolicy: dev\nplatforms: [{here}]\n"
        (own / "bundle.yaml").write_text(text)
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)


@dataclass
class Prepared:
    """Models with locks, a store in which they were locked and nothing else was done, and the digests without Ray."""

    folder: Path
    locked: Path
    digests: dict[str, str]

    def copy(self, to: Path, cluster: Cluster) -> tuple[Path, Path]:
        """Return the folder and the store of a release of its own."""
        folder, store = to / "project", to / "store"
        shutil.copytree(self.folder, folder)
        shutil.copytree(self.locked, store)
        (folder / "release.yaml").write_text(PLAN.format(host=f"{cluster.host}/{to.name.lower()}"))
        return folder, store


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Lock with an index, and build by processes of this machine."""
    root = tmp_path_factory.mktemp("prepared")
    project = Project(root / "project", root / "locked")
    write_models(project.folder, NAMES)
    (project.folder / "release.yaml").write_text(PLAN.format(host="127.0.0.1:1"))
    WARM.lend(project.store)
    shutil.rmtree(project.store)
    project.store.mkdir()
    project.run("release", "--until", "lock", "--json")
    alone = Project(project.folder, root / "alone")
    shutil.copytree(project.store, alone.store)
    done = alone.run("release", "--until", "sign", "--jobs", "2", "--json")
    return Prepared(project.folder, project.store, {row["name"]: row["digest"] for row in done["models"]})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Iterator[Cluster]:
    with ray_clusters.cluster(tmp_path_factory.mktemp("ray")) as running:
        yield running


def ended(process: subprocess.Popen[bytes], folder: Path, code: int = 0) -> Any:
    """Wait for a release; return its result."""
    try:
        found = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    said = (folder / "err").read_text()
    assert found == code, f"exit {found}\n{(folder / 'out.json').read_text()[-3000:]}\n{said[-3000:]}"
    assert "Traceback" not in said, said
    return json.loads((folder / "out.json").read_text())


def by_worker(store: Path) -> set[str]:
    """Return the actions that a confined worker performed, by the records of a store."""
    records = {path.name: json.loads(path.read_bytes()) for path in (store / "v1" / "actions").iterdir()}
    return {name for name, record in records.items() if record.get("confinement")}


def test_two_nodes_give_the_digests_of_one_machine_and_keep_to_their_own_stores(
    cluster: Cluster, prepared: Prepared, tmp_path: Path
) -> None:
    folder, store = prepared.copy(tmp_path, cluster)
    before = by_worker(store)
    done = ended(cluster.release(folder, store, "--jobs", "4"), folder)
    assert {row["name"]: row["digest"] for row in done["models"]} == prepared.digests
    assert all(task["state"] in ("done", "unchanged") for row in done["models"] for task in row["tasks"])
    first, second = (machine.actions() for machine in cluster.machines)
    assert first and second and not first & second  # both worked, nothing twice
    assert first | second == by_worker(store) - before
    for machine in cluster.machines:
        own = Store(machine.store)
        assert not own.bundles() and not (own.root / "releases").exists()  # neither bundles nor journals
        assert all(own.recall(f"sha256:{key}") for key in machine.actions())
        records = [json.loads((own.root / "actions" / key).read_bytes()) for key in machine.actions()]
        needed = {digest for record in records for digest in record["action"]["inputs"].values()}
        assert all(own.has_tree(digest) for digest in needed)
        assert {record["confinement"]["level"] for record in records} <= {"bubblewrap", "namespaces"}
    assert (folder / "release.pem").read_bytes() not in b"".join(texts(cluster.folder))
    again = ended(cluster.release(folder, store, "--jobs", "4"), folder)
    assert again["totals"]["states"]["unchanged"] == len(NAMES) and again["totals"]["executed"] == 0


def texts(folder: Path) -> Iterator[bytes]:
    """Yield what lies in stores of nodes, in the registry and in Ray's logs."""
    yield from (path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def test_a_node_with_another_version_is_named(cluster: Cluster, prepared: Prepared, tmp_path: Path) -> None:
    folder, store = prepared.copy(tmp_path, cluster)
    older, root = tmp_path / "older", Path(__file__).parents[2]
    shutil.copytree(root / "packager", older / "packager")
    for name in ("runtimes", "policies", "templates", "conformance"):
        (older / "packager" / name).symlink_to(root / name)
    path = older / "packager" / "__init__.py"
    path.write_text(path.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "0.0.9"'))
    process = cluster.release(folder, store, PYTHONPATH=str(older))
    ended(process, folder, 2)
    said = (folder / "out.json").read_text() + (folder / "err").read_text()
    assert f"has packager {__version__}, expected 0.0.9" in said and "install the same version" in said


def begin(cluster: Cluster, prepared: Prepared, to: Path) -> tuple[Path, Path, subprocess.Popen[bytes]]:
    """Start a release with nodes that know nothing, and wait until the second one has performed something."""
    for machine in cluster.machines:
        shutil.rmtree(machine.store, ignore_errors=True)
    folder, store = prepared.copy(to, cluster)
    process = cluster.release(folder, store, "--jobs", "4")
    deadline = time.monotonic() + SECONDS
    while len(cluster.machines[1].actions()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, (folder / "err").read_text()
    return folder, store, process


def test_a_node_that_dies_loses_nothing_and_nothing_done_is_done_again(
    cluster: Cluster, prepared: Prepared, tmp_path: Path
) -> None:
    """All processes of one machine are killed while it works."""
    first, second = cluster.machines
    folder, store, process = begin(cluster, prepared, tmp_path)
    second.kill()
    known, left, before = by_worker(store), second.actions(), first.actions()
    try:
        done = ended(process, folder)
        assert {row["name"]: row["digest"] for row in done["models"]} == prepared.digests
        assert not (first.actions() - before) & known  # what was done by then was not done again
        assert second.actions() == left
        assert first.actions() | left >= by_worker(store) - by_worker(prepared.locked)
    finally:
        cluster.start_ray(second)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_release_that_ends_leaves_nothing_running_and_goes_on_later(
    cluster: Cluster, prepared: Prepared, tmp_path: Path, number: signal.Signals
) -> None:
    folder, store, process = begin(cluster, prepared, tmp_path)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -9)
    deadline = time.monotonic() + 60
    while steps(cluster) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not steps(cluster)
    known, ran = by_worker(store), [machine.actions() for machine in cluster.machines]
    time.sleep(3)
    assert [machine.actions() for machine in cluster.machines] == ran  # nothing works on
    done = ended(cluster.release(folder, store, "--jobs", "4"), folder)
    assert {row["name"]: row["digest"] for row in done["models"]} == prepared.digests
    more = {key for machine, before in zip(cluster.machines, ran, strict=True) for key in machine.actions() - before}
    assert not more & known


def steps(cluster: Cluster) -> list[int]:
    """Return the sandboxed workers of all nodes: their files lie in a node's store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().decode("utf-8", "replace")
            if any(f"{machine.store}/v1/tmp" in command for machine in cluster.machines):
                found.append(int(path.parent.name))
    return found
