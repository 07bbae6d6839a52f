# SPDX-License-Identifier: Apache-2.0
"""List the NVIDIA GPUs of this host with the driver's tool; no library is loaded for it."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata

_SECONDS = 20


def list_capabilities() -> tuple[str, ...]:
    """Return the compute capability of every GPU, as `sm_86`; none where there is no driver or no device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [row.strip() for row in done.stdout.splitlines()] if done.returncode == 0 else []
    return tuple(f"sm_{row.replace('.', '')}" for row in rows if row.replace(".", "").isdigit())


def find_obstacle(distributions: tuple[str, ...], capability: str | None = None) -> str | None:
    """Return why what runs on a GPU (of one compute capability) cannot run here, or None.

    `distributions` are those of which one must be installed.
    """
    found = list_capabilities()
    if not found:
        return "this host has no NVIDIA GPU"
    if capability is not None and capability not in found:
        return f"this host has {', '.join(sorted(set(found)))}, not {capability}"
    if not any(_installed(name) for name in distributions):
        return f"`{distributions[0]}` is not installed here"
    return None


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
