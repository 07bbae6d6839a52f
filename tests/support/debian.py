# SPDX-License-Identifier: Apache-2.0
"""Where tests that make a clean Debian take it from."""

from __future__ import annotations

import re
import subprocess

SUITE = "bookworm"


def find_mirror() -> list[str]:
    """Return the address that apt has for Debian here; none, and debootstrap takes its own default."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return [site for site in listed if re.fullmatch(r"https?://\S+/debian/?", site)][:1]
