# SPDX-License-Identifier: Apache-2.0
"""Ways to tamper with a bundle, and what must come of it; used on a small bundle exhaustively and on real ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from packager.bundle.bundle import open_bundle
from packager.errors import IntegrityError, PackagerError
from packager.store.store import Store
from packager.trust.keys import PublicKey
from packager.trust.verify import Verification, verify

HINTS = {"index.json", "oci-layout", ".packager/index.json", ".packager/oci-layout"}  # covered by no signature


CHANGES = ("missing", "renamed", "emptied", "link", "fifo")


def no_store() -> Store:
    raise AssertionError("the store is not needed")


def judge(path: Path, key: PublicKey) -> Verification | PackagerError:
    try:
        return verify(open_bundle(str(path), no_store), [key])
    except PackagerError as error:
        return error


def refused(path: Path, key: PublicKey) -> PackagerError:
    """Return why the bundle at `path` is refused; it must be."""
    answer = judge(path, key)
    if isinstance(answer, Verification):
        assert answer.failure is not None, f"accepted: {answer}"
        return answer.failure
    return answer


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def positions(size: int) -> Iterator[int]:
    """Every byte of a small file; of a large one the first, the last, and a spread between."""
    yield from range(size) if size <= 700 else {0, 1, size // 3, size // 2, size - 2, size - 1}


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x01]))


def check_flips(root: Path, key: PublicKey, choose: Callable[[int], Iterable[int]] = positions) -> int:
    """Flip a bit at the chosen positions of every file below `root`; each must be refused, naming the place."""
    good = judge(root, key)
    assert isinstance(good, Verification)
    assert good.ok
    checked = 0
    for name in files_of(root):
        path = root / name
        original, mode = path.read_bytes(), path.stat().st_mode
        for position in choose(len(original)):
            flip(path, position)
            answer = judge(root, key)
            if name in HINTS and isinstance(answer, Verification) and answer.ok:
                assert answer.to_json() == good.to_json(), "a hint may not change what is reported"
            else:
                failure = answer if isinstance(answer, PackagerError) else answer.failure
                assert isinstance(failure, IntegrityError), (name, position, failure)
                named = f"{failure.message} {failure.subject}"
                assert name in HINTS or Path(name).name in named or "statement" in named, (name, failure.message)
            flip(path, position)
            checked += 1
        assert path.stat().st_mode == mode
    return checked


def check_change(root: Path, key: PublicKey, change: str, spare: Path) -> None:
    """Apply `change` to every file below `root` in turn; each must be refused, naming the file. Undone afterwards."""
    for number, name in enumerate(files_of(root)):
        path, aside = root / name, spare / f"{change}-{number}"
        shutil.move(path, aside)
        if change == "renamed":
            shutil.copy(aside, path.with_name(path.name + "x"))
        elif change == "emptied":
            path.touch(mode=0o644)
        elif change == "link":
            path.symlink_to(aside)
        elif change == "fifo":
            os.mkfifo(path)
        failure = refused(root, key)
        assert isinstance(failure, IntegrityError), (name, failure)
        assert Path(name).name in f"{failure.message} {failure.subject}", (name, failure.message)
        for left in (path, path.with_name(path.name + "x")):
            left.unlink(missing_ok=True)
        shutil.move(aside, path)
