# SPDX-License-Identifier: Apache-2.0
"""The contract of an opened bundle: one record, read once, and another one for other bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import CONTRACT
from packager.errors import WrongContentError
from packager.store.store import Store
from packager.types import Tree
from tests.support import bundles


def test_contract_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundles.make(Store(tmp_path))
    opened: list[str] = []
    real = bundle.medium.open_file
    monkeypatch.setattr(bundle.medium, "open_file", lambda path, blob: (opened.append(path), real(path, blob))[1])
    assert bundle.contract is bundle.contract
    assert opened == [CONTRACT]


def test_view_with_another_contract_has_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundle = bundles.make(store)
    other = store.put(canonical.dump({**bundles.CONTRACT_OF_TINY, "slo": {"p99_ms": 5}}))
    view = replace(bundle, tree=Tree.of({**dict(bundle.tree), CONTRACT: other}))
    assert (bundle.contract.slo, view.contract.slo) == ({}, {"p99_ms": 5})


def test_missing_contract_is_named(tmp_path: Path) -> None:
    bundle = bundles.make(Store(tmp_path))
    bare = replace(bundle, tree=Tree.of({path: blob for path, blob in bundle.tree if path != CONTRACT}))
    with pytest.raises(WrongContentError, match=r"`contract\.json` is missing"):
        _ = bare.contract
