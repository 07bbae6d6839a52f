# SPDX-License-Identifier: Apache-2.0
"""What served before what is told by the journal: rollbacks go back, whatever a kill or a power cut left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.deploy import install, journal
from packager.deploy.install import switch_release
from packager.deploy.rollback import roll_back
from packager.deploy.server_files import CONFIG
from packager.errors import StorageError, UsageError


def release(site: Path, name: str) -> Path:
    """Make a release that can be switched to; nothing of it is run here."""
    path = site / "releases" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG).write_text(json.dumps({"digest": f"sha256:{name}"}))
    return path


def clock() -> Iterator[str]:
    return (f"2026-01-01T00:00:{second:02}Z" for second in range(60))


def put(site: Path, name: str, action: str = "install", *, noted: bool = True) -> None:
    """Make a release current as `install` and `upgrade` do; not `noted`, it is killed after the switch."""
    path = release(site, name)
    with journal.record_action(site, times[site], action, name) as note:
        switch_release(site, path)
        if noted:
            note("switched")
    if not noted:
        rows = (site / journal.FILE).read_text().splitlines()
        (site / journal.FILE).write_text("\n".join(rows[:-1]) + "\n")  # no `done` either


times: dict[Path, journal.Clock] = {}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    moments = clock()
    times[tmp_path] = lambda: next(moments)
    return tmp_path


def current(site: Path) -> str:
    return install.find_current(site).name


def back(site: Path) -> str:
    return roll_back(site, times[site]).name


def test_twice_goes_further_back_and_then_ends(site: Path) -> None:
    for name in ("1", "2", "3"):
        put(site, name)
    assert [back(site), back(site)] == ["2", "1"]
    assert not (site / "previous").is_symlink()
    with pytest.raises(UsageError, match="no release before 1"):
        roll_back(site, times[site])
    assert current(site) == "1"


def test_what_was_left_by_a_rollback_is_not_behind_the_next_release(site: Path) -> None:
    for name in ("1", "2"):
        put(site, name)
    back(site)
    put(site, "3", "upgrade")
    assert back(site) == "1", "2 was left for a reason"


def test_a_release_that_was_installed_again_is_new(site: Path) -> None:
    for name in ("1", "2", "1", "1"):
        put(site, name)
    assert back(site) == "2" and current(site) == "2"
    assert back(site) == "1"
    with pytest.raises(UsageError):
        back(site)


def test_a_release_that_is_gone_is_passed_over(site: Path) -> None:
    for name in ("1", "2", "3"):
        put(site, name)
    (site / "releases" / "2" / CONFIG).unlink()
    assert back(site) == "1"


def test_a_kill_between_the_switch_and_its_line(site: Path) -> None:
    put(site, "1")
    put(site, "2")
    put(site, "3", noted=False)
    assert back(site) == "2" and back(site) == "1"


def test_a_killed_rollback_goes_on_back(site: Path) -> None:
    for name in ("1", "2", "3"):
        put(site, name)
    back(site)
    rows = (site / journal.FILE).read_text().splitlines()
    kept = rows[: max(number for number, row in enumerate(rows) if '"begun"' in row) + 1]
    (site / journal.FILE).write_text("\n".join(kept) + '\n{"torn')
    assert current(site) == "2" and back(site) == "2", "the same call ends it"
    assert back(site) == "1"


def test_an_installation_from_before_goes_back_once(site: Path) -> None:
    """Its journal has upgrades alone, and `previous` names what served before."""
    switch_release(site, release(site, "1"))
    put(site, "2", "upgrade")
    assert back(site) == "1"
    with pytest.raises(UsageError):
        back(site)


def test_every_line_has_its_own_time(site: Path) -> None:
    put(site, "1")
    put(site, "2")
    back(site)
    rows = list(journal.read_entries(site))
    assert [row["step"] for row in rows] == ["begun", "switched", "done"] * 3
    assert [row["action"] for row in rows[::3]] == ["install", "install", "rollback"]
    assert [row["when"] for row in rows] == sorted({row["when"] for row in rows}), "times rise and differ"
    assert all(row["release"] for row in rows)


def test_a_refusal_is_noted_with_its_reason(site: Path) -> None:
    with journal.record_action(site, times[site], "install", "0"):
        pass
    with pytest.raises(StorageError), journal.record_action(site, times[site], "install", "1"):
        raise StorageError("no space")
    assert list(journal.read_entries(site))[-1]["reason"] == "no space"


def test_a_first_action_that_is_refused_leaves_no_journal(site: Path) -> None:
    with pytest.raises(StorageError), journal.record_action(site, times[site], "install", "1"):
        raise StorageError("no space")
    assert not (site / journal.FILE).exists()
