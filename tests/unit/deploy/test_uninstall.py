# SPDX-License-Identifier: Apache-2.0
"""An installation that somebody serves from is not taken away, unless it is forced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packager.cli import main
from packager.deploy.upgrade import find_servers

SLEEP = "import sys, time; print('here', flush=True); time.sleep(600)"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    release = tmp_path / "site" / "releases" / "1.0.0-aa"
    release.mkdir(parents=True)
    (release / "serve.json").write_text("{}")
    (tmp_path / "site" / "current").symlink_to("releases/1.0.0-aa")
    return tmp_path / "site"


@contextmanager
def running(*words: str, folder: Path) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", SLEEP, *words], cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_server_and_whoever_watches_over_it_are_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = site / "releases" / "1.0.0-aa" / "serve.json"
    with running("serve", "site", folder=site.parent) as watcher, running(str(config), folder=Path("/")) as server:
        assert set(find_servers(site)) == {watcher, server}
        assert main(["uninstall", str(site)]) == 2
        said = capsys.readouterr().err
        assert f"in use by process {min(watcher, server)} and 1 more" in said and "--force" in said
        assert config.exists()
        assert main(["uninstall", str(site), "--force"]) == 0
    assert not site.exists()


def test_others_do_not_count(site: Path) -> None:
    with running("serve", "elsewhere", folder=site.parent), running("status", str(site), folder=site.parent):
        assert find_servers(site) == {}
        assert main(["uninstall", str(site)]) == 0
