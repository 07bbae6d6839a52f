# SPDX-License-Identifier: Apache-2.0
"""Lock what a runtime needs to serve: a pip requirements file with hashes, valid on every platform it names.

The engine is uv, which takes hashes from the package index instead of downloading every file of every platform
(measured: seconds against minutes for pip-compile behind a mirror). The result is plain pip-tools format: any pip
installs it with `--require-hashes`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from packager.errors import MissingToolError, SourceError
from packager.events import Finished, OnEvent, Started

OLDEST_PYTHON = "3.11"


def compile_lock(requirements: Sequence[str], environment: Mapping[str, str], on_event: OnEvent) -> str:
    """Resolve `requirements` to exact versions with hashes, sorted by name.

    Network. `environment` is the caller's, because it holds the address of the index. Raises SourceError when the
    index cannot be reached or the requirements contradict each other.
    """
    command = [uv(), "pip", "compile", "-", "--universal", "--generate-hashes", "--no-header", "--no-annotate",
               "--quiet", "--python-version", OLDEST_PYTHON]  # fmt: skip
    text = "".join(f"{line}\n" for line in requirements)
    label = f"lock {', '.join(requirements)}"
    on_event(Started(label))
    started = time.monotonic()
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=dict(environment), check=False)
    if done.returncode:
        raise SourceError(
            f"cannot lock {', '.join(f'`{line}`' for line in requirements)}: {explained(done.stderr)}",
            hint="check the package index (UV_INDEX_URL, proxy), or loosen the range in `runs-on`",
        )
    on_event(Finished(label, time.monotonic() - started))
    return "".join(f"{row}\n" for row in done.stdout.splitlines() if row.strip())


def uv() -> str:
    """Return the path of uv: beside this Python, else on the search path."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise MissingToolError("uv", "lock")
    return found


def explained(stderr: str) -> str:
    """Return uv's explanation as one line."""
    rows = [row.strip(" ×╰─▶│|") for row in stderr.splitlines()]
    return " ".join(row for row in rows if row)[:600] or "no reason given"
