# SPDX-License-Identifier: Apache-2.0
"""Stores that tests share results through: what is lent is a result of the store, and a cold test gets none."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.store.store import Store
from packager.types import Action, Result, Tree
from tests.support.warm_store import MAX_OUTPUT, WarmStore

BY = {"level": "namespaces"}


def remembered(root: Path, step: str, size: int = 10, **more: object) -> str:
    """Put a result into a store; return its key."""
    store = Store(root)
    tree = store.put_tree(Tree.of({"out": store.put(b"o" * size)}))
    action = Action(step, 1, {}, {}, {})
    store.remember(action.key, action.to_json(), Result(tree.digest, {"size": size}, **more))  # type: ignore[arg-type]
    return action.key


@pytest.fixture
def warm(tmp_path: Path) -> WarmStore:
    made = WarmStore()
    made.folder = tmp_path / "warm"
    return made


def test_later_stores_recall_what_a_confined_worker_did(warm: WarmStore, tmp_path: Path) -> None:
    confined = remembered(tmp_path / "first", "export", confinement=BY)
    unconfined = remembered(tmp_path / "first", "measure")
    large = remembered(tmp_path / "first", "compile", MAX_OUTPUT + 1, confinement=BY)
    read = remembered(tmp_path / "first", "describe")
    warm.collect(tmp_path / "first")
    warm.lend(tmp_path / "second")
    second = Store(tmp_path / "second")
    found = second.recall(confined)
    assert found and found.facts == {"size": 10}
    assert [second.get(blob.digest) for _, blob in second.tree(found.tree)] == [b"o" * 10]
    assert second.recall(read)
    assert not second.recall(unconfined) and not second.recall(large)


def test_a_cold_test_gets_and_gives_no_result_of_a_worker(warm: WarmStore, tmp_path: Path) -> None:
    before = remembered(tmp_path / "first", "export", confinement=BY)
    warm.collect(tmp_path / "first")
    warm.lends = False
    warm.lend(tmp_path / "cold")
    assert not Store(tmp_path / "cold").recall(before)
    after = remembered(tmp_path / "cold", "measure", confinement=BY)
    warm.collect(tmp_path / "cold")
    warm.lends = True
    warm.lend(tmp_path / "third")
    assert Store(tmp_path / "third").recall(before) and not Store(tmp_path / "third").recall(after)


def test_a_result_without_its_files_is_not_shared(warm: WarmStore, tmp_path: Path) -> None:
    key = remembered(tmp_path / "first", "export", confinement=BY)
    store = Store(tmp_path / "first")
    store.path(store.recall(key).tree).unlink()  # type: ignore[union-attr]
    warm.collect(tmp_path / "first")
    warm.lend(tmp_path / "second")
    assert not Store(tmp_path / "second").recall(key)
