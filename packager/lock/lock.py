# SPDX-License-Identifier: Apache-2.0
"""The lock: every mutable name of a recipe, resolved once, in a file that is reviewed like any lock file.

It holds the pin of the source and the digest of every file of it, the level (opset, IR) the promises lead to, the
versions of the tools that can change bytes, and for every runtime and platform the wheels, with their hashes and what
their metadata says. With it a build is a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import canonical, escape
from packager.canonical import JSON
from packager.errors import LockError
from packager.files import read_own, write_atomically
from packager.formats.wheel_locks import Dependencies
from packager.types import Tree, check_digest

FORMAT = 2  # 2: dependencies by platform, with metadata
MAX_LOCK = 64 << 20
_FIELDS = {"format", "recipe", "source", "export", "toolchain", "dependencies"}


@dataclass(frozen=True, slots=True)
class Level:
    """What a graph may use so that the oldest promised runtime reads it."""

    opset: int
    ir: int


@dataclass(frozen=True, slots=True)
class Environment:
    """What `toolchain: locked` runs on: a Python (`3.11`), and a pip requirements file with hashes."""

    python: str
    requirements: str

    def to_json(self) -> JSON:
        return {"python": self.python, "requirements": self.requirements.splitlines()}

    @staticmethod
    def from_json(value: JSON) -> Environment:
        return Environment(str(value["python"]), "".join(f"{line}\n" for line in value["requirements"]))


@dataclass(frozen=True, slots=True)
class Lock:
    """A parsed `bundle.lock`.

    `source` is the pin as the source plug-in wrote it; `tree` the files it stands for; `kind` and `payload` name the
    exporter and what it opens inside the tree; `environment` is where the tools run, None for this host's own Python;
    `signed` says who signed the source, where the recipe demands that; `base` of an adapter which bundle it is for
    (`bundle`, its digest), and the source of that (`uri`, `tree`, `payload`).
    """

    recipe: str
    source: Mapping[str, JSON]
    tree: Tree
    kind: str
    payload: str
    level: Level
    toolchain: Mapping[str, str]
    dependencies: Dependencies
    environment: Environment | None = None
    signed: Mapping[str, JSON] | None = None
    base: Mapping[str, JSON] | None = None

    def to_json(self) -> JSON:
        return {
            "format": FORMAT,
            "recipe": self.recipe,
            "source": {
                **self.source,
                "tree": self.tree.digest,
                "files": self.tree.to_json(),
                **({"signed": dict(self.signed)} if self.signed else {}),
            },
            "export": {
                "kind": self.kind,
                "payload": self.payload,
                "opset": self.level.opset,
                "ir": self.level.ir,
                **({"environment": self.environment.to_json()} if self.environment else {}),
            },
            "toolchain": dict(self.toolchain),
            "dependencies": self.dependencies.to_json(),
            **({"base": dict(self.base)} if self.base else {}),
        }

    def save(self, path: Path) -> None:
        """Write the lock as indented JSON with sorted keys, as one step."""
        text = escape.json_text(self.to_json(), indent=2, sort_keys=True)
        write_atomically(path, text.encode() + b"\n")


def load(path: Path) -> Lock | None:
    """Read a lock; None if there is none. Raises LockError for a damaged or foreign file."""
    try:
        data = read_own(path, MAX_LOCK)
    except FileNotFoundError:
        return None
    try:
        value = canonical.load(data, limit=MAX_LOCK)
    except ValueError as error:
        raise LockError(f"`{path}` is not a lock: {error}", hint="make it anew with `packager lock`") from None
    return of_json(value, str(path))


def of_json(value: JSON, label: str) -> Lock:
    """Return the lock that `to_json` wrote. Raises LockError, which calls it `label`."""
    try:
        if value["format"] != FORMAT or set(value) - {"base"} != _FIELDS:
            raise ValueError(f"expected format {FORMAT}")
        return _parse(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(
            f"`{label}` is not a lock of this format: {error}", hint="make it anew with `packager lock`"
        ) from None


def _parse(value: Mapping[str, JSON]) -> Lock:
    source = dict(value["source"])
    signed = source.pop("signed", None)
    tree, promised = Tree.from_json(source.pop("files")), source.pop("tree")
    if tree.digest != promised:
        raise ValueError(f"its file list has digest {tree.digest}, not {promised}")
    export = value["export"]
    return Lock(
        recipe=value["recipe"],
        source=source,
        tree=tree,
        kind=export["kind"],
        payload=export["payload"],
        level=Level(int(export["opset"]), int(export["ir"])),
        toolchain=dict(value["toolchain"]),
        dependencies=Dependencies.from_json(value["dependencies"]),
        environment=Environment.from_json(export["environment"]) if "environment" in export else None,
        signed=None if signed is None else dict(signed),
        base=_read_base(value["base"]) if "base" in value else None,
    )


def _read_base(value: Mapping[str, JSON]) -> dict[str, str]:
    if set(value) != {"bundle", "uri", "tree", "payload"} or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("its base has other members than `bundle`, `uri`, `tree` and `payload`")
    for name in ("bundle", "tree"):
        check_digest(value[name], subject="base")
    return dict(value)
