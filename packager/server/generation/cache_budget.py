# SPDX-License-Identifier: Apache-2.0
"""The memory that key-value caches of requests in flight may take together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from packager.server.admission.admission import overload_error
from packager.server.process import host_limits

_SHARE = 4  # of the memory that this process may have, the part for caches


@dataclass(slots=True)
class CacheBudget:
    """Bytes of caches in all, and those that are promised to requests in flight; for several threads."""

    total: int
    held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of_host() -> CacheBudget:
        """Return a quarter of the memory that this process may have."""
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return CacheBudget(min(host_limits.read_allowance().memory or physical, physical) // _SHARE)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Promise `size` bytes for as long as the context lasts; one request alone may have more than there is.

        Raises RequestError (503, try again) where others hold too much.
        """
        with self._lock:
            if self.held and self.held + size > self.total:
                raise overload_error("the caches of other requests fill this server's memory")
            self.held += size
        try:
            yield
        finally:
            with self._lock:
                self.held -= size
