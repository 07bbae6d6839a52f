# SPDX-License-Identifier: Apache-2.0
"""What a program in Rego consists of once it is read: terms, statements and rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from packager.policy.language.values import Value


@dataclass(frozen=True, slots=True)
class Const:
    """A scalar that is written down."""

    value: Value


@dataclass(frozen=True, slots=True)
class Var:
    """A variable, or a name that turns out to be one of a rule; `_` is another one each time."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Ref:
    """A place in something: `head.name`, `head[term]`."""

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
    """All values that a term takes where a body holds; `name` is that of a member, in objects."""

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
    """One line of a body; `replaced` are the places of the input that `with` replaces for it."""

    what: Test | Bind | Some | SomeIn | Every | Not
    line: int
    replaced: tuple[tuple[tuple[str, ...], Term], ...] = ()


Body: TypeAlias = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One definition: where its value stands, what that is, and when. `elses` follow where the body does not hold."""

    path: tuple[Term, ...]
    kind: Literal["value", "contains", "function", "default"]
    args: tuple[Term, ...]
    value: Term
    body: Body
    elses: tuple[tuple[Term, Body], ...]
    line: int

    @property
    def name(self) -> str:
        """The name under which it stands in its package."""
        first = self.path[0]
        return str(first.value) if isinstance(first, Const) else ""


@dataclass(frozen=True, slots=True)
class Module:
    """A file: its package, other names for places, and its rules."""

    package: tuple[str, ...]
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    rules: tuple[Rule, ...]
