# SPDX-License-Identifier: Apache-2.0
"""What `render container` wrote, read again and hashed: the content that an image of it has to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers._deployment import RECORD
from packager.errors import (
    UsageError,
    WrongContentError,
    WrongSubjectError,
)
from packager.files import digest_of
from packager.types import DIGEST, Blob

KIND = "container"
SERVER, MODEL = "server", "model"
"""The parts of the Containerfile: the server with the model, and the model alone, for an image volume."""
_PLACES = {"site": "srv/app", "server": "srv", "model": "srv/model"}
HOME = "srv"
_FILE = "Containerfile"


@dataclass(frozen=True, slots=True)
class Rendering:
    """What `render container` wrote: its record, and its files by their place there, `Containerfile` included."""

    record: Mapping[str, JSON]
    files: Mapping[str, Blob]
    containerfile: str

    @property
    def name(self) -> str:
        """Return `name:version` of the bundle."""
        return f"{self.record['name']}:{self.record['version']}"

    @property
    def bundle(self) -> str:
        """Return the digest of the bundle."""
        return str(self.record["bundle"])

    def content(self, part: str) -> dict[str, Blob]:
        """Return the files of a part of the image, by their path in it."""
        found = {}
        for place, blob in self.files.items():
            folder, _, rest = place.partition("/")
            if part == MODEL and folder == "model":
                found[rest] = blob
            elif part == SERVER and folder in _PLACES:
                found[f"{_PLACES[folder]}/{rest}"] = blob
        return found


def read_rendering(root: Path) -> Rendering:
    """Read what `render container` wrote to `root`, and hash it. Raises UsageError for anything else."""
    try:
        record = canonical.load((root / RECORD).read_bytes(), limit=1 << 20)
        text = (root / _FILE).read_text()
        fits = record["kind"] == KIND and DIGEST.fullmatch(record["bundle"]) and DIGEST.fullmatch(record["knobs"])
        rows = {**record["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"`{root}` is not what `packager render container` wrote: {error}", hint="name that directory"
        ) from None
    if not fits:
        raise UsageError(
            f"`{root}` is a rendering of another kind: `{record['kind']!s:.40}`", hint="render `container`"
        )
    files = {}
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UsageError(f"`{path}` is neither a file nor a directory", hint="render it again")
        if path.is_file():
            with path.open("rb") as file:
                files[place] = digest_of(file, limit=path.stat().st_size)
    for place, digest in rows.items():
        got = files.get(f"model/{place}")
        if got is None or got.digest != digest:
            raise WrongContentError(
                f"`{root / 'model' / place}` is not the bundle's file: expected {digest}, got {got and got.digest}",
                subject=place,
                hint="render it again",
            )
    return Rendering(record, files, text)


def check_bundle(rendering: Rendering, bundle: Bundle) -> None:
    """Raise WrongSubjectError unless `bundle` is what was rendered."""
    if bundle.digest != rendering.bundle:
        raise WrongSubjectError(
            f"the rendering is of another bundle: expected {rendering.bundle}, got {bundle.digest}",
            subject=bundle.digest,
        )
    known = {blob.digest for _, blob in bundle.tree}
    for place, digest in rendering.record["files"].items():
        if digest not in known:
            raise WrongContentError(f"`{place}` of the rendering is no file of the bundle", subject=place)
