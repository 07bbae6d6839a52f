# SPDX-License-Identifier: Apache-2.0
"""Run tests as an ordinary user, and without bubblewrap: where root develops, nothing else shows what others meet.

    python -m tests.attacks.as_user [--user nobody] [--without-bubblewrap] [words of pytest …]

Needs root, changes nothing outside a mount space of its own, and takes `tests/attacks` where no words are given. What
lies in the checkout has to be readable to that user.
"""

from __future__ import annotations

import argparse
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HIDE = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$(command -v bwrap)"; exec "$@"', "sh")
# A Python in root's home directory, which other users may not enter, is mounted for them at the same path.
SHOW = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    """
    case "$HERE" in /root/*) mkdir -p "$HOME/python"; mount --bind "$HERE" "$HOME/python"; mount -t tmpfs -o mode=755 tmpfs /root
        mkdir -p "$HERE"; mount --bind "$HOME/python" "$HERE";; esac; exec "$@" """,
    "sh",
)

_KEPT = ("PATH", "TMPDIR", "PIP_", "UV_", "SSL_")


def become(user: int) -> tuple[str, ...]:
    """Return the words before a command that runs as `user`, without root's groups."""
    return ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")


def main() -> int:
    """Run pytest as another user; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--user", default="nobody", help="(%(default)s)")
    parser.add_argument("--without-bubblewrap", action="store_true")
    arguments, words = parser.parse_known_args()
    found = pwd.getpwnam(arguments.user)
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, found.pw_uid, found.pw_gid)
        prefix = (*(HIDE if arguments.without_bubblewrap else ()), *(SHOW if found.pw_uid else ()))
        line = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={home}/pytest",
            *words,
        ]
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
        variables = {**kept, "HOME": home, "HERE": sys.base_prefix, "USER": arguments.user, "LOGNAME": arguments.user}
        command = [*prefix, *become(found.pw_uid), *line, *(() if words else ("tests/attacks",))]
        return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
