# SPDX-License-Identifier: Apache-2.0
"""Huge pages behind a model: the same bytes in memory, found with far fewer look-ups.

A run reads all weights. In pages of 4 KiB the processor's table of addresses covers a few megabytes of them, and the
rest of a transformer's run is spent walking page tables: the trained MiniLM encoder (90 MB) runs a tenth faster in
pages of 2 MiB (`tests/benchmarks/bench_huge_pages.py`). Hosts usually grant these only to memory that asks (`madvise`),
and no allocator of ours asks. So once a model is loaded its process asks, for memory that is in use already: nothing
grows but by rounding.

It happens on a thread of its own while requests are answered, and is never needed: where the kernel is too old
(madvise(2): MADV_COLLAPSE came with Linux 6.1), has no whole pages left, or where the host says `never`, all stays
as it was.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_MAPS = Path("/proc/self/smaps")
_MADV_COLLAPSE = 25
_IN_USE = 0.9  # of a mapping: what is mostly empty, as a thread's stack is, would only grow
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(\[heap\])?$")


def gather_later(told: Callable[[int], None] = lambda _: None) -> threading.Thread:
    """Do `gather` on a thread of its own, and tell how many bytes are in huge pages now."""
    thread = threading.Thread(target=lambda: told(gather()), name="pages", daemon=True)
    thread.start()
    return thread


def gather() -> int:
    """Move this process' memory into huge pages where the host allows it; return how many bytes are in them."""
    try:
        size = int(_SIZE.read_text())
        allowed = "[never]" not in _ENABLED.read_text()
        blocks = list(_blocks(_MAPS.read_text(), size)) if allowed else []
        madvise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):  # not Linux, a kernel without them, a libc that cannot be asked
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(size for block in blocks if madvise(block, size, _MADV_COLLAPSE) == 0)


def _blocks(maps: str, size: int) -> Iterator[int]:
    """Yield the addresses of whole aligned blocks in private memory that no file is behind and that is in use."""
    start = end = 0
    for line in maps.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            start, end = int(mapping[1], 16), int(mapping[2], 16)
        elif line.startswith("Rss:"):
            if int(line.split()[1]) * 1024 >= _IN_USE * (end - start) > 0:
                yield from range(-(-start // size) * size, end // size * size, size)
            start = end = 0
