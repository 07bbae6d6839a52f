# SPDX-License-Identifier: Apache-2.0
"""Choose the event loop: uvloop's where the installation has it, else Python's own.

A request crosses twice from granian's thread into the loop. uvloop takes a quarter less processor time for that
(docs/adr/134); installations of bundles that were locked before uvloop was required run without it.
"""

from __future__ import annotations

import asyncio
import importlib


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
