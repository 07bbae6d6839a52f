# SPDX-License-Identifier: Apache-2.0
"""Files that this program keeps may have been replaced by something that never answers: nothing waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import files
from packager.deploy import install, journal, upgrade
from packager.errors import PackagerError, UsageError
from packager.lock import lock
from packager.store.store import Store
from packager.trust import seen
from packager.trust.seen import Seen
from tests.support import bundles

DIGEST = "sha256:" + "0" * 64
# In a process of its own: what waits for ever is ended, and then the test fails.
CHILD = """
import importlib, sys
from pathlib import Path
from packager.errors import PackagerError
from tests.attacks import test_state
try:
    test_state.READERS[sys.argv[1]](Path(sys.argv[2]))
except PackagerError as error:
    print(type(error).__name__, error.message)
"""
READERS: dict[str, Callable[[Path], object]] = {
    "seen": lambda path: seen.load(path, "acme"),
    "remember": lambda path: seen.remember(path, "acme", Seen().with_bundle("tiny", "1.0.0", DIGEST)),
    "lock": lambda path: files.hold_lock(path).__enter__(),
    "installation": lambda path: install._read_record(path),
    "journal": lambda path: list(journal.read_entries(path.parent)),
    "lock-file": lambda path: lock.load(path),
}
NAMES = {"journal": journal.FILE}


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_nothing_waits_for_a_pipe(reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / NAMES.get(reader, "state")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif os.geteuid() != 0:
        pytest.skip("only root makes devices")
    else:
        os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero: bytes without end
    done = subprocess.run([sys.executable, "-c", CHILD, reader, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "not a regular file" in done.stdout or (kind == "directory" and "directory" in done.stdout)


def test_a_stored_bundle_that_is_a_pipe(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundles.make(store)
    record = tmp_path / "store" / "v1" / "bundles" / "tiny" / "1.0.0"
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(PackagerError, match="not a regular file"):
        store.entry("tiny", "1.0.0")


@pytest.mark.parametrize(
    ("there", "new", "refused"),
    [
        ("1.4.0+build.2", "1.4.0+build.1", True),
        ("1.4.0", "1.4.0+x", True),
        ("1.4.0", "1.4.0", False),
        ("1.4.0+b", "1.4.1", False),
    ],
)
def test_upgrade_refuses_a_version_that_is_not_newer(tmp_path: Path, there: str, new: str, refused: bool) -> None:
    bundle = bundles.make(Store(tmp_path / "store"), version=new)
    release = tmp_path / "site" / "releases" / "x"
    release.mkdir(parents=True)
    (release / install.CONFIG).write_text(f'{{"name": "tiny", "version": "{there}"}}')
    (tmp_path / "site" / "current").symlink_to("releases/x")
    if refused:
        with pytest.raises(UsageError, match="neither older nor newer"):
            upgrade.check_step(tmp_path / "site", bundle, allow_downgrade=False)
    upgrade.check_step(tmp_path / "site", bundle, allow_downgrade=refused)
