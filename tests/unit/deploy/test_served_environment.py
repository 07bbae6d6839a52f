# SPDX-License-Identifier: Apache-2.0
"""Environments that installations serve from: built once, linked afterwards, and never anything but what is locked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from packager.deploy import served_environment
from packager.deploy.wheels import Supply
from packager.errors import SourceError
from packager.files import remove_tree
from packager.store import environments
from tests.support.deployments import installable

FOREIGN = b"Metadata-Version: 2.1\nName: fremdes\nVersion: 2.0\n"


def supply(folder: Path, files: Mapping[str, bytes] | None = None) -> Supply:
    """Write a wheel of `kleines 1.0`, with more files if wanted, and the lock that names it."""
    place = folder / "wheels"
    place.mkdir(parents=True)
    data = installable("kleines", "1.0", {"kleines/__init__.py": b"ANSWER = 42\n", **(files or {})})
    (place / "kleines-1.0-py3-none-any.whl").write_bytes(data)
    lock = folder / "requirements.txt"
    lock.write_text(f"kleines==1.0 \\\n    --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")
    return Supply(lock, place)


def answer(environment: Path) -> str:
    code = "import kleines; print(kleines.ANSWER)"
    python = environment / "bin" / "python"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def module(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages/kleines/__init__.py")
    return found


def test_the_second_installation_shares_the_files_of_the_first(tmp_path: Path) -> None:
    given, shared = supply(tmp_path), tmp_path / "store" / "served"
    served_environment.make_environment(tmp_path / "one", given, {}, shared)
    (given.place or tmp_path).rename(tmp_path / "gone")  # nothing is asked for a second time
    served_environment.make_environment(tmp_path / "two", given, {}, shared)
    assert answer(tmp_path / "one") == answer(tmp_path / "two") == "42"
    assert module(tmp_path / "one").stat().st_ino == module(tmp_path / "two").stat().st_ino
    remove_tree(tmp_path / "one")
    assert answer(tmp_path / "two") == "42"


def test_a_collector_takes_what_no_installation_uses(tmp_path: Path) -> None:
    given, shared, aside = supply(tmp_path), tmp_path / "served", tmp_path / "aside"
    aside.mkdir()
    served_environment.make_environment(tmp_path / "one", given, {}, shared)
    assert environments.move_unused(shared, aside) == []
    remove_tree(tmp_path / "one")
    (taken,) = environments.move_unused(shared, aside)
    assert taken.parent == aside and environments.move_unused(shared, aside) == []
    served_environment.make_environment(tmp_path / "two", given, {}, shared)
    assert answer(tmp_path / "two") == "42"


def test_where_links_do_not_reach_files_are_copied(tmp_path: Path) -> None:
    given, said = supply(tmp_path), []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == tmp_path.stat().st_dev:
            pytest.skip("one file system only")
        served_environment.make_environment(tmp_path / "one", given, {}, Path(other) / "served", said.append)
    assert answer(tmp_path / "one") == "42" and "copied" in str(said)


@pytest.mark.parametrize("kept", [True, False])
def test_no_setting_of_pip_sends_packages_elsewhere(tmp_path: Path, kept: bool) -> None:
    given, elsewhere = supply(tmp_path), tmp_path / "elsewhere"
    config = tmp_path / "pip.conf"
    config.write_text(f"[install]\ntarget = {elsewhere}\n[global]\nfind-links = {given.place}\nno-index = true\n")
    settings = {
        "PIP_CONFIG_FILE": str(config),
        "PIP_TARGET": str(elsewhere),
        "PIP_PREFIX": str(elsewhere),
        "PIP_USER": "1",
        "PIP_DRY_RUN": "1",
        "PIP_ROOT": str(elsewhere),
    }
    served_environment.make_environment(
        tmp_path / "one", given if kept else Supply(given.requirements, None), settings, None
    )
    assert answer(tmp_path / "one") == "42" and not elsewhere.exists()


def test_a_service_user_reads_what_a_careful_operator_installs(tmp_path: Path) -> None:
    given = supply(tmp_path)
    before = os.umask(0o077)
    try:
        served_environment.make_environment(tmp_path / "one", given, {}, tmp_path / "served")
    finally:
        os.umask(before)
    for folder, _, names in os.walk(tmp_path / "one"):
        assert os.stat(folder).st_mode & 0o755 == 0o755, folder
        assert all(os.lstat(Path(folder, name)).st_mode & 0o444 == 0o444 for name in names), folder


def test_a_store_that_cannot_be_written_shares_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    served_environment.make_environment(tmp_path / "one", supply(tmp_path), {}, tmp_path / "file" / "served")
    assert answer(tmp_path / "one") == "42"


def test_a_wheel_that_brings_another_distribution_is_refused(tmp_path: Path) -> None:
    given = supply(tmp_path, {"fremdes-2.0.egg-info/PKG-INFO": FOREIGN})
    with pytest.raises(SourceError, match=r"pip installed `fremdes 2\.0`, which the bundle does not lock"):
        served_environment.make_environment(tmp_path / "one", given, {}, tmp_path / "served")
    assert not any(path.is_dir() for path in (tmp_path / "served").iterdir())


def test_where_pip_itself_fails_the_cause_is_told(tmp_path: Path) -> None:
    """A distribution of no version ends pip with a trace; the line of it that says why is shown, not its heading."""
    about = b"Metadata-Version: 2.1\nName: fremdes\nVersion: none at all\n"
    given = supply(tmp_path, {"fremdes.egg-info/PKG-INFO": about})
    with pytest.raises(SourceError, match="none at all") as caught:
        served_environment.make_environment(tmp_path / "one", given, {}, None)
    assert "Traceback" not in caught.value.message and caught.value.hint
