# SPDX-License-Identifier: Apache-2.0
"""The records that flow through a build: frozen, comparable, plain data.

A digest is `sha256:<64 lower-case hex digits>` everywhere. A path is POSIX, relative, and checked once, when it
enters (`check_path`). A later stage of the build has another type: no field means "not yet known".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError
from packager.records import dataclass

if TYPE_CHECKING:
    from packager.edits import Edit

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)")


def check_digest(digest: object, *, subject: str) -> str:
    """Return `digest` if it has the one allowed form, else raise IntegrityError about `subject`."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise MalformedError(f"`{subject}` has a malformed digest `{digest!s:.80}`", subject=subject)
    return digest


def check_path(path: str) -> str:
    """Return `path` if it is safe to create on any file system below a fresh directory.

    Refuses absolute, empty, `.`/`..` and backslash paths, controls, bidi and zero-width characters, names that
    are not NFC, end in a dot or space, are reserved on Windows, or are longer than 255 (component) or 1024
    (path) bytes. Raises IntegrityError.
    """
    problem = _path_problem(path)
    if problem:
        raise MalformedError(f"path {path!r:.200} {problem}", subject=path)
    return path


def _path_problem(path: str) -> str | None:
    if not path or len(path.encode("utf-8", "surrogatepass")) > 1024:
        return "is empty or longer than 1024 bytes"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in path) or set(path) & set('\\:*?"<>|'):
        return "holds a character that is not portable"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode normal form C"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "is absolute or leaves its directory"
        if part[-1] in ". " or _RESERVED.match(part) or len(part.encode()) > 255:
            return "has a component that is not portable"
    return None


def check_paths(paths: Iterable[str]) -> None:
    """Refuse unsafe paths and any two that one file system may merge (case, or a file used as a directory)."""
    seen: dict[str, str] = {}
    for path in paths:
        check_path(path)
        folded = path.casefold()
        if folded in seen:
            raise MalformedError(f"path `{path}` collides with `{seen[folded]}`", subject=path)
        seen[folded] = path
    for folded, path in seen.items():
        for cut in (i for i, c in enumerate(folded) if c == "/"):
            if folded[:cut] in seen:
                raise MalformedError(f"path `{path}` needs `{seen[folded[:cut]]}` to be a directory", subject=path)


@dataclass(frozen=True, slots=True)
class Blob:
    """Content by its digest. `size` is in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory of regular files: sorted paths to blobs, identified by one digest."""

    files: tuple[tuple[str, Blob], ...] = ()

    @staticmethod
    def of(files: Mapping[str, Blob]) -> Tree:
        """Build a tree, refusing unsafe or colliding paths."""
        check_paths(files)
        return Tree(tuple(sorted(files.items(), key=lambda item: item[0].encode())))

    def to_json(self) -> JSON:
        return {path: [blob.digest, blob.size] for path, blob in self.files}

    @staticmethod
    def from_json(value: JSON) -> Tree:
        """Read what `to_json` wrote."""
        return Tree.of({path: Blob(digest, size) for path, (digest, size) in value.items()})

    @property
    def digest(self) -> str:
        """Identity: sha256 over the canonical JSON of the paths, digests and sizes."""
        return canonical.sha256(canonical.dump(self.to_json()))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(blob.size for _, blob in self.files)

    def __iter__(self) -> Iterator[tuple[str, Blob]]:
        return iter(self.files)

    def get(self, path: str) -> Blob | None:
        """Return the blob at `path`, or None."""
        return dict(self.files).get(path)


def set_digest(files: Iterable[tuple[str, Blob]]) -> str:
    """Return the packing-independent identity of a set of files.

    It is what `sha256sum <files sorted by path> | sha256sum` prints: sha256 over lines of hex, two spaces, path.
    """
    rows = sorted(files, key=lambda item: item[0].encode())
    return canonical.sha256("".join(f"{b.digest.removeprefix('sha256:')}  {p}\n" for p, b in rows).encode())


@dataclass(frozen=True, slots=True)
class Action:
    """Everything that may influence the bytes of a result, and nothing else.

    The law of the key: whatever can change the output is in it (step, its hand-bumped version, input trees,
    parameters, tool versions); whatever cannot is not (jobs, paths, time limits, verbosity).
    """

    step: str
    version: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, JSON] = field(default_factory=dict)
    toolchain: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> JSON:
        return {
            "step": self.step,
            "version": self.version,
            "inputs": dict(self.inputs),
            "params": dict(self.params),
            "toolchain": dict(self.toolchain),
        }

    @property
    def key(self) -> str:
        return canonical.sha256(canonical.dump(self.to_json()))


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an action: the digest of its tree, and small facts it measured.

    `confinement` is how its worker was confined; None without a worker.
    """

    tree: str
    facts: JSON
    cached: bool = False
    confinement: JSON = None


Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a policy about one subject."""

    rule: str
    level: Level
    subject: str
    message: str
    hint: str | None = None
    waiver: JSON = None  # owner, reason and end; such a finding is a note
    evidence: JSON = None  # found and expected values, for programs
    edits: tuple[Edit, ...] = ()  # the hint as data, where it is about the recipe

    def to_json(self) -> JSON:
        value = {
            "rule": self.rule,
            "level": self.level,
            "subject": self.subject,
            "message": self.message,
            "hint": self.hint,
            "documentation": self.documentation,
        }
        more = {"waiver": self.waiver, "evidence": self.evidence}
        more["edits"] = [edit.to_json() for edit in self.edits] or None
        return value | {name: member for name, member in more.items() if member is not None}

    @property
    def documentation(self) -> str:
        """The address of the rule's documentation; `packager policy explain RULE` prints the same."""
        return f"docs/reference/policies.md#{'rules-in-rego' if self.rule.endswith('.rego') else self.rule}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of all rules of a profile. No rule is not a pass.

    `deferred` are those that need a finished bundle; `policy` is the digest of profile and rules.
    """

    rules: tuple[str, ...]
    findings: tuple[Finding, ...]
    deferred: tuple[str, ...] = ()
    profile: str | None = None
    policy: str | None = None

    @property
    def ok(self) -> bool:
        """Whether at least one rule ran and no finding is an error."""
        return bool(self.rules) and not any(finding.level == "error" for finding in self.findings)

    @property
    def held(self) -> tuple[str, ...]:
        """The rules that ran and passed: neither deferred nor waived, and with no finding above a note."""
        others = {finding.rule for finding in self.findings if finding.level != "note" or finding.waiver}
        return tuple(rule for rule in self.rules if rule not in others and rule not in self.deferred)

    def to_json(self) -> JSON:
        return {
            "ok": self.ok,
            "profile": self.profile,
            "policy": self.policy,
            "rules": list(self.rules),
            "held": list(self.held),
            "deferred": list(self.deferred),
            "findings": [finding.to_json() for finding in self.findings],
        }
