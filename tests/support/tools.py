# SPDX-License-Identifier: Apache-2.0
"""What tests need of the machine besides Python: a program or library that is missing skips the test, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

REQUIRED = os.environ.get("PACKAGER_TEST_REQUIRE_TOOLS") == "1"


def tool(name: str) -> str:
    """Return the path of a system program, or skip; where tools are required, a missing one is a failure."""
    found = shutil.which(name)
    if found is None:
        missing(name)
    return str(found)


def library(name: str) -> None:
    """Skip the test if a new process cannot load a shared library; where tools are required, that is a failure."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"  # this process may have been brought a copy by a wheel
    if subprocess.run([sys.executable, "-I", "-c", code, name], capture_output=True, check=False).returncode:
        missing(name)


def offline() -> tuple[str, ...]:
    """Return a prefix that runs a command without any network, or skip: containers often forbid new namespaces."""
    prefix = (tool("unshare"), "--user", "--map-root-user", "--net")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        missing("a user namespace")
    return prefix


def missing(name: str) -> None:
    """Skip a test for want of something, or fail where tools are required."""
    if REQUIRED:
        pytest.fail(f"`{name}` is required here and is not installed")
    pytest.skip(f"`{name}` is not installed")
