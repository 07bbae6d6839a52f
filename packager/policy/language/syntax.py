# SPDX-License-Identifier: Apache-2.0
"""The syntax tree of a program in Rego: terms, statements and rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from packager.policy.language.values import Value


@dataclass(frozen=True, slots=True)
class Const:
    """A scalar constant."""

    value: Value


@dataclass(frozen=True, slots=True)
class Var:
    """A variable, or a name that is resolved to a rule; each `_` is another variable."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference into a value: `head.name`, `head[term]`."""

    head: Term
    path: tuple[Term, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a built-in, an operator or a function, by its dotted name."""

    name: str
    args: tuple[Term, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Items:
    """An array or a set of terms."""

    kind: Literal["array", "set"]
    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """An object of terms."""

    pairs: tuple[tuple[Term, Term], ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """All values of a term for which a body holds; in objects, `name` is the key."""

    kind: Literal["array", "set", "object"]
    name: Term | None
    value: Term
    body: tuple[Statement, ...]
    line: int


Term: TypeAlias = Const | Var | Ref | Call | Items | Members | Comprehension


@dataclass(frozen=True, slots=True)
class Test:
    """A term that must be defined and not false."""

    term: Term


@dataclass(frozen=True, slots=True)
class Bind:
    """`pattern := value` (`declares`), or `pattern = value`."""

    pattern: Term
    value: Term
    declares: bool


@dataclass(frozen=True, slots=True)
class Some:
    """`some x, y`: names that are variables of this body."""

    names: tuple[Var, ...]


@dataclass(frozen=True, slots=True)
class SomeIn:
    """`some name, value in domain`."""

    name: Term | None
    value: Term
    domain: Term


@dataclass(frozen=True, slots=True)
class Every:
    """`every name, value in domain { body }`."""

    name: Term | None
    value: Term
    domain: Term
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """A statement that must not hold."""

    inner: Statement


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of a body; `replaced` are the paths of the input that `with` replaces for it."""

    what: Test | Bind | Some | SomeIn | Every | Not
    line: int
    replaced: tuple[tuple[tuple[str, ...], Term], ...] = ()


Body: TypeAlias = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One definition: the path of its value, the value, and its body. `elses` follow where the body does not hold."""

    path: tuple[Term, ...]
    kind: Literal["value", "contains", "function", "default"]
    args: tuple[Term, ...]
    value: Term
    body: Body
    elses: tuple[tuple[Term, Body], ...]
    line: int

    @property
    def name(self) -> str:
        """The name of the rule in its package."""
        first = self.path[0]
        return str(first.value) if isinstance(first, Const) else ""


@dataclass(frozen=True, slots=True)
class Module:
    """A file: its package, its imports, and its rules."""

    package: tuple[str, ...]
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    rules: tuple[Rule, ...]
