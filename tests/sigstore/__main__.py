# SPDX-License-Identifier: Apache-2.0
"""Run an instance until interrupted, and print a token to sign with."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.sigstore import Sigstore

if __name__ == "__main__":
    with Sigstore(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) as instance:
        print(
            f"{instance.url}\nconfiguration: {instance.trust_config}\ntoken: {instance.token('ci@local.test')}",
            flush=True,
        )
        signal.pause()
