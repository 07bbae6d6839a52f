# SPDX-License-Identifier: Apache-2.0
"""The document that the definitions of one name make together: a value, a set, or an object of such documents."""

from __future__ import annotations

from collections.abc import Sequence

from packager.policy.language.syntax import Const, Rule
from packager.policy.language.values import UNDEFINED, Key, Obj, RegoError, Set, Undefined, Value, make_key


class Document:
    """The document that the definitions of one name make together."""

    def __init__(self) -> None:
        self._leaf: Value | Undefined = UNDEFINED
        self._set: Set | None = None
        self._members: dict[Key, tuple[Value, Document]] | None = None

    def prepare(self, rule: Rule) -> None:
        """Create what exists even where no definition holds: a set, or the objects on the path to a member."""
        node = self
        for item in rule.path[1:]:
            node._members = node._members or {}
            if not isinstance(item, Const) or (item is rule.path[-1] and rule.kind != "contains"):
                return
            node = node._members.setdefault(make_key(item.value), (item.value, Document()))[1]
        if rule.kind == "contains":
            node._set = node._set or Set()

    def put(self, path: Sequence[Value], value: Value, rule: Rule) -> None:
        node = self
        for name in path:
            node._members = {} if node._members is None else node._members
            node = node._members.setdefault(make_key(name), (name, Document()))[1]
        if rule.kind == "contains":
            node._set = Set() if node._set is None else node._set
            node._set.entries[make_key(value)] = value
        elif isinstance(node._leaf, Undefined):
            node._leaf = value
        elif make_key(node._leaf) != make_key(value):
            raise RegoError(f"line {rule.line}: rule `{rule.name}` has two values")
        if sum((node._set is not None, node._members is not None, not isinstance(node._leaf, Undefined))) > 1:
            raise RegoError(f"line {rule.line}: rule `{rule.name}` is defined in two ways")

    def value(self) -> Value | Undefined:
        if self._members is not None:
            found = ((name, node.value()) for name, node in self._members.values())
            return Obj((name, value) for name, value in found if not isinstance(value, Undefined))
        return self._leaf if self._set is None else self._set
