# SPDX-License-Identifier: Apache-2.0
"""The journal: what was written is there after a kill, and a name is given to one digest only."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from packager.errors import StorageError
from packager.release_plan.journal import Journal

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
KILLED = """
import os, signal, sys
from pathlib import Path
from packager.release_plan.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.claim("m", "1.0.0", "sign", sys.argv[2])
journal.remember("m", "sign", {"bundle": sys.argv[2]}, {"statements": []}, 1.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_task_is_known_by_its_inputs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.recall("m", "build", {"recipe": A}) is None
    assert journal.last_inputs("m", "build") is None
    journal.remember("m", "build", {"recipe": A}, {"digest": A}, 2.5)
    journal.remember("m", "build", {"recipe": B}, {"digest": B}, 3.5)
    found = journal.recall("m", "build", {"recipe": A})
    assert found and (found.outcome, found.seconds) == ({"digest": A}, 2.5)
    assert journal.last_inputs("m", "build") == {"recipe": B}
    assert journal.recall("n", "build", {"recipe": A}) is None
    assert journal.recall("m", "push", {"recipe": A}) is None
    journal.remember("m", "build", {"recipe": A}, {"digest": A}, 0.5)
    assert journal.last_inputs("m", "build") == {"recipe": A}


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), A], check=False)
    assert done.returncode == -signal.SIGKILL
    journal = Journal(path)
    assert journal.recall("m", "sign", {"bundle": A})
    assert journal.claim("m", "1.0.0", "sign", B)[0] == A


def test_of_many_who_claim_at_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()

    def claim(number: int) -> str:
        return Journal(path).claim("m", "1.0.0", "push oci://h/m:1.0.0", f"sha256:{number:064}", number)[0]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(claim, range(40)))) == 1


def test_purposes_and_versions_are_claimed_one_by_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.claim("m", "1.0.0", "sign", A, "first") == (A, "first")
    assert journal.claim("m", "1.0.0", "sign", A, "second") == (A, "first")
    assert journal.claim("m", "1.0.1", "sign", B) == (B, None)
    assert journal.claim("m", "1.0.0", "push oci://h", B) == (B, None)


def test_a_file_that_is_no_journal_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no journal at all" * 100)
    with pytest.raises(StorageError, match="no journal of releases"):
        Journal(tmp_path / "journal.sqlite")


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    base = sqlite3.connect(tmp_path / "journal.sqlite")
    base.execute("PRAGMA user_version=99")
    base.close()
    with pytest.raises(StorageError, match="newer version"):
        Journal(tmp_path / "journal.sqlite")
