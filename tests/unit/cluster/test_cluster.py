# SPDX-License-Identifier: Apache-2.0
"""Requests, nodes and answers without a cluster: the same code as on one, with stores that have nothing in common."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packager import __version__, plugins
from packager.actions.runner import Runner
from packager.cluster import messages, node
from packager.cluster.client import Gateway
from packager.cluster.executor import ClusterExecutor
from packager.cluster.messages import Needs, Place, Request
from packager.errors import IntegrityError, MissingToolError, SourceError, StepError, TooNewError, UsageError
from packager.sandbox.sandbox import Limits, default_limits
from packager.sandbox.worker import host_version
from packager.store.store import Store
from packager.transport.shared import SharedStore, check_address, open_shared
from packager.types import Action, Blob, Tree
from packager.workspace import Workspace

LIMITS = Limits(default_limits().memory, 60)


def settings() -> Any:
    return Workspace().registry_settings()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared"


@pytest.fixture
def driver(tmp_path: Path) -> Store:
    return Store(tmp_path / "driver")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a node."""
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "node"))
    return Store(tmp_path / "node")


def scanned(store: Store, content: object = (1, 2)) -> Action:
    """Return the scan of a small pickle, which lies in `store`."""
    tree = store.put_tree(Tree.of({"model.pkl": store.put(pickle.dumps(content))}))
    tools = {name: host_version(name, "scan") for name in ("python", "picklescan")}
    params = {"scanner": "picklescan", "files": ["model.pkl"]}
    return Action("scan", plugins.load("steps", "scan").VERSION, {"source": tree.digest}, params, tools)


def asking(answers: Callable[[dict[str, Any]], Any], address: str, needs: Needs = Needs()) -> ClusterExecutor:  # noqa: B008
    return ClusterExecutor(answers, lambda: None, open_shared(address, settings), Place(address), needs)


def performed(value: dict[str, Any]) -> Any:
    return json.loads(node.perform(json.dumps(value["request"])))


def clustered(store: Store, executor: ClusterExecutor) -> Runner:
    runner = Runner(store, LIMITS)
    runner.executor = executor
    return runner


def test_a_node_gives_the_result_that_this_machine_gives(
    driver: Store, there: Store, address: str, tmp_path: Path
) -> None:
    action = scanned(driver)
    runner = clustered(driver, asking(performed, address))
    found = runner(action, "scan")
    here = Store(tmp_path / "alone")
    scanned(here)
    alone = Runner(here, LIMITS)(action, "scan")
    assert (found.tree, found.facts, found.confinement) == (alone.tree, alone.facts, alone.confinement)
    assert runner.executed == 1 and driver.recall(action.key) and there.recall(action.key)
    assert driver.has_tree(found.tree)
    assert runner(action, "scan").cached


def test_a_repeated_request_runs_nothing_and_sends_nothing(driver: Store, there: Store, address: str) -> None:
    action = scanned(driver)
    answers: list[Any] = []

    def ask(value: dict[str, Any]) -> Any:
        answers.append(performed(value))
        return answers[-1]

    executor = asking(ask, address)
    clustered(driver, executor)(action, "scan")
    again = Store(driver.root.parent.with_name("another-driver"))
    scanned(again)
    clustered(again, executor)(action, "scan")
    assert [answer["result"]["executed"] for answer in answers] == [True, False]
    assert answers[0]["result"]["tree"] == answers[1]["result"]["tree"]


def test_nothing_secret_is_in_a_request(
    driver: Store, there: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "PACKAGER_PASSPHRASE", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, "a-very-secret-word")
    seen: list[str] = []

    def ask(value: dict[str, Any]) -> Any:
        seen.append(json.dumps(value))
        return performed(value)

    clustered(driver, asking(ask, address))(scanned(driver), "scan")
    assert len(seen) == 1 and "a-very-secret-word" not in seen[0]
    assert set(json.loads(seen[0])["request"]) == {
        *("packager", "label", "seconds", "memory", "confined", "action", "inputs", "place", "toolchain")
    }


def test_another_version_is_refused_with_a_remedy(driver: Store, there: Store, address: str) -> None:
    def older(value: dict[str, Any]) -> Any:
        value["request"]["packager"] = "0.0.1"
        return performed(value)

    with pytest.raises(UsageError, match=f"a node has packager {__version__}, expected 0.0.1") as raised:
        clustered(driver, asking(older, address))(scanned(driver), "scan")
    assert "install the same version" in str(raised.value.hint)


def test_other_tools_are_refused_before_anything_runs(driver: Store, there: Store, address: str) -> None:
    action = scanned(driver)
    action = replace(action, toolchain={**action.toolchain, "picklescan": "0.0.1"})
    with pytest.raises(UsageError, match=r"expected picklescan 0\.0\.1"):
        clustered(driver, asking(performed, address))(action, "scan")
    assert there.recall(action.key) is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (messages.lost("the shared store cannot be reached"), SourceError),
        (messages.refused("no"), UsageError),
        ({"result": {}}, StepError),
        ({"result": None}, StepError),
        ({"error": {"message": "x"}}, StepError),
        ({"verdict": "yes"}, StepError),
        ([], StepError),
        (None, StepError),
        ("result", StepError),
    ],
)
def test_answers_of_other_forms_are_errors(driver: Store, there: Store, address: str, value: Any, kind: type) -> None:
    with pytest.raises(kind):
        clustered(driver, asking(lambda _: value, address))(scanned(driver), "scan")


def changed(**members: Any) -> Callable[[dict[str, Any]], Any]:
    def ask(value: dict[str, Any]) -> Any:
        answer = performed(value)
        answer["result"].update(members)
        return answer

    return ask


NOWHERE = "sha256:" + "0" * 64
UNCONFINED = {"level": "none", "seccomp": False, "landlock": False, "user": "root", "limits": "process"}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"facts": {"model.pkl": "clean"}}, "what it cannot find"),
        ({"confinement": UNCONFINED}, "without a sandbox"),
        ({"confinement": {**UNCONFINED, "level": "perfect"}}, "what is no answer"),
        ({"tree": "sha256:0"}, "what is no answer"),
        ({"size": 1 << 60}, "left what no output holds"),
        ({"executed": "yes"}, "what is no answer"),
    ],
)
def test_a_changed_answer_is_refused_and_not_remembered(
    driver: Store, there: Store, address: str, members: dict[str, Any], said: str
) -> None:
    action = scanned(driver)
    with pytest.raises(StepError, match=said):
        clustered(driver, asking(changed(**members), address))(action, "scan")
    assert driver.recall(action.key) is None


def test_a_tree_that_is_not_in_the_shared_store_is_no_result(driver: Store, there: Store, address: str) -> None:
    action = scanned(driver)
    with pytest.raises((SourceError, StepError)):
        clustered(driver, asking(changed(tree=NOWHERE), address))(action, "scan")
    assert driver.recall(action.key) is None


def test_a_damaged_blob_of_the_shared_store_is_found(driver: Store, there: Store, address: str, tmp_path: Path) -> None:
    shared = open_shared(address, settings)
    blob = driver.put(b"weights")
    record = shared.send_tree(driver, driver.put_tree(Tree.of({"w": blob})).digest)
    path = tmp_path / "shared" / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    path.write_bytes(b"weightz")
    fresh: SharedStore = open_shared(address, settings)
    with pytest.raises(IntegrityError):
        fresh.receive_tree(there, record, node.OUTPUT)
    assert not there.has(blob.digest)


def test_a_tree_of_more_than_its_bounds_is_refused(driver: Store, there: Store, address: str) -> None:
    shared = open_shared(address, settings)
    tree = driver.put_tree(Tree.of({f"{number}": driver.put(b"x") for number in range(5)}))
    record = shared.send_tree(driver, tree.digest)
    with pytest.raises(IntegrityError, match="5 files"):
        shared.receive_tree(there, record, replace(node.OUTPUT, entries=4))
    with pytest.raises(IntegrityError, match="5 bytes"):
        shared.receive_tree(there, record, replace(node.OUTPUT, total=4))


def test_the_error_of_a_step_arrives_as_it_was_raised() -> None:
    failed = StepError("it does not fit", hint="make it smaller", log="line\n" * 3, died=True)
    answer = messages.read_answer(json.loads(json.dumps(messages.describe_error(failed))))
    again = messages.error_of(answer.said)
    assert (again.message, again.hint, again.log, again.died) == (
        failed.message,
        failed.hint,
        failed.log,
        failed.died,
    )
    new = messages.error_of(messages.read_answer(messages.describe_error(TooNewError("Gelu", 20, 17))).said)
    assert isinstance(new, TooNewError) and (new.operator, new.opset, new.wanted) == ("Gelu", 20, 17)


def test_what_is_no_fault_of_the_model_is_lost_and_no_verdict() -> None:
    assert "lost" in messages.describe_error(SourceError("the registry is gone"))
    assert "lost" in json.loads(node.perform("not JSON"))
    assert "refused" in messages.describe_error(MissingToolError("onnx", "onnx"))
    assert "error" in messages.describe_error(StepError("parity"))


def test_inputs_that_are_not_those_of_the_action_are_refused(driver: Store, address: str) -> None:
    action = scanned(driver)
    request = Request(__version__, action, "scan", {"source": Blob(NOWHERE, 3)}, Place(address), 60)
    with pytest.raises(ValueError, match="not those of the action"):
        Request.from_json(request.to_json())


def test_a_gpu_is_asked_for_by_steps_that_use_one(driver: Store, there: Store, address: str) -> None:
    asked: list[Needs] = []

    def ask(value: dict[str, Any]) -> Any:
        asked.append(Needs.from_json(value["needs"]))
        return messages.refused("seen")

    needs = Needs(cpus=2, memory=1 << 30, gpus=1, accelerator="H100")
    action = scanned(driver)
    for params in ({}, {"gpu": True}):
        with pytest.raises(UsageError, match="seen"):
            runner = clustered(driver, asking(ask, address, needs))
            runner(replace(action, params={**action.params, **params}), "scan")
    assert asked == [Needs(2, 1 << 30), needs]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("oci://registry.example.org/cache:1", "not a repository"),
        ("oci://registry.example.org", "malformed"),
        ("s3://key:word@bucket/folder", "server|password"),
        ("gs://user:word@bucket/folder", "password"),
        ("nonsense", "malformed"),
    ],
)
def test_addresses_of_shared_stores_are_checked(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        check_address(given)
    assert "word" not in raised.value.message.replace("password", "")


def connecting(address: str, tmp_path: Path) -> SourceError:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    gateway = Gateway(address, {"PATH": "/usr/bin:/bin", "RAY_TMPDIR": str(tmp_path)})
    try:
        with pytest.raises(SourceError) as raised:
            gateway.connect()
    finally:
        gateway.close()
    return raised.value


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:port"])
def test_a_cluster_that_cannot_be_reached_is_an_error_with_a_remedy(tmp_path: Path, address: str) -> None:
    error = connecting(address, tmp_path)
    assert error.message.startswith(f"Ray at `{address}` cannot be reached: ") and "ray start" in str(error.hint)


def test_without_a_cluster_here_auto_says_so(tmp_path: Path) -> None:
    error = connecting("auto", tmp_path)
    assert "Ray at `auto` cannot be used: ConnectionError: Could not find any running Ray instance" in error.message


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError) as raised:
        Gateway("auto", {})
    assert "[ray]" in str(raised.value.hint)
