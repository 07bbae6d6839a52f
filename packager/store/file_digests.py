# SPDX-License-Identifier: Apache-2.0
"""Cache digests of local source files, so that checking for a change costs one `stat` instead of a read.

Never an identity: a build uses the pinned blobs of the store, whatever this cache says. A record holds device, inode,
size, mtime and ctime in nanoseconds; ctime cannot be set by a user. A file changed within the clock's granularity of
its hashing could go unseen, so a record is trusted only if it is clearly younger than the file (git's "racy" rule).
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from packager import canonical
from packager.files import digest_of, open_regular, read_own, write_atomically
from packager.types import Blob

_MARGIN_NS = 2_000_000_000


class Memo:
    """Digests of local files, one small record each below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def blob_of(self, path: Path) -> Blob:
        """Return digest and size of a regular file; IntegrityError for a link or special file."""
        with open_regular(path) as file:
            identity = self._identity(path)
            record = self._root / canonical.sha256(canonical.dump(identity)).removeprefix("sha256:")
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                digest, size = json.loads(read_own(record, 1 << 10))
                if record.stat().st_mtime_ns - path.stat().st_ctime_ns > _MARGIN_NS:
                    return Blob(digest, size)
            blob = digest_of(file, limit=1 << 62)
            if identity == self._identity(path):
                write_atomically(record, canonical.dump([blob.digest, blob.size]))
        return blob

    @staticmethod
    def _identity(path: Path) -> list[str]:
        status = path.lstat()
        fields = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return [str(field) for field in fields]
