# SPDX-License-Identifier: Apache-2.0
"""Move a loaded model's memory into huge pages, which the processor's TLB covers with far fewer entries.

A run reads all weights. In pages of 4 KiB the TLB covers a few megabytes of them, and the rest is spent walking page
tables: on some hosts the trained MiniLM encoder (90 MB) runs a tenth faster in pages of 2 MiB, on others as fast as
before (`tests/benchmarks/bench_huge_pages.py`), so it is a knob, `runtime.huge_pages`. Hosts usually give huge pages
only to memory that was advised (`madvise`), and no allocator here advises. So once a model is loaded its process does,
for memory that is in use already: nothing grows but by rounding.

It happens on a separate thread while requests are answered, and failure is harmless: where the kernel is too old
(madvise(2): MADV_COLLAPSE came with Linux 6.1), has no whole pages left, or where the host says `never`, memory stays
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


def start_collapse(on_done: Callable[[int], None] = lambda _: None) -> threading.Thread:
    """Run `collapse` on a separate thread; call `on_done` with the bytes that are in huge pages now."""
    thread = threading.Thread(target=lambda: on_done(collapse()), name="pages", daemon=True)
    thread.start()
    return thread


def collapse() -> int:
    """Move this process' memory into huge pages where the host allows it; return how many bytes are in them."""
    try:
        size = int(_SIZE.read_text())
        allowed = "[never]" not in _ENABLED.read_text()
        blocks = list(_blocks(_MAPS.read_text(), size)) if allowed else []
        madvise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):  # not Linux, a kernel without them, a libc without madvise
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
