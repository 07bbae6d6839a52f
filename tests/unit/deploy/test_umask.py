# SPDX-License-Identifier: Apache-2.0
"""Whatever the umask of who installs, a service user may read an installation, and nobody else may write it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust import keys
from tests.support import deployments


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a signed bundle that carries a wheel, and its key."""
    place, key = tmp_path_factory.mktemp("signed"), keys.generate_key("p256")
    wheel = deployments.installable("kleines", "1.0", {"kleines/__init__.py": b""})
    save(sign(deployments.carrier(Store(place / "store"), kleines=wheel), key), place / "small.bundle.tar")
    (place / "release.pub").write_bytes(key.public.pem)
    return place


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o000], ids=oct)
def test_an_installation_is_read_by_all_and_written_by_its_owner(umask: int, signed: Path, tmp_path: Path) -> None:
    site = tmp_path / "deep" / "site"
    for verb in ("install", "install", "rollback"):
        words = [site, "--key", "release.pub", "--store", tmp_path / "store"] if verb == "install" else [site]
        command = [sys.executable, "-m", "packager", verb, *(["small.bundle.tar"] if verb == "install" else []), *words]
        done = subprocess.run(
            list(map(str, command)),
            cwd=signed,
            umask=umask,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert done.returncode in (0, 2) if verb == "rollback" else done.returncode == 0, done.stderr
    found = [site.parent, *(path for path in site.parent.rglob("*") if not path.is_symlink())]
    assert len(found) > 50
    wrong = {}
    for path in found:
        mode, read = stat.S_IMODE(path.stat().st_mode), 0o555 if path.is_dir() else 0o444
        if mode & read != read or mode & 0o022:
            wrong[str(path.relative_to(tmp_path))] = oct(mode)
    assert wrong == {}
