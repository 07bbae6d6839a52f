# SPDX-License-Identifier: Apache-2.0
"""What a verb imports bounds how fast it starts: the number of modules, and some that cost more than they give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from packager.store.store import Store
from packager.transport.copy import save
from tests.support import bundles, forks
from tests.support.stub_registry import serving

COUNT = """
import sys
before = len(sys.modules)
from packager.cli import main
code = main(sys.argv[1:])
import json
print(json.dumps([code, len(sys.modules) - before, sorted(sys.modules)]), file=sys.stderr)
"""
BUNDLE, KEY = "small.bundle.tar", ("--key", "release.pub")
MOST = {
    ("--version",): 19,
    ("keygen", "another"): 117,
    ("verify", BUNDLE, *KEY): 157,
    ("unpack", BUNDLE, "out", *KEY): 175,
    ("import", BUNDLE, *KEY): 172,
    ("inspect", BUNDLE): 322,
    ("push", BUNDLE, "oci://HOST/team/tiny:2.0.0"): 167,
    ("pull", "oci://HOST/team/tiny:1.0.0", *KEY): 213,
}
"""Modules beyond those of Python's own start, a twentieth above what was counted."""
NOT_THERE = {
    "verify": {"ctypes", "concurrent.futures", "logging", "subprocess", "cryptography.hazmat.primitives.serialization"},
    "pull": {"ctypes", "subprocess", "cryptography.hazmat.primitives.serialization"},
    "push": {"ctypes", "subprocess", "cryptography"},
}
NEVER = {
    "asyncio",
    "packager.policy.rego",
    "packager.build.build",
    "sqlite3",
    "xml",
    "multiprocessing",
    "logging.config",
    "urllib.request",
    "urllib3",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("start")
    bundle = bundles.make(Store(place / "store"))
    save(bundle, place / "plain.tar")
    for words in (["keygen", "release"], ["sign", "plain.tar", "--key", "release.pem", "-o", BUNDLE]):
        forks.RUNNER.run(words, place, forks.variables(place)).check_returncode()
    return place


@pytest.mark.parametrize("words", MOST, ids=lambda words: words[0])
def test_a_verb_imports_little(folder: Path, words: tuple[str, ...]) -> None:
    with serving() as registry:
        home = forks.variables(folder)
        sent = ["push", BUNDLE, f"oci://{registry.host}/team/tiny:1.0.0"]
        if words[0] == "pull":
            forks.RUNNER.run(sent, folder, home).check_returncode()
        command = [sys.executable, "-c", COUNT, *(word.replace("HOST", registry.host) for word in words)]
        done = subprocess.run(command, cwd=folder, env=home, capture_output=True, text=True, check=True)
    code, count, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    assert count <= MOST[words], f"{count} modules"
    assert not (NEVER | NOT_THERE.get(words[0], set())) & set(modules)
