# SPDX-License-Identifier: Apache-2.0
"""What the workers of a test run did, for the stores of its later tests: a build that did it before runs nothing again.

Shared are the results of confined steps with small outputs, and what was read of wheels. A test that is about a build
from an empty store is marked `cold`; attacks are without a mark, and with PACKAGER_TEST_STARTS, as in `make test-all`,
every test is. What workers of cold tests leave stays in their own stores.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from packager.errors import IntegrityError
from packager.store.store import Store
from packager.types import Tree
from tests.support.breadth import ALL

MAX_OUTPUT = 4 << 20  # bytes of the files of a result; larger ones are not copied into every store


class WarmStore:
    """A store of this run, which its processes fill together: a record comes after all that it names."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.lends = True  # false while a cold test runs

    def lend(self, root: Path) -> None:
        """Make a store at `root` that holds what is known; for a cold test only what was read of wheels."""
        shared, store = self._shared(), Store(root)
        store.put_tree(Tree())
        for path in (shared.root / "actions").glob("*[0-9a-f]"):
            record = json.loads(path.read_bytes())
            if record["action"]["step"] == "describe" or (self.lends and not ALL):
                _copy_result(record, path.name, shared, store)

    def collect(self, root: Path) -> None:
        """Take from a store what is new in it."""
        shared, store = self._shared(), Store(root)
        for path in (store.root / "actions").iterdir():
            if not (shared.root / "actions" / path.name).exists():
                record = json.loads(path.read_bytes())
                with contextlib.suppress(IntegrityError):  # a test removed or damaged what it names
                    if self._is_shared(record, store):
                        _copy_result(record, path.name, store, shared)

    def _is_shared(self, record: dict, store: Store) -> bool:
        steps = self.lends and "confinement" in record and "environment" not in record
        small = sum(blob.size for _, blob in store.tree(record["tree"])) <= MAX_OUTPUT
        return record["action"]["step"] == "describe" or (steps and small)

    def _shared(self) -> Store:
        assert self.folder, "set for the run"
        return Store(self.folder)


def _copy_result(record: dict, name: str, source: Store, target: Store) -> None:
    for digest in (*(blob.digest for _, blob in source.tree(record["tree"])), record["tree"]):
        _copy(source.path(digest), target.path(digest))
    _copy(source.root / "actions" / name, target.root / "actions" / name)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        with tempfile.NamedTemporaryFile(dir=target.parents[1], delete=False) as file:
            file.write(source.read_bytes())
        os.chmod(file.name, 0o444)
        os.rename(file.name, target)


WARM = WarmStore()
"""That of this test run."""
