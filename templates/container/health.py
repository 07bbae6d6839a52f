# SPDX-License-Identifier: Apache-2.0
"""Check that the server of this container is ready: `health.py http://127.0.0.1:8000`; exit code 0 or 1."""

from __future__ import annotations

import ssl
import sys
import urllib.request

URL = f"{sys.argv[1]}/v2/health/ready"
PATIENCE = 4  # seconds


def main() -> int:
    """Return 0 if the server welcomes requests."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this container's own loopback
    try:
        with urllib.request.urlopen(URL, timeout=PATIENCE, context=context) as answer:  # noqa: S310
            return 0 if answer.status == 200 else 1
    except OSError as error:
        sys.stderr.write(f"{URL}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
