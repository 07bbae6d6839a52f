# SPDX-License-Identifier: Apache-2.0
"""Read and replace trust files on a verifier's side: what follows must be able to follow."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from packager.errors import UsageError
from packager.files import write_atomically
from packager.trust import file as trust_file
from packager.trust import seen
from packager.trust.file import TrustFile
from packager.trust.seen import Seen
from packager.trust.verifier import read_file


def read_trust_file(path: Path) -> TrustFile:
    """Read a trust file strictly, without verifying it. Raises UsageError, MalformedError."""
    return trust_file.parse(read_file(path), str(path))


def write_trust_file(file: TrustFile, path: Path) -> None:
    """Replace the trust file at `path` in one step."""
    write_atomically(path, file.to_bytes())


def update_trust_file(
    path: Path, new: str, now: datetime, state: Path | None = None, tuf_root: Path | None = None
) -> TrustFile:
    """Replace the trust file at `path` by `new`, if that may follow it, and what `state` remembers; return it.

    `new` is a file, or a target of a TUF channel (`tuf+file:///DIR#NAME`, `tuf+https://…#NAME`), which needs the
    channel's first root and a state. Raises UsageError, TrustFileError, OutdatedError, RolledBackError, SourceError.
    """
    before = trust_file.remember(read_trust_file(path)) if path.exists() else None
    file = trust_file.parse(_fetch(new, state, tuf_root), new)
    known = seen.load(state, file.trust.name or "").file if state else None
    for former in (before, known):
        trust_file.accept(file, former, now)
    write_trust_file(file, path)
    if state:
        seen.remember(state, file.trust.name or "", Seen(trust_file.remember(file)))
    return file


def _fetch(new: str, state: Path | None, tuf_root: Path | None) -> bytes:
    from packager.trust import channel

    if not new.startswith(channel.SCHEME):
        return read_file(Path(new))
    if tuf_root is None or state is None:
        raise UsageError(
            "a TUF channel needs its first root and a memory", hint="give --tuf-root FILE, and no `--state none`"
        )
    return channel.fetch(new, read_file(tuf_root), state.parent / "tuf")
