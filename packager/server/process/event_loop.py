# SPDX-License-Identifier: Apache-2.0
"""The event loop: uvloop's where the installation holds it, else Python's own.

A request crosses twice from granian's thread into the loop. uvloop takes a quarter less processor time for that
(docs/adr/134); installations of bundles that were locked before it was asked for do without.
"""

from __future__ import annotations

import asyncio
import importlib


def new() -> asyncio.AbstractEventLoop:
    """Return a new event loop."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
