# SPDX-License-Identifier: Apache-2.0
"""Order the statements of a body so that each has the values it needs; without such an order the rule is unsafe.

A variable gets its value alone in brackets after a known value, opposite a known value (`:=`, `=`), or in `some … in`.
Everything else needs values. The evaluator relies on this: it never meets a variable without a value where one is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from packager.policy.language.names import ROOTS, list_variables
from packager.policy.language.syntax import (
    Bind,
    Body,
    Call,
    Comprehension,
    Const,
    Every,
    Items,
    Members,
    Not,
    Ref,
    Rule,
    SomeIn,
    Statement,
    Term,
    Test,
    Var,
)
from packager.policy.language.values import RegoError, type_name

Known = frozenset[str]
_Order: TypeAlias = Callable[[Term, frozenset[str], frozenset[str]], tuple[Term, frozenset[str]]]


class _UnsafeError(Exception):
    def __init__(self, var: Var) -> None:
        super().__init__(var.name)
        self.var = var


def order_bodies(rule: Rule) -> Rule:
    """Return a rule whose bodies can be evaluated in order. Raises RegoError for a variable without a value."""
    try:
        start = frozenset(var.name for item in rule.args for var in list_variables(item))
        body, known = _body(rule.body, start, start)
        path = tuple(_term(item, known, known)[0] for item in rule.path)
        value, _ = _closed(rule.value, known)
        elses = []
        for other, lines in rule.elses:
            more, there = _body(lines, start, start)
            elses.append((_closed(other, there)[0], more))
    except _UnsafeError as unsafe:
        raise _refusal(unsafe.var) from None
    return replace(rule, path=path, value=value, body=body, elses=tuple(elses))


def _refusal(var: Var) -> RegoError:
    name = var.name.partition("#")[0]
    return RegoError(f"line {var.line}: variable `{name}` is unsafe: nothing gives it a value")


def _closed(term: Term, known: Known) -> tuple[Term, Known]:
    """Order a term that may take several values only by what is known already."""
    found, after = _term(term, known, known)
    return found, after


def _body(body: Body, known: Known, visible: Known) -> tuple[Body, Known]:
    """Order the statements of a body; `visible` are variables around it, bound or not. Raises _UnsafeError."""
    around = visible | frozenset(var.name for line in body for var in list_variables(line, nested=False))
    left, found = list(body), list[Statement]()
    while left:
        unsafe: _UnsafeError | None = None
        for position, line in enumerate(left):
            try:
                ready, known = _statement(line, known, around)
            except _UnsafeError as error:
                unsafe = unsafe or error
                continue
            found.append(ready)
            del left[position]
            unsafe = None
            break
        if unsafe is not None:
            raise unsafe
    return tuple(found), known


def _statement(line: Statement, known: Known, visible: Known) -> tuple[Statement, Known]:
    replaced = tuple((path, _only(term, known, visible)) for path, term in line.replaced)
    what, after = _what(line, known, visible)
    return Statement(what, line.line, replaced), after


def _what(line: Statement, known: Known, visible: Known) -> tuple[Test | Bind | SomeIn | Every | Not, Known]:
    match line.what:
        case Test(term):
            found, after = _term(term, known, visible)
            return Test(found), after
        case Bind(pattern, value, declares):
            try:
                return _bound(pattern, value, known, visible, declares)
            except _UnsafeError:
                if declares:
                    raise
                return _bound(value, pattern, known, visible, declares)
        case SomeIn():
            return _some(line.what, known, visible)
        case Every(name, value, domain, body):
            position, after = _term(domain, known, visible)
            own = frozenset(var.name for item in (name, value) if item is not None for var in list_variables(item))
            inner, _ = _body(body, known | own, visible | own)
            return Every(name, value, position, inner), after
        case Not(inner_line):
            return _not(inner_line, known, visible), known
    raise AssertionError("declarations are gone by now")


def _some(what: SomeIn, known: Known, visible: Known) -> tuple[SomeIn, Known]:
    position, known = _term(what.domain, known, visible)
    named = None
    if what.name is not None:
        named, known = _pattern(what.name, known, visible)
    shown, known = _pattern(what.value, known, visible)
    return SomeIn(named, shown, position), known


def _not(line: Statement, known: Known, visible: Known) -> Not:
    ready, after = _statement(line, known, visible)
    for var in list_variables(line, nested=False):
        if var.name in after - known and not _local(line, var):
            raise _UnsafeError(var)
    return Not(ready)


def _local(line: Statement, var: Var) -> bool:
    """Return whether a statement under `not` declares a variable itself."""
    if isinstance(line.what, SomeIn):
        declared = [item for item in (line.what.name, line.what.value) if item is not None]
        return var.name in {other.name for item in declared for other in list_variables(item)}
    return False


def _bound(pattern: Term, value: Term, known: Known, visible: Known, declares: bool) -> tuple[Bind, Known]:
    found, after = _term(value, known, visible)
    shown, after = _pattern(pattern, after, visible)
    _check_types(pattern, value, 0)
    return Bind(shown, found, declares), after


def _only(term: Term, known: Known, visible: Known) -> Term:
    return _term(term, known, visible)[0]


def _check_types(a: Term, b: Term, line: int) -> None:
    """Raise RegoError for constants that can never be equal, as OPA's type checker does."""
    left, right = _type(a), _type(b)
    if isinstance(a, Items) and isinstance(b, Items) and a.kind == b.kind == "array" and len(a.items) != len(b.items):
        raise RegoError(
            f"{f'line {line}: ' if line else ''}arrays of {len(a.items)} and {len(b.items)} are never equal"
        )
    if left and right and left != right:
        raise RegoError(f"{f'line {line}: ' if line else ''}a {left} and a {right} are never equal")


def _type(term: Term) -> str | None:
    """Return the type of a term whose form determines it."""
    match term:
        case Const(value):
            return type_name(value)
        case Items(kind):
            return kind
        case Members():
            return "object"
        case Comprehension(kind):
            return kind
    return None


def _pattern(term: Term, known: Known, visible: Known) -> tuple[Term, Known]:
    """Order a term opposite a known value: its variables get their values from it."""
    match term:
        case Var(name):
            return term, known | {name}
        case Items("array", items):
            found, known = _each(items, known, visible, _pattern)
            return Items("array", found), known
        case Members(pairs):
            names, known = _each((name for name, _ in pairs), known, visible, _term)
            values, known = _each((item for _, item in pairs), known, visible, _pattern)
            return Members(tuple(zip(names, values, strict=True))), known
    return _term(term, known, visible)


def _each(terms: Iterable[Term], known: Known, visible: Known, how: _Order) -> tuple[tuple[Term, ...], Known]:
    found = []
    for item in terms:
        ready, known = how(item, known, visible)
        found.append(ready)
    return tuple(found), known


def _term(term: Term, known: Known, visible: Known) -> tuple[Term, Known]:
    """Order a term that needs its values, except variables alone in brackets, which it binds. Raises _UnsafeError."""
    match term:
        case Const():
            return term, known
        case Var(name):
            if name not in known and name not in ROOTS:
                raise _UnsafeError(term)
            return term, known
        case Ref(head, path, line):
            start, known = _term(head, known, visible)
            found, known = _each(path, known, visible, _place)
            return Ref(start, found, line), known
        case Call(name, args, line):
            if name == "equal":
                _check_types(args[0], args[1], line)
            ready_args, known = _each(args, known, visible, _term)
            return Call(name, ready_args, line), known
        case Items(kind, items):
            ready_items, known = _each(items, known, visible, _term)
            return Items(kind, ready_items), known
        case Members(pairs):
            flat, known = _each((item for pair in pairs for item in pair), known, visible, _term)
            return Members(tuple(zip(flat[::2], flat[1::2], strict=True))), known
        case Comprehension():
            return _comprehension(term, known, visible), known


def _place(term: Term, known: Known, visible: Known) -> tuple[Term, Known]:
    return (term, known | {term.name}) if isinstance(term, Var) else _term(term, known, visible)


def _comprehension(term: Comprehension, known: Known, visible: Known) -> Comprehension:
    """Order a comprehension: a variable it shares with the body around it needs a value there."""
    for var in (
        *list_variables(term.body),
        *(list_variables(term.name) if term.name else ()),
        *list_variables(term.value),
    ):
        if var.name in visible and var.name not in known:
            raise _UnsafeError(var)
    lines, there = _body(term.body, known, visible)
    named = None
    if term.name is not None:
        named, there = _term(term.name, there, visible)
    shown, _ = _term(term.value, there, visible)
    return Comprehension(term.kind, named, shown, lines, term.line)
