# SPDX-License-Identifier: Apache-2.0
"""Edit recipes: changes as data, which an error proposes, so that a person can paste them and a program can apply them.

An `Edit` is the value at a path of keys. The code that raises it does not have the text of the recipe; `apply` writes
it there and keeps everything else: comments, order, style. The result is parsed before it is returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from packager import escape
from packager.canonical import JSON

APPEND = "+"  # as the last key of a path: one more item of a list
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
_OPEN = frozenset({"dynamic", "inputs", "export", "custom-domains"})  # nothing that says how exact or how confined
_DEEPEST, _LONGEST = 4, 2000
KNOWN_DOMAINS = ("com.microsoft",)
"""Operators beyond ONNX's own that ONNX Runtime has; others need a person's consent."""


@dataclass(frozen=True, slots=True)
class Edit:
    """The new value at `path`: `value`, or no entry where that is None; or the key's new name, `rename`.

    `consents` marks a decision that only a person may make: it is shown, and never applied by a program.
    """

    path: tuple[str, ...]
    value: JSON = None
    rename: str | None = None
    consents: bool = False

    def to_json(self) -> JSON:
        known = {"path": list(self.path), "value": self.value, "rename": self.rename, "consents": self.consents or None}
        return {name: member for name, member in known.items() if member is not None}


@dataclass(frozen=True, slots=True)
class Replace:
    """A replacement of characters on one line of the recipe, counted from 1: for text that is not yet a recipe."""

    line: int
    old: str
    new: str

    def to_json(self) -> JSON:
        return {"line": self.line, "old": self.old, "new": self.new}


Change = Edit | Replace


def from_worker(value: JSON) -> tuple[Edit, ...]:
    """Return the edits that a worker proposes, which may be hostile: none that consents, and only of a few keys."""
    found = []
    for item in value if isinstance(value, list) else ():
        match item:
            case {"path": [str(first), *rest], **more} if set(more) <= {"value", "rename", "consents"}:
                path, rename = (first, *map(str, rest)), more.get("rename")
                small = len(path) <= _DEEPEST and len(json.dumps(item)) <= _LONGEST
                if first in _OPEN and small and (rename is None or isinstance(rename, str)):
                    foreign = first == "custom-domains" and more.get("value") not in KNOWN_DOMAINS
                    found.append(Edit(path, more.get("value"), rename, consents=foreign or bool(more.get("consents"))))
    return tuple(found)


def apply(text: str, changes: Iterable[Change]) -> str:
    """Return a recipe (or another file of YAML) with the changes. Raises ValueError where one does not fit."""
    for change in changes:
        text = _replaced(text, change) if isinstance(change, Replace) else _edited(text, change)
    return text


def changed_blocks(text: str, changes: Sequence[Change]) -> list[tuple[int | None, str]]:
    """Return the changed blocks by top-level key: the line of the block now, and its new text; a removed one is empty.

    Whole blocks, so that a key which exists already is not pasted a second time.
    """
    before, after = _tops(text), _tops(apply(text, changes))
    kept = [(before[key][0], "") for key in before if key not in after]
    return kept + [
        (before[key][0] if key in before else None, block)
        for key, (_, block) in after.items()
        if key not in before or before[key][1] != block
    ]


def _tops(text: str) -> dict[str, tuple[int, str]]:
    root = _compose(text)
    found = {}
    for key, value in root.value if root is not None else ():
        first, last = key.start_mark, max(_end(value), key.end_mark.index)
        found[key.value] = (first.line + 1, text[first.index : last])
    return found


def _replaced(text: str, change: Replace) -> str:
    rows = text.split("\n")
    index = change.line - 1
    if not 0 <= index < len(rows) or change.old not in rows[index]:
        raise ValueError(f"line {change.line} does not hold `{change.old}`")
    rows[index] = rows[index].replace(change.old, change.new, 1)
    return "\n".join(rows)


def _edited(text: str, edit: Edit) -> str:
    root = _compose(text)
    if root is None:
        return text.rstrip("\n") + ("\n" if text.strip() else "") + _entry(edit.path, edit.value, "") + "\n"
    parents: list[Any] = [root]
    for place, key in enumerate(edit.path):
        node = parents[-1]
        if isinstance(node, yaml.SequenceNode) and key == APPEND:
            return _appended(text, node, edit.value)
        if not isinstance(node, yaml.MappingNode):
            if edit.value is None:
                return text
            bare = place + 1 == len(edit.path) and not _is_empty(node)  # `onnxruntime: ">=1.17"` is its versions alone
            value = edit.value if bare else _nested(edit.path[place:], edit.value)
            return text[: node.start_mark.index] + _gap(text, node) + write_flow(value) + text[_end(node) :]
        entry = next(((k, v) for k, v in node.value if k.value == key), None)
        if entry is None:
            return text if edit.value is None else _inserted(text, node, edit.path[place:], edit.value)
        if place + 1 == len(edit.path):
            return _at_entry(text, node, entry, edit)
        parents.append(entry[1])
    raise ValueError("an edit without a path")


def _at_entry(text: str, node: Any, entry: tuple[Any, Any], edit: Edit) -> str:
    key, value = entry
    if edit.rename is not None:
        return text[: key.start_mark.index] + write_flow(edit.rename) + text[key.end_mark.index :]
    if edit.value is None:
        return _removed(text, node, entry)
    return text[: value.start_mark.index] + _gap(text, value) + write_flow(edit.value) + text[_end(value) :]


def _gap(text: str, node: Any) -> str:
    """Return the space that a value needs after its colon; a block begins on the next line."""
    before = text[: node.start_mark.index]
    return " " if before.endswith(":") else ""


def _removed(text: str, node: Any, entry: tuple[Any, Any]) -> str:
    key, value = entry
    first, last = key.start_mark.index, max(_end(value), key.end_mark.index)
    if node.flow_style:
        rest = re.match(r"\s*,\s*", text[last:])
        before = re.search(r",\s*$", text[:first])
        if rest:
            return text[:first] + text[last + rest.end() :]
        return text[: before.start() if before else first] + text[last:]
    start = text.rfind("\n", 0, first) + 1
    stop = text.find("\n", last)
    if len(node.value) == 1 and start < first and text[start:first].strip() == "" and node.start_mark.column:
        return text[:first] + "{}" + text[last:]  # the last entry of a block: its mapping stays, and is empty
    return text[:start] + text[stop + 1 if stop >= 0 else len(text) :]


def _inserted(text: str, node: Any, path: Sequence[str], value: JSON) -> str:
    if node.flow_style:
        last = node.end_mark.index - 1
        comma = ", " if node.value else ""
        added = f"{comma}{_key(path[0])}: {write_flow(_nested(path[1:], value))}"
        return text[:last].rstrip() + added + text[last:]
    column = node.value[0][0].start_mark.column
    final = max(_end(node.value[-1][1]), node.value[-1][0].end_mark.index)
    stop = text.find("\n", final)
    stop = len(text) if stop < 0 else stop
    return text[:stop] + "\n" + _entry(path, value, " " * column) + (text[stop:] or "\n")


def _entry(path: Sequence[str], value: JSON, indent: str) -> str:
    """Return a new entry: one level as lines, everything below in flow style."""
    rest = _nested(path[1:], value)
    if not isinstance(rest, Mapping) or not rest:
        return f"{indent}{_key(path[0])}: {write_flow(rest)}"
    rows = [f"{indent}  {_key(key)}: {write_flow(member)}" for key, member in rest.items()]
    return "\n".join([f"{indent}{_key(path[0])}:", *rows])


def _appended(text: str, node: Any, value: JSON) -> str:
    if node.flow_style:
        last = node.end_mark.index - 1
        return text[:last].rstrip() + (", " if node.value else "") + write_flow(value) + text[last:]
    final = _end(node.value[-1])
    stop = text.find("\n", final)
    stop = len(text) if stop < 0 else stop
    return f"{text[:stop]}\n{' ' * node.start_mark.column}- {write_flow(value)}{text[stop:] or chr(10)}"


def _nested(path: Sequence[str], value: JSON) -> JSON:
    for key in reversed(path):
        value = [value] if key == APPEND else {key: value}
    return value


def _compose(text: str) -> Any:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError("it is not YAML") from error
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ValueError("it is no mapping")
    return root


def _is_empty(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.start_mark.index == node.end_mark.index


def _end(node: Any) -> int:
    """Return the end of a node's text: PyYAML's end mark of a block is after the comments that follow it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return max(_end(last[1]), int(last[0].end_mark.index)) if isinstance(last, tuple) else _end(last)


def write_flow(value: JSON) -> str:
    """Write a value on one line, as a recipe reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))}: {write_flow(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_flow, value)) + "]"
    if isinstance(value, float):
        return re.sub(r"e([+-])0?(\d)$", r"e\1\2", f"{value:g}") if float(f"{value:g}") == value else repr(value)
    if isinstance(value, str):
        return _key(value)
    return json.dumps(value)


def _key(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else escape.json_text(text)
