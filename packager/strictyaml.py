# SPDX-License-Identifier: Apache-2.0
"""Parse YAML into nodes with line numbers; every surprising feature of YAML is refused, none is interpreted.

PyYAML constructs no values: its parser delivers events, which become three kinds of node whose scalars are still text.
The reader decides what a scalar means (`Scalar.kind` follows the YAML 1.2 core schema), so that `no`, `on`, `1:30` and
`1_000` are text as they are in JSON and in editors, and `1.10` stays `1.10`.

Refused, each with one sentence and its line: bytes that are not UTF-8, tabs and control characters, directives,
more than one document, anchors, aliases and tags (so no expansion and no objects), the same key twice, keys that are
not scalars, infinities and NaN, more than `LIMIT` bytes, `NODES` nodes or `DEPTH` levels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

import yaml

from packager.canonical import JSON
from packager.edits import Replace
from packager.errors import UsageError, close_match, did_you_mean

LIMIT = 1 << 20
NODES = 20_000
DEPTH = 32

Kind: TypeAlias = Literal["null", "bool", "int", "float", "text"]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_AMBIGUOUS = re.compile(r"[-+]?0[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Where:
    """A position in a file: the file as the caller named it, and a line counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def error(self, problem: str, *, hint: str | None = None, change: tuple[str, str] | None = None) -> UsageError:
        """Return the error about this position; `problem` is a sentence as `errors` describes.

        `change` are the characters to replace on that line and their replacement, where the hint says exactly that.
        """
        return UsageError(f"{self}: {problem}", hint=hint, edits=(Replace(self.line, *change),) if change else ())


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text, and whether it was unquoted: only then can it be anything but text."""

    text: str
    plain: bool
    where: Where

    @property
    def kind(self) -> Kind:
        if not self.plain:
            return "text"
        if self.text in _NULL:
            return "null"
        if self.text in _BOOL:
            return "bool"
        if _INT.fullmatch(self.text):
            return "int"
        return "float" if _FLOAT.fullmatch(self.text) else "text"

    def value(self) -> JSON:
        """Return the value by the YAML 1.2 core schema."""
        match self.kind:
            case "null":
                return None
            case "bool":
                return _BOOL[self.text]
            case "int":
                return int(self.text)
            case "float":
                return float(self.text)
            case "text":
                return self.text


@dataclass(frozen=True, slots=True)
class Sequence:
    """The items between `[` and `]`, or after dashes."""

    items: tuple[Node, ...]
    where: Where

    def value(self) -> JSON:
        return [item.value() for item in self.items]


@dataclass(frozen=True, slots=True)
class Table:
    """Keys and their nodes in file order; no key occurs twice. Keys are always text."""

    entries: tuple[tuple[Scalar, Node], ...]
    where: Where

    def value(self) -> JSON:
        return {key.text: node.value() for key, node in self.entries}


Node: TypeAlias = Scalar | Sequence | Table


def describe(node: Node) -> str:
    """Describe a node for the second half of `expected X, got Y`."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Table):
        return "a mapping"
    names = {"null": "nothing", "bool": "the boolean", "int": "the number", "float": "the number", "text": "the text"}
    shown = node.text if len(node.text) <= 60 else node.text[:57] + "…"
    return "nothing" if node.kind == "null" else f"{names[node.kind]} `{shown}`".replace("\n", " ")


def load(path: Path, *, missing: str | None = None) -> bytes:
    """Return the bytes of a small text file, or raise UsageError; `missing` is the hint where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(LIMIT + 1)
    except FileNotFoundError:
        raise UsageError(f"file `{path}` does not exist", hint=missing) from None
    except OSError as error:
        raise UsageError(f"file `{path}` cannot be read: {(error.strerror or 'unknown error').lower()}") from error


def parse(data: bytes | str, file: str) -> Node:
    """Parse one YAML document; `file` is its name in messages. Raises UsageError."""
    text = decode(data, file)
    _check_characters(text, file)
    try:
        return _Reader(text, file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise Where(file, line).error(f"is not YAML: {error.problem or error.context}", hint=_remedy(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Where(file, line).error(f"holds the character U+{ord(text[error.position]):04X}") from None


def _remedy(error: yaml.MarkedYAMLError) -> str | None:
    """Return a hint for a frequent mistake with version ranges: an unquoted `>=1.17` opens a folded block."""
    slip = "block scalar" in (error.context or "") or "cannot start any token" in (error.problem or "")
    return 'quote the value if it starts with a special character: ">=1.17"' if slip else None


def decode(data: bytes | str, file: str) -> str:
    """Return the text of a file of at most `LIMIT` bytes. Raises UsageError."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > LIMIT:
        raise Where(file, 1).error(f"expected at most {LIMIT} bytes, got more")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Where(file, line).error("expected UTF-8 text, got other bytes", hint="save it as UTF-8") from None


def _check_characters(text: str, file: str) -> None:
    """Refuse invisible characters: with them a reviewer may read another recipe than the program."""
    if text.isascii() and text.replace("\r\n", "\n").replace("\n", "").isprintable():
        return
    for number, line in enumerate(text.split("\n"), start=1):
        for character in line.removesuffix("\r"):
            if character == "\t":
                raise Where(file, number).error("expected spaces, got a tab", hint="replace the tab by spaces")
            if character in _BIDI or unicodedata.category(character) in ("Cc", "Zl", "Zp"):
                raise Where(file, number).error(f"holds the invisible character U+{ord(character):04X}")


class _Reader:
    """Turns the events of one document into nodes; its state is the position and the number of nodes read."""

    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self._file = file
        self._nodes = 0

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            raise Where(self._file, 1).error("is empty")
        if isinstance(start, yaml.DocumentStartEvent) and (start.version or start.tags):
            self._fail(start, "holds a `%` directive", "remove the line")
        node = self._node(next(self._events), DEPTH)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._fail(after, "starts a second document", "keep one document per file, without further `---`")
        return node

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._check(event, depth)
        where = self._where(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(tuple(self._items(depth)), where)
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, node in self._entries(depth):
            if key.text in entries:
                first = entries[key.text][0].where.line
                raise key.where.error(f"key `{key.text:.60}` is already on line {first}", hint="remove one of the two")
            entries[key.text] = (key, node)
        return Table(tuple(entries.values()), where)

    def _check(self, event: yaml.Event, depth: int) -> None:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent):
            self._fail(event, f"holds the alias `*{event.anchor:.40}`", "write the value out")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._fail(event, f"holds the anchor `&{event.anchor:.40}`", "remove it; aliases are not supported")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self._fail(event, f"holds the tag `{event.tag}`", "remove it; the type follows from the key")
        if depth == 0 or self._nodes > NODES:
            self._fail(event, f"expected at most {DEPTH} levels and {NODES} values, got more")

    def _scalar(self, event: yaml.ScalarEvent, where: Where) -> Scalar:
        scalar = Scalar(event.value, event.style is None, where)
        if scalar.plain and _NOT_FINITE.fullmatch(scalar.text):
            raise where.error(f"expected a finite number, got `{scalar.text}`")
        if scalar.plain and _AMBIGUOUS.fullmatch(scalar.text):
            raise where.error(
                f"`{scalar.text:.60}` is read differently by different YAML readers",
                hint="quote it if it is text, write it in decimal without a leading zero if it is a number",
            )
        if scalar.kind in ("int", "float") and len(scalar.text) > _DIGITS:
            raise where.error(f"expected a number of at most {_DIGITS} characters, got {len(scalar.text)}")
        if any(c in _BIDI or (c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")) for c in scalar.text):
            raise where.error("holds an escaped control character", hint="remove it")
        return scalar

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._node(event, depth - 1)

    def _entries(self, depth: int) -> Iterator[tuple[Scalar, Node]]:
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth - 1)
            if not isinstance(key, Scalar):
                raise key.where.error(f"expected text as a key, got {describe(key)}")
            yield key, self._node(next(self._events), depth - 1)

    def _where(self, event: yaml.Event) -> Where:
        return Where(self._file, event.start_mark.line + 1 if event.start_mark else 1)

    def _fail(self, event: yaml.Event, problem: str, hint: str | None = None) -> NoReturn:
        raise self._where(event).error(problem, hint=hint)


# Readers: from a node and its name in messages to a checked Python value.


def read_text(
    node: Node,
    what: str,
    *,
    pattern: str = r"(?s).+",
    expect: str = "text",
    limit: int = 2048,
    hint: str | None = None,
    change: tuple[str, str] | None = None,
) -> str:
    """Return text that matches `pattern` whole; what YAML reads as a number, boolean or null is not text.

    `change` is the hint as characters to replace.
    """
    if not isinstance(node, Scalar) or node.kind == "null":
        raise node.where.error(f"`{what}`: expected {expect}, got {describe(node)}", hint=hint)
    fits = re.fullmatch(pattern, node.text) if len(node.text) <= limit else None
    if node.kind != "text":
        remedy, change = (f'quote it: "{node.text}"', (node.text, f'"{node.text}"')) if fits else (hint, change)
        raise node.where.error(f"`{what}`: expected {expect}, got {describe(node)}", hint=remedy, change=change)
    if len(node.text) > limit:
        raise node.where.error(f"`{what}`: expected at most {limit} characters, got {len(node.text)}")
    if not fits:
        raise node.where.error(f"`{what}`: expected {expect}, got {describe(node)}", hint=hint, change=change)
    return node.text


def _meant(found: str, choices: Iterable[str]) -> tuple[str, str] | None:
    """Return a word and the known word that `did_you_mean` proposes for it."""
    close = close_match(found, choices)
    return (found, close) if close else None


def read_boolean(node: Node, what: str) -> bool:
    """Return true or false; `yes`, `on` and `"true"` are text."""
    if not isinstance(node, Scalar) or node.kind != "bool":
        raise node.where.error(f"`{what}`: expected `true` or `false`, got {describe(node)}")
    return _BOOL[node.text]


def read_number(node: Node, what: str, low: float, high: float) -> float:
    """Return a number between `low` and `high`, both included."""
    if not isinstance(node, Scalar) or node.kind not in ("int", "float"):
        raise node.where.error(f"`{what}`: expected a number, got {describe(node)}")
    value = float(node.text)
    if not low <= value <= high:
        raise node.where.error(f"`{what}`: expected a number from {low:g} to {high:g}, got `{node.text}`")
    return value


def read_integer(node: Node, what: str, low: int, high: int) -> int:
    """Return an integer between `low` and `high`, both included; `8.0` is one, as in JSON Schema."""
    value = node.value() if isinstance(node, Scalar) and node.kind in ("int", "float") else None
    if value is None or value != value // 1:
        raise node.where.error(f"`{what}`: expected a whole number, got {describe(node)}")
    if not low <= value <= high:
        raise node.where.error(f"`{what}`: expected a whole number from {low} to {high}, got {describe(node)}")
    return int(value)


def read_choice(node: Node, what: str, known: Iterable[str]) -> str:
    """Return one of the `known` words."""
    choices = list(known)
    found = read_text(node, what, expect="one word of a list")
    if found not in choices:
        hint, change = did_you_mean(found, choices), _meant(found, choices)
        raise node.where.error(f"`{what}`: `{found:.60}` is unknown", hint=hint, change=change)
    return found


def read_items(node: Node, what: str, *, least: int = 0, most: int = NODES) -> tuple[Node, ...]:
    """Return the items of a list that has between `least` and `most` of them."""
    if not isinstance(node, Sequence):
        raise node.where.error(f"`{what}`: expected a list, got {describe(node)}", hint="write `[a, b]`")
    if not least <= len(node.items) <= most:
        bounds = f"{least}" if least == most else f"at least {least}" if len(node.items) < least else f"at most {most}"
        raise node.where.error(f"`{what}`: expected {bounds} items, got {len(node.items)}")
    return node.items


def read_table(node: Node, what: str, *, least: int = 0) -> Table:
    """Return a mapping with at least `least` keys of any name."""
    if not isinstance(node, Table):
        raise node.where.error(f"`{what}`: expected a mapping, got {describe(node)}", hint="write `key: value` lines")
    if len(node.entries) < least:
        raise node.where.error(f"`{what}`: expected at least one entry, got none")
    return node


def read_fields(node: Node, what: str, known: Iterable[str], required: Iterable[str] = ()) -> dict[str, Node]:
    """Return the members of a mapping whose keys are all `known`, with every `required` one present."""
    found = read_table(node, what)
    choices = list(known)
    for key, _ in found.entries:
        if key.text not in choices:
            hint, change = did_you_mean(key.text, choices), _meant(key.text, choices)
            raise key.where.error(f"`{key.text:.60}` is not a key of `{what}`", hint=hint, change=change)
    members = {key.text: member for key, member in found.entries}
    for name in required:
        if name not in members:
            raise node.where.error(f"`{what}` has no `{name}`", hint=f"add a line `{name}: …`")
    return members
