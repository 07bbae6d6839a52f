# SPDX-License-Identifier: Apache-2.0
"""The ledger: a version is seen once, held by one process, and given up with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packager.errors import StorageError
from packager.watch.ledger import Item, Ledger

ONE = Item("http://registry", "net", "1", "net", "2.1.1")
TWO = Item("http://registry", "net", "2", "net", "2.1.2")
HOLDER = """
import sys
from pathlib import Path
from packager.watch.ledger import Item, Ledger
ledger = Ledger(Path(sys.argv[1]))
print(ledger.hold(Item(*sys.argv[2:])), flush=True)
sys.stdin.read()
"""


def test_a_version_is_new_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.see(ONE, "alias champion", 1.0) and not ledger.see(ONE, "tag x", 2.0)
    assert ledger.see(TWO, "alias champion", 3.0)
    assert ledger.waiting(5.0) == [ONE, TWO]
    ledger.postpone(ONE, 9.0)
    assert ledger.waiting(5.0) == [TWO] and ledger.attempts(ONE) == 1
    ledger.finish(TWO, "released", {"packager.net.digest": "sha256:1"})
    assert Ledger(tmp_path).waiting(9.0) == [ONE]
    assert ledger.untagged("http://registry") == [(TWO, {"packager.net.digest": "sha256:1"})]
    ledger.mark_tagged(TWO)
    assert ledger.untagged("http://registry") == []
    assert not ledger.hold(TWO), "it is done"
    assert ledger.counts() == {"waiting": 1, "released": 1, "refused": 0, "failed": 0}


def test_a_version_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.see(ONE, "alias", 1.0)
    ledger.see(TWO, "alias", 1.0)
    command = [sys.executable, "-c", HOLDER, str(tmp_path), *ONE.key]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "True\n"
    assert not ledger.hold(ONE) and ledger.hold(TWO)
    other.kill()
    other.communicate()
    assert ledger.hold(ONE), "the kernel gave it up"
    ledger.release_holds()
    assert ledger.hold(ONE)


def test_a_delivery_is_received_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.receive("a", 100.0, 0.0) and not ledger.receive("a", 101.0, 0.0)
    assert ledger.receive("b", 900.0, 300.0)
    assert ledger.receive("a", 901.0, 300.0), "its time stamp would be refused by now"


def test_what_is_no_ledger_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "watch.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match="cannot be used"):
        Ledger(tmp_path)
