# SPDX-License-Identifier: Apache-2.0
"""Which event loop serves: uvloop where it is installed, Python's own in installations that were locked without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
if sys.argv[1] == "without":
    sys.modules["uvloop"] = None  # what an import sees where the package is missing
from packager.server.process import event_loop as loops
loop = loops.new_event_loop()
print(type(loop).__module__.partition(".")[0], loop.run_until_complete(__import__("asyncio").sleep(0, 7)))
"""


@pytest.mark.parametrize(("case", "printed"), [("with", "uvloop 7"), ("without", "asyncio 7")])
def test_uvloop_is_used_where_installed(case, printed):
    done = subprocess.run([sys.executable, "-c", PROGRAM, case], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed
