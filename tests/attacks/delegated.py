# SPDX-License-Identifier: Apache-2.0
"""Greedy steps in control groups of their own, where a part of the tree was delegated: prints how each one ended.

    systemd-run --scope -p Delegate=yes python -m tests.attacks.delegated        (as root; with --user for others)

Fails where no groups are delegated, where a greedy step is not ended for what it took, and where a group is left.
"""

from __future__ import annotations

import json
import sys
import tempfile
import textwrap
from pathlib import Path

from packager.sandbox import cgroup, sandbox
from packager.sandbox.sandbox import Limits, Step

MIB = 1 << 20
LIMITS = Limits(memory=256 * MIB, seconds=300, disk=64 * MIB, processes=40)
STEPS = {
    "an honest one": ("held = bytearray(32 << 20)", (None, 0)),
    "memory of children together, faster than it is sampled": (
        """
        import mmap, os
        for _ in range(6):
            if os.fork() == 0:
                held = mmap.mmap(-1, 100 << 20)
                for place in range(0, 100 << 20, 4096): held[place] = 1
                os._exit(0)
        for _ in range(6): os.wait()
        """,
        ("memory", -9),
    ),
    "more processes than it may have: no more are made": (
        """
        import os, time  # this one and the first process of the step count, too
        for count in range(200):
            try: child = os.fork()
            except OSError: os._exit(count)
            if child == 0: time.sleep(60); os._exit(0)
        """,
        (None, LIMITS.processes - 2),
    ),
}


def main() -> int:
    by = sandbox.find_confinement()
    print(json.dumps({"confinement": by.to_json(), "tree": str(cgroup.delegated_tree())}), flush=True)
    tree = cgroup.delegated_tree()
    if by.limits != "cgroup" or tree is None:
        return 1
    failed = 0
    for title, (code, expected) in STEPS.items():
        with tempfile.TemporaryDirectory() as scratch:
            step = Step(Path(scratch), sandbox.host_interpreter(), ("-c", textwrap.dedent(code)), LIMITS)
            found = sandbox.run_confined(step, by, set())
        left = [path.name for path in tree.glob("packager.step.*")]
        failed += (found.stopped, found.code) != expected or bool(left)
        said = {"step": title, "stopped": found.stopped, "code": found.code, "MiB": found.used // MIB, "left": left}
        print(json.dumps(said), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
