# SPDX-License-Identifier: Apache-2.0
"""Plug-ins: found by file name, imported when asked for, extended through entry points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packager import plugins
from packager.errors import UsageError


def test_a_file_is_a_plug_in() -> None:
    assert {"directory", "file", "mlflow"} <= set(plugins.list_names("sources"))
    assert plugins.load("sources", "file").__name__ == "packager.sources.file"


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_names_are_sorted_published_names(group: plugins.Group) -> None:
    names = plugins.list_names(group)
    assert list(names) == sorted(set(names))
    assert not any("_" in name for name in names)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in plugins.GROUPS for name in plugins.list_names(group)]
)
def test_every_plug_in_imports_and_explains_itself(group: plugins.Group, name: str) -> None:
    """Without what its extra installs: heavy packages are imported where they are used."""
    module = plugins.load(group, name)
    assert (module.__doc__ or "").strip()


def test_listing_imports_nothing() -> None:
    code = "import sys; from packager import plugins; plugins.list_names('sources'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "packager.sources" in done.stdout.split()
    assert "packager.sources.file" not in done.stdout.split()


def test_an_unknown_name_has_a_close_match() -> None:
    with pytest.raises(UsageError) as caught:
        plugins.load("sources", "mlfow")
    assert caught.value.message == "`mlfow` is not among the sources"
    assert caught.value.hint
    assert caught.value.hint.startswith("did you mean `mlflow`?")


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution that registers plug-ins, as `pip install` would leave it."""
    info = tmp_path / "acme_sources-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sources\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[packager.sources]\nacme_store = acme_store\nfile = acme_store\nbroken = acme_broken\nodd = acme_store:EXTRA\n"
    )
    (tmp_path / "acme_store.py").write_text('"""A store."""\nEXTRA = None\n')
    (tmp_path / "acme_broken.py").write_text("import acme_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_third_parties_register_through_entry_points(third_party: Path) -> None:
    assert "acme-store" in plugins.list_names("sources")
    assert plugins.load("sources", "acme-store") is plugins.load("sources", "acme_store")


def test_third_parties_replace_nothing_of_ours(third_party: Path) -> None:
    assert plugins.load("sources", "file").__name__ == "packager.sources.file"


def test_a_broken_third_party_is_named(third_party: Path) -> None:
    with pytest.raises(UsageError, match="`broken` of `acme-sources` cannot be imported: No module named") as caught:
        plugins.load("sources", "broken")
    assert caught.value.hint == "reinstall or remove `acme-sources`"
    with pytest.raises(UsageError, match="`odd` of `acme-sources` is not a module"):
        plugins.load("sources", "odd")
